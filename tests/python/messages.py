"""Handshake messages of TLS 1.3, encoded and decoded.

Source: RFC 8446 section 4. It never keeps state: `tls13.py` decides what a message means.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from wire import DecodeError, Reader, uint, vector

CLIENT_HELLO = 1
SERVER_HELLO = 2
NEW_SESSION_TICKET = 4
END_OF_EARLY_DATA = 5
ENCRYPTED_EXTENSIONS = 8
CERTIFICATE = 11
CERTIFICATE_REQUEST = 13
CERTIFICATE_VERIFY = 15
FINISHED = 20
KEY_UPDATE = 24

SERVER_NAME = 0
SUPPORTED_GROUPS = 10
SIGNATURE_ALGORITHMS = 13
PRE_SHARED_KEY = 41
EARLY_DATA = 42
SUPPORTED_VERSIONS = 43
COOKIE = 44
PSK_KEY_EXCHANGE_MODES = 45
KEY_SHARE = 51

TLS12 = 0x0303
TLS13 = 0x0304
PSK_DHE_KE = 1
RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random value that marks a ServerHello as a HelloRetryRequest."""

Extensions = dict[int, bytes]


def message(kind: int, body: bytes) -> bytes:
    """A handshake message: type, three-byte length, body."""
    return bytes([kind]) + vector(body, 3)


def encode_extensions(extensions: Extensions) -> bytes:
    """An extension block in the dictionary's order."""
    block = b"".join(uint(kind, 2) + vector(data, 2) for kind, data in extensions.items())
    return vector(block, 2)


def read_extensions(reader: Reader, name: str) -> Extensions:
    """An extension block; DecodeError when a type appears twice."""
    block = Reader(reader.vector(2), name)
    extensions: Extensions = {}
    while block.remaining:
        kind = block.uint(2)
        if kind in extensions:
            raise DecodeError(f"{name}: extension {kind} appears twice")
        extensions[kind] = block.vector(2)
    return extensions


@dataclass
class ClientHello:
    """What a ClientHello says; pre_shared_key is added by `with_psk` because the binder covers the rest."""

    random: bytes
    session_id: bytes
    suites: list[int]
    extensions: Extensions

    def encode(self) -> bytes:
        """The whole handshake message."""
        body = uint(TLS12, 2) + self.random + vector(self.session_id, 1)
        body += vector(b"".join(uint(code, 2) for code in self.suites), 2) + b"\x01\x00"
        return message(CLIENT_HELLO, body + encode_extensions(self.extensions))

    def with_psk(self, identity: bytes, obfuscated_age: int, binder_length: int) -> tuple[bytes, int]:
        """The message with pre_shared_key last and a zero binder, and the length that the binder covers."""
        identities = vector(vector(identity, 2) + uint(obfuscated_age, 4), 2)
        binders = vector(vector(bytes(binder_length), 1), 2)
        full = ClientHello(
            self.random, self.session_id, self.suites, {**self.extensions, PRE_SHARED_KEY: identities + binders}
        ).encode()
        return full, len(full) - len(binders)


def server_name_extension(name: str) -> bytes | None:
    """The server_name extension for a DNS name; None for an IP address (RFC 6066 section 3)."""
    try:
        ipaddress.ip_address(name)
        return None
    except ValueError:
        return vector(b"\0" + vector(name.encode("ascii"), 2), 2)


def code_list(codes: list[int], prefix: int = 2) -> bytes:
    """A vector of two-byte codepoints."""
    return vector(b"".join(uint(code, 2) for code in codes), prefix)


def key_share_extension(shares: list[tuple[int, bytes]]) -> bytes:
    """KeyShareClientHello; an empty list asks the server to choose by a HelloRetryRequest."""
    return vector(b"".join(uint(group, 2) + vector(public, 2) for group, public in shares), 2)


@dataclass(frozen=True)
class ServerHello:
    """A ServerHello or HelloRetryRequest."""

    raw: bytes
    random: bytes
    session_id: bytes
    suite: int
    extensions: Extensions

    @property
    def is_retry(self) -> bool:
        """True for a HelloRetryRequest."""
        return self.random == RETRY_RANDOM

    @property
    def accepts_psk(self) -> bool:
        """True when the server chose the offered PSK."""
        return PRE_SHARED_KEY in self.extensions

    @classmethod
    def decode(cls, raw: bytes) -> "ServerHello":
        """Parse the whole handshake message."""
        reader = Reader(raw[4:], "ServerHello")
        if reader.uint(2) != TLS12:
            raise DecodeError("ServerHello: legacy_version is not 0x0303")
        random, session_id, suite = reader.take(32), reader.vector(1), reader.uint(2)
        if reader.uint(1):
            raise DecodeError("ServerHello: compression is not null")
        extensions = read_extensions(reader, "ServerHello") if reader.remaining else {}
        reader.finish()
        return cls(raw, random, session_id, suite, extensions)

    def key_share(self) -> tuple[int, bytes]:
        """Group and public value of a ServerHello's key_share."""
        reader = Reader(self.extensions[KEY_SHARE], "key_share")
        group, public = reader.uint(2), reader.vector(2, 1)
        reader.finish()
        return group, public


@dataclass(frozen=True)
class NewSessionTicket:
    """A ticket as it stands on the wire; lifetime in seconds."""

    lifetime: int
    age_add: int
    nonce: bytes
    ticket: bytes
    extensions: Extensions

    @classmethod
    def decode(cls, body: bytes) -> "NewSessionTicket":
        """Parse the body of the message."""
        reader = Reader(body, "NewSessionTicket")
        lifetime, age_add = reader.uint(4), reader.uint(4)
        nonce, ticket = reader.vector(1), reader.vector(2, 1)
        extensions = read_extensions(reader, "NewSessionTicket")
        reader.finish()
        return cls(lifetime, age_add, nonce, ticket, extensions)

    @property
    def max_early_data(self) -> int:
        """0-RTT bytes allowed with this ticket; 0 when the ticket allows none."""
        data = self.extensions.get(EARLY_DATA)
        return 0 if data is None else exact_uint(data, 4, "early_data")


def exact_uint(data: bytes, length: int, name: str) -> int:
    """`data` as one integer of exactly `length` bytes."""
    reader = Reader(data, name)
    value = reader.uint(length)
    reader.finish()
    return value


def decode_encrypted_extensions(body: bytes) -> Extensions:
    """The extensions of an EncryptedExtensions body."""
    reader = Reader(body, "EncryptedExtensions")
    extensions = read_extensions(reader, "EncryptedExtensions")
    reader.finish()
    return extensions


def decode_certificate(body: bytes) -> list[bytes]:
    """The DER certificates of a server's Certificate body, leaf first."""
    reader = Reader(body, "Certificate")
    if reader.vector(1):
        raise DecodeError("Certificate: a server's request context must be empty")
    entries = Reader(reader.vector(3), "Certificate")
    reader.finish()
    chain = []
    while entries.remaining:
        chain.append(entries.vector(3, 1))
        read_extensions(entries, "CertificateEntry")
    return chain


def decode_certificate_verify(body: bytes) -> tuple[int, bytes]:
    """Signature scheme and signature."""
    reader = Reader(body, "CertificateVerify")
    scheme, signature = reader.uint(2), reader.vector(2)
    reader.finish()
    return scheme, signature
