"""draft-saa-ali-quic for aioquic: a client that follows its server, and a server with two addresses.

Written from the draft, and from RFC 9000 where the draft refers to it; it shares no code with the crate. aioquic is changed by
subclassing alone. What the draft leaves open is as the crate's documentation says: the code points, and that the sequence
number is that of the connection ID.
"""

import asyncio
import ipaddress
import os
import socket

import aioquic.asyncio.client
import aioquic.asyncio.server
from aioquic import tls
from aioquic.asyncio.server import QuicServer
from aioquic.buffer import Buffer, size_uint_var
from aioquic.quic import events
from aioquic.quic.connection import (
    QuicConnection,
    QuicConnectionError,
    QuicConnectionId,
    QuicNetworkPath,
)
from aioquic.quic.packet import QuicErrorCode

SERVER_ALTERNATE_ADDRESS = 0x5AA00A
ENABLE_SERVER_MIGRATION = 0x5AA00B


class FollowingClient(QuicConnection):
    """Offers server migration, and validates every address that the server advertises."""

    def __init__(self, **named):
        super().__init__(**named)
        handlers = self._QuicConnection__frame_handlers
        handlers[SERVER_ALTERNATE_ADDRESS] = (self._handle_alternate, {tls.Epoch.ONE_RTT})
        self.alternates = {}

    def _serialize_transport_parameters(self):
        buffer = Buffer(capacity=16)
        buffer.push_uint_var(ENABLE_SERVER_MIGRATION)
        buffer.push_uint_var(0)
        return super()._serialize_transport_parameters() + buffer.data

    def _handle_alternate(self, context, frame_type, buf):
        sequence = buf.pull_uint_var()
        v4 = (str(ipaddress.IPv4Address(buf.pull_bytes(4))), buf.pull_uint16())
        v6 = (str(ipaddress.IPv6Address(buf.pull_bytes(16))), buf.pull_uint16())
        cid = buf.pull_bytes(buf.pull_uint8())
        token = buf.pull_bytes(16)
        if not 1 <= len(cid) <= 20:
            raise QuicConnectionError(
                QuicErrorCode.FRAME_ENCODING_ERROR, frame_type, "connection ID of a wrong length"
            )
        # A repetition.
        if sequence in self._peer_cid_sequence_numbers:
            return
        self._peer_cid_sequence_numbers.add(sequence)
        # The family of the current path.
        current = self._network_paths[0].addr
        mapped = ipaddress.ip_address(current[0]).ipv4_mapped
        host, port = v6 if mapped is None else ("::ffff:" + v4[0], v4[1])
        self.alternates[sequence] = (host.removeprefix("::ffff:"), port)
        path = QuicNetworkPath((host, port, 0, 0))
        path.peer_cid = QuicConnectionId(
            cid=cid, sequence_number=sequence, stateless_reset_token=token
        )
        # An earlier path to the same address is another path: it has another connection ID.
        self._network_paths = [
            known for known in self._network_paths if known.addr != path.addr or known.addr == current
        ]
        self._add_network_path(path)

    @property
    def server_address(self):
        host, port = self._network_paths[0].addr[:2]
        return host.removeprefix("::ffff:"), port


class AdvertisingServer(QuicConnection):
    """Keeps room for one connection ID more, and advertises an address with it."""

    def __init__(self, **named):
        super().__init__(**named)
        self.offered = False

    def _parse_transport_parameters(self, data, from_session_ticket=False):
        buf = Buffer(data=data)
        while not from_session_ticket and not buf.eof():
            parameter = buf.pull_uint_var()
            value = buf.pull_bytes(buf.pull_uint_var())
            if parameter == ENABLE_SERVER_MIGRATION:
                if value:
                    raise QuicConnectionError(
                        QuicErrorCode.TRANSPORT_PARAMETER_ERROR, None, "enable_server_migration has a value"
                    )
                self.offered = True
        super()._parse_transport_parameters(data, from_session_ticket)

    def _replenish_connection_ids(self):
        limit = self._remote_active_connection_id_limit
        self._remote_active_connection_id_limit = limit - 1 if self.offered else limit
        super()._replenish_connection_ids()
        self._remote_active_connection_id_limit = limit

    def advertise(self, host, port):
        """Sends the frame with the next packet, again when that is lost. Answers with the sequence number."""
        assert self.offered, "the client did not offer server migration"
        spare = QuicConnectionId(
            cid=os.urandom(self._configuration.connection_id_length),
            sequence_number=self._host_cid_seq,
            stateless_reset_token=os.urandom(16),
        )
        spare.alternate = (host, port)
        self._host_cid_seq += 1
        self._host_cids.append(spare)
        return spare.sequence_number

    def _write_new_connection_id_frame(self, builder, connection_id):
        alternate = getattr(connection_id, "alternate", None)
        if alternate is None:
            super()._write_new_connection_id_frame(builder, connection_id)
            return
        cid, host = connection_id.cid, ipaddress.ip_address(alternate[0])
        v4 = (host.packed, alternate[1]) if host.version == 4 else (bytes(4), 0)
        v6 = (host.packed, alternate[1]) if host.version == 6 else (bytes(16), 0)
        sequence = connection_id.sequence_number
        length = size_uint_var(SERVER_ALTERNATE_ADDRESS) + size_uint_var(sequence) + 6 + 18 + 1
        buf = builder.start_frame(
            SERVER_ALTERNATE_ADDRESS,
            capacity=length + len(cid) + 16,
            handler=self._on_new_connection_id_delivery,
            handler_args=(connection_id,),
        )
        buf.push_uint_var(sequence)
        for address, port in (v4, v6):
            buf.push_bytes(address)
            buf.push_uint16(port)
        buf.push_uint8(len(cid))
        buf.push_bytes(cid)
        buf.push_bytes(connection_id.stateless_reset_token)
        connection_id.was_sent = True
        self._events.append(events.ConnectionIdIssued(connection_id=cid))


class Addresses:
    """Several UDP sockets as one transport. An address of a client ends with the number of the socket that it came to."""

    def __init__(self):
        self.transports = []

    def sendto(self, data, address):
        self.transports[address[-1]].sendto(data, address[:-1])

    def close(self):
        for transport in self.transports:
            transport.close()


class Door(asyncio.DatagramProtocol):
    """One of them."""

    def __init__(self, server, number):
        self.server, self.number = server, number

    def datagram_received(self, data, addr):
        self.server.datagram_received(data, (*addr, self.number))


async def listen(hosts, **named):
    """A server with an address on each of the hosts; answers with it and with its addresses."""
    server, addresses = QuicServer(**named), Addresses()
    server.connection_made(addresses)
    bound = []
    for number, host in enumerate(hosts):
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        transport, _ = await loop.create_datagram_endpoint(
            lambda number=number: Door(server, number), local_addr=(host, 0), family=family
        )
        addresses.transports.append(transport)
        bound.append(transport.get_extra_info("sockname")[:2])
    return server, bound


def install():
    """Has aioquic make connections that know the draft."""
    aioquic.asyncio.client.QuicConnection = FollowingClient
    aioquic.asyncio.server.QuicConnection = AdvertisingServer
