"""A scripted TLS 1.3 server with migration, to test `migrating_client.py` where no real server is at hand.

Source: RFC 8446 and design/protocol.md. It shares the client's codecs, so it proves the client's course of
action, not its agreement with other implementations. It never serves anything but these tests.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import messages as hs
from certificates import SIGNATURE_CONTEXT
from keys import (
    APPLICATION_DATA,
    GROUPS,
    SUITES_BY_CODE,
    BadRecord,
    KeySchedule,
    KeyShare,
    RecordCipher,
    Suite,
    Transcript,
    finished_mac,
    resumption_psk,
)
from migration import MIGRATE_NOTIFY, MIGRATION_STREAM, MIGRATION_SUPPORT, MIGRATION_TOKEN, Keys, MigrationToken
from peers import PATIENCE_S, Authority
from records import ALERT, HANDSHAKE, ProtocolError, RecordLayer
from tls13 import CLOSE_NOTIFY, DECRYPT_ERROR, FATAL, WARNING
from wire import Reader, uint, vector

GROUP = "x25519"
TOKEN_LIFE_S = 60


class Abort(Exception):
    """The handshake ends here, with an alert already sent or the client gone."""


@dataclass
class Realm:
    """What the servers of one service share."""

    authority: Authority = field(default_factory=Authority)
    tickets: dict[bytes, tuple[bytes, Suite, bytes]] = field(default_factory=dict)
    claimed: set[bytes] = field(default_factory=set)
    committed: set[bytes] = field(default_factory=set)
    early_lines: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.certificate, self.key = self.authority.issue()


@dataclass
class Script:
    """What a server does: `target` makes it issue tokens, `spoil` changes the encoded token, `tamper` changes each
    handshake message before it is sent, `mute` stops B's close_notify, `drain` issues another token and more data
    once the client has half-closed, `leave` ends A although the client has not, `stream` is the content of the tickets'
    migration_stream, if they have it."""

    target: tuple[str, int] | None = None
    notify: bool = False
    drain: bool = False
    leave: bool = False
    stream: bytes | None = None
    mute: bool = False
    max_early_data: int = 4096
    spoil: Callable[[bytes], bytes] = staticmethod(lambda token: token)
    tamper: Callable[[bytes], bytes] = staticmethod(lambda message: message)


class TrialCipher(RecordCipher):
    """Skips rejected 0-RTT records: what does not decrypt counts as empty until the first record that does."""

    _found = False

    def open(self, header: bytes, body: bytes) -> tuple[int, bytes]:
        try:
            opened = super().open(header, body)
        except BadRecord:
            if self._found:
                raise
            self._sequence = 0
            return APPLICATION_DATA, b""
        self._found = True
        return opened


class ScriptedServer:
    """Listens on a loopback address until the `with` block ends; each connection has a thread."""

    def __init__(self, realm: Realm, script: Script, address: str = "127.0.0.1") -> None:
        self.realm, self.script = realm, script
        self._listener = socket.create_server((address, 0))
        self.address = self._listener.getsockname()[:2]
        self._errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE_S)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                ServerSide(sock, self.realm, self.script).run()
            except (Abort, OSError, ProtocolError):
                return  # the client sees its connection end, which is what its test looks at
            except Exception as error:
                self._errors.append(error)
                raise

    def __enter__(self) -> "ScriptedServer":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise AssertionError(f"the scripted server failed: {self._errors[0]!r}")


class ServerSide:
    """One connection of a scripted server."""

    def __init__(self, sock: socket.socket, realm: Realm, script: Script) -> None:
        self._records = RecordLayer(sock)
        self._realm, self._script = realm, script
        self._transcript = Transcript()
        self._pending = b""
        self._psk: bytes | None = None
        self._nonce_key = b""
        self._early = False
        self._line = b""

    def run(self) -> None:
        """Handshake, then the script."""
        self._read_hello()
        if GROUPS[GROUP] not in self._shares:
            self._retry()
        self._admit()
        self._send_flight()
        self._read_client_flight()
        self._finish_script()

    # --- handshake

    def _message(self) -> bytes:
        """The next handshake message; 0-RTT data on the way is kept, or dropped when it was refused."""
        while len(self._pending) < 4 or len(self._pending) < 4 + int.from_bytes(self._pending[1:4], "big"):
            record = self._records.receive()
            if record is None or record[0] == ALERT:
                raise Abort
            if record[0] == HANDSHAKE:
                self._pending += record[1]
            elif self._early:
                self._line += record[1]
        end = 4 + int.from_bytes(self._pending[1:4], "big")
        raw, self._pending = self._pending[:end], self._pending[end:]
        return raw

    def _read_hello(self) -> None:
        self._hello = self._message()
        reader = Reader(self._hello[4:], "ClientHello")
        reader.take(2 + 32)
        self._session_id = reader.vector(1)
        codes = Reader(reader.vector(2), "suites")
        self._suite = SUITES_BY_CODE[codes.uint(2)]
        reader.vector(1)
        self._extensions = hs.read_extensions(reader, "ClientHello")
        shares = Reader(Reader(self._extensions[hs.KEY_SHARE], "key_share").vector(2), "key_share")
        self._shares = {}
        while shares.remaining:
            group = shares.uint(2)
            self._shares[group] = shares.vector(2)

    def _server_hello(self, random: bytes, extensions: hs.Extensions) -> bytes:
        body = uint(hs.TLS12, 2) + random + vector(self._session_id, 1) + uint(self._suite.code, 2) + b"\0"
        extensions = {hs.SUPPORTED_VERSIONS: uint(hs.TLS13, 2), **extensions}
        return hs.message(hs.SERVER_HELLO, body + hs.encode_extensions(extensions))

    def _retry(self) -> None:
        self._transcript.add(self._hello)
        self._transcript.fold(self._suite.hash_name)
        retry = self._server_hello(hs.RETRY_RANDOM, {hs.KEY_SHARE: uint(GROUPS[GROUP], 2)})
        self._send(retry)
        self._read_hello()

    def _admit(self) -> None:
        """protocol.md section 7 in short: the issued token byte for byte, the binder, then the nonce."""
        offer = self._extensions.get(hs.PRE_SHARED_KEY)
        token = self._extensions.get(MIGRATION_TOKEN)
        known = offer and self._realm.tickets.get(_first_identity(offer))
        if not known or known[2] != token or known[1].hash_name != self._suite.hash_name:
            return
        psk, suite, _ = known
        self._check_binder(psk, offer[-suite.hash_length :])
        if token in self._realm.committed:
            return
        self._psk = psk
        self._nonce_key = token
        self._early = hs.EARLY_DATA in self._extensions and token not in self._realm.claimed
        self._realm.claimed.add(token)

    def _check_binder(self, psk: bytes, binder: bytes) -> None:
        name = self._suite.hash_name
        covered = self._hello[: -len(binder) - 3]
        key = KeySchedule(name, psk).derive("res binder")
        if finished_mac(name, key, self._transcript.digest(name, covered)) != binder:
            self._records.send(ALERT, bytes([FATAL, DECRYPT_ERROR]))
            raise Abort

    def _send(self, raw: bytes) -> None:
        raw = self._script.tamper(raw)
        self._transcript.add(raw)
        self._records.send(HANDSHAKE, raw)

    def _digest(self) -> bytes:
        return self._transcript.digest(self._suite.hash_name)

    def _send_flight(self) -> None:
        """ServerHello to Finished, and the keys on the way."""
        self._transcript.add(self._hello)
        schedule = self._schedule = KeySchedule(self._suite.hash_name, self._psk)
        self._early_secret = schedule.derive("c e traffic", self._digest())
        share = KeyShare(GROUP)
        answer = {hs.KEY_SHARE: uint(GROUPS[GROUP], 2) + vector(share.public, 2)}
        if self._psk:
            answer[hs.PRE_SHARED_KEY] = uint(0, 2)
        self._send(self._server_hello(os.urandom(32), answer))
        schedule.add_shared_secret(share.shared_secret(self._shares[GROUPS[GROUP]]))
        self._client_secret = schedule.derive("c hs traffic", self._digest())
        server_secret = schedule.derive("s hs traffic", self._digest())
        self._records.writer = RecordCipher(self._suite, server_secret)
        extensions = {hs.EARLY_DATA: b""} if self._early else {}
        self._send(hs.message(hs.ENCRYPTED_EXTENSIONS, hs.encode_extensions(extensions)))
        if not self._psk:
            self._send_certificate()
        self._send(hs.message(hs.FINISHED, finished_mac(self._suite.hash_name, server_secret, self._digest())))
        schedule.add_nothing()
        self._application_secret = schedule.derive("c ap traffic", self._digest())
        self._records.writer = RecordCipher(self._suite, schedule.derive("s ap traffic", self._digest()))

    def _send_certificate(self) -> None:
        der = self._realm.certificate.public_bytes(serialization.Encoding.DER)
        self._send(hs.message(hs.CERTIFICATE, b"\0" + vector(vector(der, 3) + b"\0\0", 3)))
        signature = self._realm.key.sign(SIGNATURE_CONTEXT + self._digest(), ec.ECDSA(hashes.SHA256()))
        self._send(hs.message(hs.CERTIFICATE_VERIFY, b"\x04\x03" + vector(signature, 2)))

    def _read_client_flight(self) -> None:
        """0-RTT data and EndOfEarlyData when accepted, then Finished, then the nonce is spent."""
        if self._early:
            self._records.reader = RecordCipher(self._suite, self._early_secret)
            self._transcript.add(self._message())
            self._realm.early_lines.append(self._line)
            self._early = False
        self._records.reader = TrialCipher(self._suite, self._client_secret)
        expected = finished_mac(self._suite.hash_name, self._client_secret, self._digest())
        finished = self._message()
        if finished[4:] != expected:
            raise Abort
        self._transcript.add(finished)
        self._realm.committed.add(self._nonce_key)
        self._records.reader = RecordCipher(self._suite, self._application_secret)
        self._master = self._schedule.derive("res master", self._digest())

    # --- script

    def _finish_script(self) -> None:
        if self._script.target and self._extensions.get(MIGRATION_SUPPORT) == b"":
            self._serve_as_source()
        else:
            self._serve_as_target()

    def _serve_as_source(self) -> None:
        self._send_ticket(b"\0")
        if self._script.notify:
            self._records.send(APPLICATION_DATA, b"last words of A\n")
            self._records.send(ALERT, bytes([WARNING, MIGRATE_NOTIFY]))
        while not self._script.leave and (record := self._records.receive()) and record[0] != ALERT:
            self._records.send(APPLICATION_DATA, b"A heard " + record[1])
        if self._script.drain:
            self._records.send(APPLICATION_DATA, b"rest of A\n")
            self._send_ticket(b"\x01")
        self._records.send(ALERT, bytes([WARNING, CLOSE_NOTIFY]))

    def _serve_as_target(self) -> None:
        while not self._line.endswith(b"\n"):
            record = self._records.receive()
            if record is None or record[0] == ALERT:
                break
            self._line += record[1]
        self._records.send(APPLICATION_DATA, b"B heard " + self._line)
        if not self._script.mute:
            self._records.send(ALERT, bytes([WARNING, CLOSE_NOTIFY]))

    def _send_ticket(self, ticket_nonce: bytes) -> None:
        host, port = self._script.target
        keys = Keys.derive(self._master, self._suite.hash_name)
        expiry = int(time.time()) + TOKEN_LIFE_S
        plain = MigrationToken(ipaddress.ip_address(host), port, keys.session_id, expiry, os.urandom(16), b"")
        token = self._script.spoil(keys.sign(plain).encode())
        ticket = os.urandom(40)
        psk = resumption_psk(self._suite.hash_name, self._master, ticket_nonce)
        self._realm.tickets[ticket] = (psk, self._suite, token)
        extensions = {MIGRATION_TOKEN: token}
        if self._script.stream is not None:
            extensions[MIGRATION_STREAM] = self._script.stream
        if self._script.max_early_data:
            extensions[hs.EARLY_DATA] = uint(self._script.max_early_data, 4)
        body = uint(TOKEN_LIFE_S, 4) + os.urandom(4) + vector(ticket_nonce, 1) + vector(ticket, 2)
        self._records.send(HANDSHAKE, hs.message(hs.NEW_SESSION_TICKET, body + hs.encode_extensions(extensions)))


def _first_identity(offer: bytes) -> bytes:
    """The first ticket of a pre_shared_key extension."""
    return Reader(Reader(offer, "pre_shared_key").vector(2), "identities").vector(2)
