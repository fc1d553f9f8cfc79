"""A small TLS 1.3 client: handshake, resumption, 0-RTT, HelloRetryRequest, tickets, KeyUpdate, half-close.

Source: RFC 8446. It never speaks an older version, and it never accepts what it did not offer.
"""

from __future__ import annotations

import hmac
import os
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509

import certificates
import messages as hs
from keys import (
    APPLICATION_DATA,
    GROUPS,
    SUITES,
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
from records import ALERT, DUMMY_CHANGE_CIPHER_SPEC, HANDSHAKE, ProtocolError, RecordLayer, plaintext_records, split
from wire import DecodeError, Reader, uint, vector

CLOSE_NOTIFY = 0
UNEXPECTED_MESSAGE = 10
BAD_RECORD_MAC = 20
ILLEGAL_PARAMETER = 47
DECODE_ERROR = 50
DECRYPT_ERROR = 51
BAD_CERTIFICATE = 42
PROTOCOL_VERSION = 70
MISSING_EXTENSION = 109
UNSUPPORTED_EXTENSION = 110

WARNING = 1
FATAL = 2
FRAGMENT_PAUSE_S = 0.01
"""Pause between the segments of a split ClientHello, so that the server reads them one by one."""


class AlertReceived(Exception):
    """The peer ended the connection with an alert."""

    def __init__(self, description: int) -> None:
        super().__init__(f"the server sent alert {description}")
        self.description = description


class HandshakeTruncated(Exception):
    """The peer closed the TCP stream before the handshake was complete."""


@dataclass(frozen=True)
class Session:
    """A ticket and what resuming it takes; times are Unix seconds."""

    ticket: bytes
    psk: bytes = field(repr=False)
    suite: Suite
    age_add: int
    lifetime: int
    received_at: float
    max_early_data: int
    extensions: hs.Extensions
    resumption_master: bytes = field(repr=False)

    def obfuscated_age(self) -> int:
        """obfuscated_ticket_age in milliseconds (RFC 8446 section 4.2.11.1)."""
        return (int((time.time() - self.received_at) * 1000) + self.age_add) % 2**32


@dataclass(frozen=True)
class ClientConfig:
    """What to offer. `share_groups` get a key share; `extra` extensions go into every ClientHello.

    `informational_alerts` are reported and do not end the connection. `corrupt_binder` spoils the PSK binder, for
    adversary tests.
    """

    server_name: str
    trust: list[x509.Certificate]
    suites: tuple[str, ...] = tuple(SUITES)
    groups: tuple[str, ...] = ("x25519", "secp256r1", "secp384r1")
    share_groups: tuple[str, ...] = ("x25519",)
    extra: hs.Extensions = field(default_factory=dict)
    session: Session | None = None
    early_data: bytes = b""
    hello_fragments: int = 1
    informational_alerts: frozenset[int] = frozenset()
    corrupt_binder: bool = False


@dataclass(frozen=True)
class Data:
    """Application bytes."""

    content: bytes


@dataclass(frozen=True)
class Ticket:
    """A NewSessionTicket, ready to resume."""

    session: Session


@dataclass(frozen=True)
class Alert:
    """An informational alert."""

    level: int
    description: int


@dataclass(frozen=True)
class Closed:
    """The peer's end of data; `truncated` when no close_notify came."""

    truncated: bool


class Connection:
    """One client connection. `first_flight` is ready before any socket is involved."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.suite: Suite | None = None
        self.group: str | None = None
        self.resumed = False
        self.hello_retry = False
        self.early_data_offered = False
        self.early_data_accepted = False
        self.peer_chain: list[x509.Certificate] = []
        self.resumption_master = b""
        self._transcript = Transcript()
        self._shares = {GROUPS[name]: KeyShare(name) for name in config.share_groups}
        self._hello = self._build_hello()
        self._early_writer: RecordCipher | None = None
        self._pending = b""
        self._certificate_request: bytes | None = None
        self._write_closed = False
        self.first_flight = self._build_first_flight()

    # --- ClientHello

    def _build_hello(self) -> hs.ClientHello:
        config = self.config
        name = hs.server_name_extension(config.server_name)
        extensions: hs.Extensions = {} if name is None else {hs.SERVER_NAME: name}
        extensions |= {
            hs.SUPPORTED_GROUPS: hs.code_list([GROUPS[group] for group in config.groups]),
            hs.SIGNATURE_ALGORITHMS: hs.code_list(list(certificates.SIGNATURE_SCHEMES)),
            hs.SUPPORTED_VERSIONS: hs.code_list([hs.TLS13], prefix=1),
            hs.PSK_KEY_EXCHANGE_MODES: vector(bytes([hs.PSK_DHE_KE]), 1),
            hs.KEY_SHARE: self._key_shares(),
            **config.extra,
        }
        session = config.session
        if session and 0 < len(config.early_data) <= session.max_early_data:
            extensions[hs.EARLY_DATA] = b""
            self.early_data_offered = True
        codes = [SUITES[suite].code for suite in config.suites]
        return hs.ClientHello(os.urandom(32), os.urandom(32), codes, extensions)

    def _key_shares(self) -> bytes:
        return hs.key_share_extension([(group, share.public) for group, share in self._shares.items()])

    def _encode_hello(self) -> bytes:
        """The ClientHello with its binder, if a PSK is offered."""
        session = self.config.session
        if session is None or self.suite and self.suite.hash_name != session.suite.hash_name:
            return self._hello.encode()
        suite = session.suite
        full, covered = self._hello.with_psk(session.ticket, session.obfuscated_age(), suite.hash_length)
        key = KeySchedule(suite.hash_name, session.psk).derive("res binder")
        binder = finished_mac(suite.hash_name, key, self._transcript.digest(suite.hash_name, full[:covered]))
        if self.config.corrupt_binder:
            binder = bytes([binder[0] ^ 1]) + binder[1:]
        return full[: -len(binder)] + binder

    def _build_first_flight(self) -> list[bytes]:
        """The TCP segments of ClientHello, change_cipher_spec and 0-RTT data."""
        hello = self._encode_hello()
        self._transcript.add(hello)
        segments = plaintext_records(HANDSHAKE, hello, self.config.hello_fragments)
        if self.early_data_offered:
            suite = self.config.session.suite
            schedule = KeySchedule(suite.hash_name, self.config.session.psk)
            secret = schedule.derive("c e traffic", self._transcript.digest(suite.hash_name))
            self._early_writer = RecordCipher(suite, secret)
            segments.append(DUMMY_CHANGE_CIPHER_SPEC)
            segments += [self._early_writer.seal(APPLICATION_DATA, chunk) for chunk in split(self.config.early_data)]
        return segments

    # --- handshake

    def handshake(self, sock: socket.socket) -> None:
        """Send the first flight and complete the handshake on `sock`."""
        self._records = RecordLayer(sock)
        for segment in self.first_flight:
            self._records.send_bytes(segment)
            if self.config.hello_fragments > 1:
                time.sleep(FRAGMENT_PAUSE_S)
        self._guarded(self._run_handshake)

    def _guarded(self, step):
        """Run `step`; answer what the peer did wrong with the alert that names it."""
        try:
            return step()
        except ProtocolError as error:
            self._send_alert(FATAL, error.alert)
            raise
        except (DecodeError, BadRecord, certificates.CertificateError) as error:
            alerts = {DecodeError: DECODE_ERROR, BadRecord: BAD_RECORD_MAC}
            alert = alerts.get(type(error), BAD_CERTIFICATE)
            self._send_alert(FATAL, alert)
            raise ProtocolError(alert, str(error)) from error

    def _run_handshake(self) -> None:
        hello = hs.ServerHello.decode(self._next_message(hs.SERVER_HELLO))
        if hello.is_retry:
            self._answer_retry(hello)
            hello = hs.ServerHello.decode(self._next_message(hs.SERVER_HELLO))
            if hello.is_retry:
                raise ProtocolError(UNEXPECTED_MESSAGE, "second HelloRetryRequest")
        elif not self.early_data_offered:
            self._records.send_bytes(DUMMY_CHANGE_CIPHER_SPEC)
        self._accept_server_hello(hello)
        self._read_encrypted_extensions()
        if not self.resumed:
            self._authenticate_server()
        self._read_server_finished()
        self._send_client_flight()
        self._records.handshaking = False

    def _check_hello(self, hello: hs.ServerHello, allowed: set[int]) -> Suite:
        """The checks that ServerHello and HelloRetryRequest share."""
        if hello.extensions.get(hs.SUPPORTED_VERSIONS) != uint(hs.TLS13, 2):
            raise ProtocolError(PROTOCOL_VERSION, "the server did not choose TLS 1.3")
        if hello.session_id != self._hello.session_id:
            raise ProtocolError(ILLEGAL_PARAMETER, "legacy_session_id is not echoed")
        if extra := set(hello.extensions) - allowed:
            raise ProtocolError(UNSUPPORTED_EXTENSION, f"unexpected extensions {sorted(extra)} in ServerHello")
        suite = SUITES_BY_CODE.get(hello.suite)
        if suite is None or suite.name not in self.config.suites or self.suite not in (None, suite):
            raise ProtocolError(ILLEGAL_PARAMETER, f"suite {hello.suite:#06x} was not offered")
        return suite

    def _answer_retry(self, retry: hs.ServerHello) -> None:
        """Send the second ClientHello (RFC 8446 section 4.1.4)."""
        self.suite = self._check_hello(retry, {hs.SUPPORTED_VERSIONS, hs.KEY_SHARE, hs.COOKIE})
        if not {hs.KEY_SHARE, hs.COOKIE} & set(retry.extensions):
            raise ProtocolError(ILLEGAL_PARAMETER, "HelloRetryRequest changes nothing")
        self.hello_retry = True
        self._transcript.fold(self.suite.hash_name)
        self._transcript.add(retry.raw)
        extensions = self._hello.extensions
        extensions.pop(hs.EARLY_DATA, None)
        if hs.COOKIE in retry.extensions:
            extensions[hs.COOKIE] = retry.extensions[hs.COOKIE]
        if hs.KEY_SHARE in retry.extensions:
            self._replace_share(hs.exact_uint(retry.extensions[hs.KEY_SHARE], 2, "key_share"))
            extensions[hs.KEY_SHARE] = self._key_shares()
        second = self._encode_hello()
        self._transcript.add(second)
        if not self.early_data_offered:
            self._records.send_bytes(DUMMY_CHANGE_CIPHER_SPEC)
        for record in plaintext_records(HANDSHAKE, second, self.config.hello_fragments):
            self._records.send_bytes(record)

    def _replace_share(self, code: int) -> None:
        names = [name for name in self.config.groups if GROUPS[name] == code]
        if not names or code in self._shares:
            raise ProtocolError(ILLEGAL_PARAMETER, f"HelloRetryRequest for group {code:#06x}")
        self._shares = {code: KeyShare(names[0])}

    def _accept_server_hello(self, hello: hs.ServerHello) -> None:
        """Fix suite, PSK and group, and install the handshake keys."""
        self.suite = self._check_hello(hello, {hs.SUPPORTED_VERSIONS, hs.KEY_SHARE, hs.PRE_SHARED_KEY})
        self._transcript.add(hello.raw)
        self.resumed = hello.accepts_psk
        psk = self._accepted_psk(hello) if self.resumed else None
        if hs.KEY_SHARE not in hello.extensions:
            raise ProtocolError(MISSING_EXTENSION, "ServerHello without key_share")
        group, public = hello.key_share()
        if group not in self._shares:
            raise ProtocolError(ILLEGAL_PARAMETER, f"no key share was sent for group {group:#06x}")
        self.group = self._shares[group].group
        self._schedule = KeySchedule(self.suite.hash_name, psk)
        self._schedule.add_shared_secret(self._shares[group].shared_secret(public))
        self._client_secret = self._schedule.derive("c hs traffic", self._digest())
        self._server_secret = self._schedule.derive("s hs traffic", self._digest())
        self._change_reader(self._server_secret)
        self._records.writer = RecordCipher(self.suite, self._client_secret)

    def _accepted_psk(self, hello: hs.ServerHello) -> bytes:
        session = self.config.session
        if session is None:
            raise ProtocolError(UNSUPPORTED_EXTENSION, "the server chose a PSK that was not offered")
        if hs.exact_uint(hello.extensions[hs.PRE_SHARED_KEY], 2, "pre_shared_key") != 0:
            raise ProtocolError(ILLEGAL_PARAMETER, "the server chose a PSK identity out of range")
        if self.suite.hash_name != session.suite.hash_name:
            raise ProtocolError(ILLEGAL_PARAMETER, "the suite does not fit the PSK's hash")
        return session.psk

    def _digest(self) -> bytes:
        return self._transcript.digest(self.suite.hash_name)

    def _change_reader(self, secret: bytes) -> None:
        if self._pending:
            raise ProtocolError(UNEXPECTED_MESSAGE, "handshake data across a key change")
        self._records.reader = RecordCipher(self.suite, secret)

    def _read_encrypted_extensions(self) -> None:
        raw = self._next_message(hs.ENCRYPTED_EXTENSIONS)
        self._transcript.add(raw)
        extensions = hs.decode_encrypted_extensions(raw[4:])
        if extra := set(extensions) - set(self._hello.extensions):
            raise ProtocolError(UNSUPPORTED_EXTENSION, f"unasked extensions {sorted(extra)} in EncryptedExtensions")
        self.early_data_accepted = hs.EARLY_DATA in extensions
        if self.early_data_accepted and not (self.resumed and self.suite == self.config.session.suite):
            raise ProtocolError(ILLEGAL_PARAMETER, "0-RTT accepted for another session")

    def _authenticate_server(self) -> None:
        raw = self._next_message(hs.CERTIFICATE, hs.CERTIFICATE_REQUEST)
        if raw[0] == hs.CERTIFICATE_REQUEST:
            self._transcript.add(raw)
            self._certificate_request = Reader(raw[4:], "CertificateRequest").vector(1)
            raw = self._next_message(hs.CERTIFICATE)
        self._transcript.add(raw)
        chain = hs.decode_certificate(raw[4:])
        try:
            self.peer_chain = [x509.load_der_x509_certificate(der) for der in chain]
        except ValueError as error:
            raise certificates.CertificateError(f"unreadable certificate: {error}") from error
        certificates.verify_chain(
            self.peer_chain, self.config.trust, self.config.server_name, datetime.now(UTC)
        )
        raw = self._next_message(hs.CERTIFICATE_VERIFY)
        scheme, signature = hs.decode_certificate_verify(raw[4:])
        certificates.verify_signature(self.peer_chain[0], scheme, signature, self._digest())
        self._transcript.add(raw)

    def _read_server_finished(self) -> None:
        raw = self._next_message(hs.FINISHED)
        expected = finished_mac(self.suite.hash_name, self._server_secret, self._digest())
        if not hmac.compare_digest(raw[4:], expected):
            raise ProtocolError(DECRYPT_ERROR, "the server's Finished does not verify")
        self._transcript.add(raw)

    def _send_client_flight(self) -> None:
        """EndOfEarlyData, an empty Certificate if asked, Finished; then the application keys."""
        self._schedule.add_nothing()
        client_secret = self._schedule.derive("c ap traffic", self._digest())
        self._change_reader(self._schedule.derive("s ap traffic", self._digest()))
        if self.early_data_accepted:
            end = hs.message(hs.END_OF_EARLY_DATA, b"")
            self._transcript.add(end)
            self._records.send_bytes(self._early_writer.seal(HANDSHAKE, end))
        if self._certificate_request is not None:
            self._send_message(hs.CERTIFICATE, vector(self._certificate_request, 1) + vector(b"", 3))
        self._send_message(hs.FINISHED, finished_mac(self.suite.hash_name, self._client_secret, self._digest()))
        self._records.writer = RecordCipher(self.suite, client_secret)
        self.resumption_master = self._schedule.derive("res master", self._digest())

    # --- handshake messages

    def _send_message(self, kind: int, body: bytes) -> None:
        raw = hs.message(kind, body)
        self._transcript.add(raw)
        self._records.send(HANDSHAKE, raw)

    def _next_message(self, *kinds: int) -> bytes:
        """The next handshake message, header included, which must be one of `kinds`."""
        while (raw := self._take_message()) is None:
            record = self._records.receive()
            if record is None:
                raise HandshakeTruncated("the server closed the connection during the handshake")
            content_type, content = record
            if content_type == ALERT:
                raise AlertReceived(self._decode_alert(content).description)
            if content_type != HANDSHAKE:
                raise ProtocolError(UNEXPECTED_MESSAGE, f"record of type {content_type} during the handshake")
            self._pending += content
        if raw[0] not in kinds:
            raise ProtocolError(UNEXPECTED_MESSAGE, f"handshake message {raw[0]}, {kinds} expected")
        return raw

    def _take_message(self) -> bytes | None:
        """A whole message from the reassembly buffer, or None."""
        end = 4 + int.from_bytes(self._pending[1:4], "big")
        if len(self._pending) < max(end, 4):
            return None
        raw, self._pending = self._pending[:end], self._pending[end:]
        return raw

    # --- after the handshake

    def write(self, data: bytes) -> None:
        """Send application bytes."""
        self._records.send(APPLICATION_DATA, data)

    def close_write(self) -> None:
        """Send close_notify; reading goes on (half-close, RFC 8446 section 6.1)."""
        if not self._write_closed:
            self._send_alert(WARNING, CLOSE_NOTIFY)
            self._write_closed = True

    def read_event(self) -> Data | Ticket | Alert | Closed:
        """The next thing that the server sent; TimeoutError after the socket's timeout."""
        return self._guarded(self._read_event)

    def _read_event(self) -> Data | Ticket | Alert | Closed:
        while True:
            while (raw := self._take_message()) is not None:
                if raw[0] == hs.NEW_SESSION_TICKET:
                    return Ticket(self._session(hs.NewSessionTicket.decode(raw[4:])))
                if raw[0] != hs.KEY_UPDATE:
                    raise ProtocolError(UNEXPECTED_MESSAGE, f"handshake message {raw[0]} after the handshake")
                self._on_key_update(raw[4:])
            record = self._records.receive()
            if record is None:
                return Closed(truncated=True)
            content_type, content = record
            if content_type == HANDSHAKE:
                self._pending += content
            elif self._pending:
                raise ProtocolError(UNEXPECTED_MESSAGE, "a record interrupts a handshake message")
            elif content_type == ALERT:
                return self._on_alert(content)
            elif content_type != APPLICATION_DATA:
                raise ProtocolError(UNEXPECTED_MESSAGE, f"record of type {content_type}")
            elif content:
                return Data(content)

    def _on_alert(self, content: bytes) -> Alert | Closed:
        alert = self._decode_alert(content)
        if alert.description == CLOSE_NOTIFY:
            return Closed(truncated=False)
        if alert.description in self.config.informational_alerts:
            return alert
        raise AlertReceived(alert.description)

    @staticmethod
    def _decode_alert(content: bytes) -> Alert:
        reader = Reader(content, "alert")
        level, description = reader.uint(1), reader.uint(1)
        reader.finish()
        return Alert(level, description)

    def _session(self, ticket: hs.NewSessionTicket) -> Session:
        master = self.resumption_master
        return Session(
            ticket=ticket.ticket,
            psk=resumption_psk(self.suite.hash_name, master, ticket.nonce),
            suite=self.suite,
            age_add=ticket.age_add,
            lifetime=ticket.lifetime,
            received_at=time.time(),
            max_early_data=ticket.max_early_data,
            extensions=ticket.extensions,
            resumption_master=master,
        )

    def _on_key_update(self, body: bytes) -> None:
        """Move the read keys on, and the write keys when asked (RFC 8446 section 4.6.3)."""
        if body not in (b"\0", b"\x01") or self._pending:
            raise ProtocolError(ILLEGAL_PARAMETER, "bad KeyUpdate")
        self._records.reader.update()
        if body == b"\x01" and not self._write_closed:
            self._records.send(HANDSHAKE, hs.message(hs.KEY_UPDATE, b"\0"))
            self._records.writer.update()

    def _send_alert(self, level: int, description: int) -> None:
        self._records.send(ALERT, bytes([level, description]))
