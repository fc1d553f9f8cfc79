"""A QUIC peer that shares no code with quinn: aioquic as client and as server.

    peer.py server --certificate FILE --key FILE [--retry]
    peer.py client --port PORT --host HOST --authority FILE SCENARIO

The server prints its port and answers every stream with what came on it, until its standard input ends. With one byte on
it, it updates its keys. The client prints what it has seen as one JSON object. It never tells more than what aioquic says.
"""

import argparse
import asyncio
import json
import os
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration

ALPN = ["migration-test"]
BYTES = 200_000


class Tickets:
    """Session tickets in memory; each is taken once."""

    def __init__(self):
        self.by_label = {}

    def add(self, ticket):
        self.by_label[ticket.ticket] = ticket

    def take(self, label):
        return self.by_label.pop(label, None)


def answer(reader, writer):
    async def work():
        writer.write(await reader.read())
        writer.write_eof()

    asyncio.ensure_future(work())


async def server(options):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.load_cert_chain(options.certificate, options.key)
    tickets, protocols = Tickets(), []

    class Protocol(QuicConnectionProtocol):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            protocols.append(self)

    listening = await serve(
        "127.0.0.2",
        0,
        configuration=configuration,
        create_protocol=Protocol,
        session_ticket_fetcher=tickets.take,
        session_ticket_handler=tickets.add,
        retry=options.retry,
        stream_handler=answer,
    )
    print(listening._transport.get_extra_info("sockname")[1], flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, os.read, 0, 1):
        protocols[-1].request_key_update()
        print("updated", flush=True)
    listening.close()


async def echo(protocol, length=BYTES):
    data = os.urandom(length)
    reader, writer = await protocol.create_stream()
    writer.write(data)
    writer.write_eof()
    return await reader.read() == data


async def client(options):
    def configuration():
        made = QuicConfiguration(is_client=True, alpn_protocols=ALPN, server_name="localhost")
        made.load_verify_locations(options.authority)
        return made

    tickets = []

    def connected(settings, **named):
        return connect(
            options.host,
            options.port,
            configuration=settings,
            session_ticket_handler=tickets.append,
            **named,
        )

    seen = {}
    async with connected(configuration()) as protocol:
        seen["echo"] = await echo(protocol)
        if options.scenario == "key-update":
            protocol.request_key_update()
            seen["after"] = await echo(protocol)
            await protocol.ping()
        elif options.scenario == "rebind":
            loop = asyncio.get_running_loop()
            old = protocol._transport
            for _ in range(3):
                await loop.create_datagram_endpoint(lambda: protocol, local_addr=("::", 0))
                seen["after"] = await echo(protocol)
            old.close()
    if options.scenario == "0-rtt":
        resumed = configuration()
        resumed.session_ticket = tickets[0]
        async with connected(resumed, wait_connected=False) as protocol:
            seen["after"] = await echo(protocol, 1000)
            seen["resumed"] = protocol._quic.tls.session_resumed
            seen["early"] = protocol._quic.tls.early_data_accepted
    print(json.dumps(seen))


def main():
    parser = argparse.ArgumentParser()
    sides = parser.add_subparsers(dest="side", required=True)
    one = sides.add_parser("server")
    one.add_argument("--certificate", required=True)
    one.add_argument("--key", required=True)
    one.add_argument("--retry", action="store_true")
    one = sides.add_parser("client")
    one.add_argument("--host", required=True)
    one.add_argument("--port", type=int, required=True)
    one.add_argument("--authority", required=True)
    one.add_argument("scenario", choices=["plain", "key-update", "rebind", "0-rtt"])
    options = parser.parse_args()
    asyncio.run(server(options) if options.side == "server" else client(options))


if __name__ == "__main__":
    sys.exit(main())
