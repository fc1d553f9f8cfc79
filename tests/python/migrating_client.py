"""A client that follows one migration: full handshake with A, token, resumption with B; prints a JSON report.

Source: design/protocol.md sections 3 to 5. It shares no code with the servers that it tests.
Exit status: 0 when everything held (with an adversary option: when B gave a TLS answer), 1 when something did
not, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import json
import os
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import options
from certificates import load_trust
from keys import GROUPS, SUITES
from messages import SERVER_HELLO, ServerHello
from migration import (
    MIGRATE_NOTIFY,
    MIGRATION_SUPPORT,
    MIGRATION_TOKEN,
    Keys,
    MigrationToken,
    move_kind,
    token_faults,
)
from records import ALERT, HANDSHAKE, ProtocolError, RecordLayer
from tls13 import (
    Alert,
    AlertReceived,
    ClientConfig,
    Closed,
    Connection,
    Data,
    HandshakeTruncated,
    Session,
    Ticket,
)
from wire import DecodeError

PREFIX_LENGTH = 64


class ClientError(Exception):
    """The run cannot go on; the text says why."""


@dataclass
class Leg:
    """What happened on one connection."""

    name: str
    address: options.Address
    handshake: str | None = None
    early_data_offered: bool = False
    early_data: bool | None = False
    hello_retry: bool = False
    suite: str | None = None
    group: str | None = None
    received: bytearray = field(default_factory=bytearray)
    tokens: int = 0
    alert: int | None = None
    end: str = "open"

    @property
    def answered(self) -> bool:
        """True when the server gave a TLS answer: a hello or an alert."""
        return self.handshake is not None or self.hello_retry or self.alert is not None

    def note_handshake(self, connection: Connection) -> None:
        """Take over what the handshake settled."""
        self.handshake = "resumed" if connection.resumed else "full"
        self.early_data = connection.early_data_accepted
        self.hello_retry = connection.hello_retry
        self.suite = connection.suite.name
        self.group = connection.group

    def report(self) -> dict:
        """The leg's part of the JSON report."""
        host, port = self.address
        return {
            "leg": self.name,
            "address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "handshake": self.handshake,
            "early_data_offered": self.early_data_offered,
            "early_data": self.early_data,
            "hello_retry": self.hello_retry,
            "suite": self.suite,
            "group": self.group,
            "received_bytes": len(self.received),
            "received_sha256": hashlib.sha256(self.received).hexdigest(),
            "received_prefix": self.received[:PREFIX_LENGTH].decode("utf-8", "replace"),
            "tokens": self.tokens,
            "alert": self.alert,
            "end": self.end,
        }


class Run:
    """One run of the program: its legs, the token and the faults found on the way."""

    def __init__(self, args: argparse.Namespace, sockets: ExitStack) -> None:
        self.args = args
        self.legs: list[Leg] = []
        self.faults: list[str] = []
        self.notified = False
        self.session: Session | None = None
        self.token: MigrationToken | None = None
        self.kind: str | None = None
        self._sockets = sockets
        self._trust = load_trust(args.ca)

    # --- connections

    def _open(self, address: options.Address) -> socket.socket:
        try:
            sock = socket.create_connection(address, self.args.timeout)
        except OSError as error:
            raise ClientError(f"cannot connect to {address[0]}:{address[1]}: {error}") from error
        return self._sockets.enter_context(sock)

    def _config(self, leg: str, **changes) -> ClientConfig:
        """What every ClientHello of this run offers, and the group options of this leg."""
        args = self.args
        groups = (args.group,) if args.group else ClientConfig.groups
        shares = groups[:1]
        if args.offer_group_first and args.retry_leg in (leg, "both"):
            shares = tuple(name for name in (args.offer_group_first,) if name in GROUPS)
            groups = shares + groups
        return ClientConfig(
            server_name=args.server_name,
            trust=self._trust,
            suites=(args.suite,) if args.suite else tuple(SUITES),
            groups=groups,
            share_groups=shares,
            hello_fragments=args.hello_fragments,
            informational_alerts=frozenset({MIGRATE_NOTIFY}),
            **changes,
        )

    def _new_leg(self, name: str, address: options.Address) -> Leg:
        leg = Leg(name, address)
        self.legs.append(leg)
        return leg

    # --- A

    def visit_source(self) -> None:
        """Full handshake with A, then wait for what the options ask for, then hand off."""
        address = self.args.connect
        leg = self._new_leg("a", address)
        sock = self._open(address)
        here = ipaddress.ip_address(sock.getpeername()[0])
        connection = Connection(self._config("a", extra={MIGRATION_SUPPORT: b""}))
        connection.handshake(sock)
        leg.note_handshake(connection)
        if self.args.send is not None:
            connection.write(self.args.send.encode() + b"\n")
        while missing := self._missing(leg):
            self._read_source(connection, leg, here, missing)
            if leg.end != "open":
                raise ClientError(f"{leg.end} on A before {missing}")
        # A stream is cut here and goes on at B; a connection move leaves it to A to finish what it does.
        if not self.args.drain or self.kind == "stream":
            connection.close_write()
        while self.args.drain and leg.end == "open":
            self._read_source(connection, leg, here, "the end of A's data")
        if leg.end == "truncated":
            self.faults.append("A closed without close_notify")

    def _missing(self, leg: Leg) -> str:
        """What still has to arrive on A; empty when nothing."""
        if self.token is None:
            return "a good migration token"
        if self.args.until_notify and not self.notified:
            return "migrate_notify"
        return "enough application bytes" if len(leg.received) < self.args.await_bytes else ""

    def _read_source(
        self, connection: Connection, leg: Leg, here: ipaddress.IPv4Address | ipaddress.IPv6Address, wanted: str
    ) -> None:
        """Handle one event on A."""
        try:
            event = connection.read_event()
        except TimeoutError as error:
            raise ClientError(f"A was silent for {self.args.timeout} s before {wanted}") from error
        note_event(leg, event)
        if isinstance(event, Ticket) and MIGRATION_TOKEN in event.session.extensions:
            self._judge_token(event.session, here)
        elif isinstance(event, Alert):
            self.notified = True

    def _judge_token(self, session: Session, here: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        """Keep a good token; drop a bad one and report it."""
        try:
            token = MigrationToken.decode(session.extensions[MIGRATION_TOKEN])
            kind = move_kind(session)
        except DecodeError as error:
            self.faults.append(str(error))
            return
        if kind == "checkpoint":
            return  # This client follows, and does not recover.
        faults = token_faults(token, session, here)
        if faults:
            self.faults.append(f"token dropped: {', '.join(faults)}")
        else:
            self.session, self.token, self.kind = session, token, kind

    # --- B

    def visit_target(self, name: str) -> None:
        """One connection to B with ticket and token, changed as the adversary options say."""
        address = self.args.connect_b or (str(self.token.address), self.token.port)
        sock = self._open(address)
        connection = Connection(self._target_config())
        if self.args.raw_hello_copy and name == "b":
            self._send_copy(address, b"".join(connection.first_flight))
        leg = self._new_leg(name, address)
        leg.early_data_offered = connection.early_data_offered
        try:
            connection.handshake(sock)
            leg.note_handshake(connection)
            self._exchange(connection, leg)
        except AlertReceived as alert:
            leg.alert, leg.end = alert.description, "alert"
        except HandshakeTruncated:
            leg.end = "truncated"
        except TimeoutError:
            leg.end = "timeout"

    def _exchange(self, connection: Connection, leg: Leg) -> None:
        """Send the line again if 0-RTT did not carry it, then read B to its end."""
        if not connection.early_data_accepted and self._line():
            connection.write(self._line())
        if self.args.finish:
            connection.close_write()
        while leg.end == "open":
            note_event(leg, connection.read_event())

    def _line(self) -> bytes:
        text = self.args.send_early
        return b"" if text is None else text.encode() + b"\n"

    def _target_config(self) -> ClientConfig:
        session = self.session
        if self.args.corrupt == "ticket":
            session = replace(session, ticket=flip(session.ticket, len(session.ticket) // 2))
        extra = {MIGRATION_SUPPORT: b""}
        if not self.args.no_token:
            extra[MIGRATION_TOKEN] = self._token_bytes()
        return self._config(
            "b",
            extra=extra,
            session=None if self.args.no_psk else session,
            early_data=self._line(),
            corrupt_binder=self.args.corrupt == "binder",
        )

    def _token_bytes(self) -> bytes:
        """The token as issued, or as the adversary options change it."""
        data = self.session.extensions[MIGRATION_TOKEN]
        if self.args.forge:
            data = Keys.of(self.session).sign(forged(self.token, *self.args.forge)).encode()
        match self.args.corrupt:
            case "token-signature":
                return flip(data, -1)
            case "token-truncate":
                return data[:-1]
            case "token-trailing":
                return data + b"\0"
        return data

    def _send_copy(self, address: options.Address, flight: bytes) -> None:
        """Send `flight` on a connection of its own and note how the server answers its hello."""
        leg = self._new_leg("copy", address)
        leg.early_data = None
        records = RecordLayer(self._open(address))
        records.send_bytes(flight)
        try:
            record = records.receive()
        except TimeoutError:
            leg.end = "timeout"
            return
        note_hello_answer(leg, record)

    # --- verdict

    def report(self) -> dict:
        """The JSON report."""
        return {
            "legs": [leg.report() for leg in self.legs],
            "token": self._token_report(),
            "notified": self.notified,
            "faults": self.faults,
        }

    def _token_report(self) -> dict | None:
        if self.token is None:
            return None
        keys = Keys.of(self.session)
        return {
            "target": self.token.target,
            "kind": self.kind,
            "session_id": self.token.session_id.hex(),
            "expiry": self.token.expiry,
            "nonce": self.token.nonce.hex(),
            "signature_valid": keys.signature_valid(self.token),
            "session_id_valid": keys.session_id_valid(self.token),
        }

    def judge_target(self) -> None:
        """Without adversary options: B must have resumed the session and closed properly."""
        leg = self.legs[-1]
        if leg.handshake != "resumed":
            self.faults.append(f"B did not resume the session (handshake {leg.handshake}, alert {leg.alert})")
        if leg.end != "close_notify":
            self.faults.append(f"B's data ended with {leg.end}, not close_notify")


def note_event(leg: Leg, event: Data | Ticket | Alert | Closed) -> None:
    """Add application data, a token or the end of data to the leg."""
    if isinstance(event, Data):
        leg.received += event.content
    elif isinstance(event, Ticket):
        leg.tokens += MIGRATION_TOKEN in event.session.extensions
    elif isinstance(event, Closed):
        leg.end = "truncated" if event.truncated else "close_notify"


def note_hello_answer(leg: Leg, record: tuple[int, bytes] | None) -> None:
    """Read the first record that answers a copied hello; its sender could not read further either."""
    if record is None:
        leg.end = "truncated"
    elif record[0] == ALERT:
        leg.alert, leg.end = record[1][-1], "alert"
    elif record[0] == HANDSHAKE and record[1][0] == SERVER_HELLO:
        length = 4 + int.from_bytes(record[1][1:4], "big")
        hello = ServerHello.decode(record[1][:length])
        leg.hello_retry = hello.is_retry
        if not hello.is_retry:
            leg.handshake = "resumed" if hello.accepts_psk else "full"


def forged(token: MigrationToken, what: str, value: str) -> MigrationToken:
    """`token` with one field changed; the signature still has to be made."""
    if what == "target":
        host, port = options.address(value)
        return replace(token, address=ipaddress.ip_address(host), port=port)
    if what == "expiry":
        return replace(token, expiry=int(time.time()) + int(value))
    return replace(token, nonce=os.urandom(len(token.nonce)))


def flip(data: bytes, index: int) -> bytes:
    """`data` with one bit of the byte at `index` inverted."""
    changed = bytearray(data)
    changed[index] ^= 1
    return bytes(changed)


def follow(run: Run) -> None:
    """The whole run: A, B, and B again for a replay."""
    run.visit_source()
    run.visit_target("b")
    if run.args.replay:
        if run.legs[-1].handshake != "resumed":
            raise ClientError("nothing to replay: B did not resume the session the first time")
        run.visit_target("replay")
    if not options.is_adversary(run.args):
        run.judge_target()
    elif silent := [leg for leg in run.legs if not leg.answered]:
        raise ClientError(f"B gave no TLS answer ({silent[0].end} on leg {silent[0].name})")


def main(argv: list[str] | None = None) -> int:
    """Run the program; the return value is its exit status."""
    args = options.parse(argv)
    with ExitStack() as sockets:
        try:
            run = Run(args, sockets)
        except (OSError, ValueError) as error:
            print(f"migrating_client: cannot read {args.ca}: {error}", file=sys.stderr)
            return 1
        try:
            follow(run)
        except ClientError as error:
            run.faults.append(str(error))
        except (ProtocolError, AlertReceived, HandshakeTruncated, OSError) as error:
            run.faults.append(f"leg {run.legs[-1].name}: {error}")
        print(json.dumps(run.report(), indent=None if args.json else 2))
    if run.faults:
        print(f"migrating_client: {'; '.join(run.faults)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
