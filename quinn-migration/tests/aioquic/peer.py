"""A QUIC peer that shares no code with quinn: aioquic as client and as server.

    peer.py server --certificate FILE --key FILE [--retry]
    peer.py client --port PORT --host HOST --authority FILE SCENARIO
    peer.py moving-server --certificate FILE --key FILE

The server prints its port and answers every stream with what came on it, until its standard input ends. With one byte on
it, it updates its keys. The client prints what it has seen as one JSON object. It never tells more than what aioquic says.

The client's scenario `follow` and the moving server know draft-saa-ali-quic (draft.py). The moving server prints its ports on
127.0.0.2 and 127.0.0.3; an `m` on its standard input makes it advertise the address that its client is not on, and a `w`
makes it print the number of the address that its client is on.
"""

import argparse
import asyncio
import json
import os
import sys

from aioquic import tls
from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration

import draft

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


async def update_keys(protocol):
    """Not before a packet of this key phase is acknowledged (RFC 9001 section 6.1), which aioquic leaves to who asks.

    quinn updates its keys of itself after 10 to 1000 packets. An update on top of that, which it does not know to be one, would
    leave each end with keys that the other has not. Nor while a client waits for the answer to a challenge: aioquic challenges
    once, and cannot read what is under way with the former keys.
    """
    connection = protocol._quic
    keys = connection._cryptos[tls.Epoch.ONE_RTT]

    def validates():
        paths = connection._network_paths if connection._is_client else []
        return any(path.local_challenge_sent and not path.is_validated for path in paths)

    acknowledged = None
    while acknowledged != keys.key_phase or validates():
        acknowledged = keys.key_phase
        await protocol.ping()
    protocol.request_key_update()


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
        await update_keys(protocols[-1])
        print("updated", flush=True)
    listening.close()


async def moving_server(options):
    draft.install()
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.load_cert_chain(options.certificate, options.key)
    protocols = []

    class Protocol(QuicConnectionProtocol):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            protocols.append(self)

    listening, bound = await draft.listen(
        ["127.0.0.2", "127.0.0.3"],
        configuration=configuration,
        create_protocol=Protocol,
        stream_handler=answer,
    )
    print(*(port for _, port in bound), flush=True)
    loop = asyncio.get_running_loop()
    while command := await loop.run_in_executor(None, os.read, 0, 1):
        connection = protocols[-1]._quic
        on = connection._network_paths[0].addr[-1]
        if command == b"m":
            print(connection.advertise(*bound[1 - on]), flush=True)
            protocols[-1].transmit()
        elif command == b"u":
            await update_keys(protocols[-1])
            print("updated", flush=True)
        else:
            print(on, flush=True)
    listening.close()


async def follow(protocol, first, moves):
    """Goes on until the connection has moved so often; tells where it was. It began at `first`."""
    connection, addresses = protocol._quic, [first]
    while len(addresses) <= moves:
        assert await echo(protocol, 5000)
        here = "%s:%d" % connection.server_address
        if addresses[-1:] != [here]:
            addresses.append(here)
            if len(addresses) == 2:
                await update_keys(protocol)
    return {"addresses": addresses, "echo": await echo(protocol), "frames": len(connection.alternates)}


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
    if options.scenario == "follow":
        draft.install()
    async with connected(configuration()) as protocol:
        seen["echo"] = await echo(protocol)
        if options.scenario == "follow":
            first = f"{options.host}:{options.port}"
            seen = await follow(protocol, first, options.moves)
        if options.scenario == "key-update":
            await update_keys(protocol)
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
    one = sides.add_parser("moving-server")
    one.add_argument("--certificate", required=True)
    one.add_argument("--key", required=True)
    one = sides.add_parser("client")
    one.add_argument("--moves", type=int, default=0)
    one.add_argument("--host", required=True)
    one.add_argument("--port", type=int, required=True)
    one.add_argument("--authority", required=True)
    one.add_argument("scenario", choices=["plain", "key-update", "rebind", "0-rtt", "follow"])
    options = parser.parse_args()
    sides = {"server": server, "moving-server": moving_server, "client": client}
    asyncio.run(sides[options.side](options))


if __name__ == "__main__":
    sys.exit(main())
