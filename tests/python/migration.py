"""Migration of a TLS session to another address: extensions, token, derivations and the client's checks.

Source: design/protocol.md sections 1, 2 and 4, and the TLS service affinity draft section 5.
It never opens a connection.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass, replace

from keys import expand_label
from tls13 import Session
from wire import DecodeError, Reader, uint, vector

MIGRATION_SUPPORT = 0xFF4D
MIGRATION_TOKEN = 0xFF4E
MIGRATION_STREAM = 0xFF4F
MIGRATE_NOTIFY = 224

SESSION_ID_LENGTH = 32
MIN_SESSION_ID = 32
MIN_NONCE = 16
MIN_SIGNATURE = 32
CLOCK_SKEW_S = 5

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_ADDRESS_LENGTHS = {0: 4, 1: 16}


@dataclass(frozen=True)
class MigrationToken:
    """The draft's MigrationToken; `expiry` in Unix seconds."""

    address: IPAddress
    port: int
    session_id: bytes
    expiry: int
    nonce: bytes
    signature: bytes

    @classmethod
    def decode(cls, data: bytes) -> "MigrationToken":
        """Parse strictly; DecodeError for an unknown type, a short field, truncation or trailing bytes."""
        reader = Reader(data, "MigrationToken")
        kind = reader.uint(1)
        if kind not in _ADDRESS_LENGTHS:
            raise DecodeError(f"MigrationToken: unknown address type {kind}")
        address = ipaddress.ip_address(reader.take(_ADDRESS_LENGTHS[kind]))
        port = reader.uint(2)
        session_id = reader.vector(1, MIN_SESSION_ID)
        expiry = reader.uint(8)
        nonce = reader.vector(1, MIN_NONCE)
        signature = reader.vector(1, MIN_SIGNATURE)
        reader.finish()
        return cls(address, port, session_id, expiry, nonce, signature)

    def signed_bytes(self) -> bytes:
        """The encoding up to and including the nonce."""
        kind = 0 if self.address.version == 4 else 1
        target = bytes([kind]) + self.address.packed + uint(self.port, 2)
        return target + vector(self.session_id, 1) + uint(self.expiry, 8) + vector(self.nonce, 1)

    def encode(self) -> bytes:
        """The whole token."""
        return self.signed_bytes() + vector(self.signature, 1)

    @property
    def target(self) -> str:
        """target_address as `ip:port`, IPv6 in brackets."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Keys:
    """What a session derives for its tokens."""

    session_id: bytes
    mac_key: bytes
    hash_name: str

    @classmethod
    def of(cls, session: Session) -> "Keys":
        """Derive from the resumption master secret of the connection that carried the ticket."""
        return cls.derive(session.resumption_master, session.suite.hash_name)

    @classmethod
    def derive(cls, resumption_master: bytes, hash_name: str) -> "Keys":
        """session_id and mac_key of protocol.md section 2."""
        return cls(
            session_id=expand_label(hash_name, resumption_master, "migration id", b"", SESSION_ID_LENGTH),
            mac_key=expand_label(hash_name, resumption_master, "migration key", b"", len(resumption_master)),
            hash_name=hash_name,
        )

    def sign(self, token: MigrationToken) -> MigrationToken:
        """`token` with the signature that these keys give it."""
        return replace(token, signature=hmac.digest(self.mac_key, token.signed_bytes(), self.hash_name))

    def signature_valid(self, token: MigrationToken) -> bool:
        """True when the token's signature is the one that these keys give it."""
        return hmac.compare_digest(self.sign(token).signature, token.signature)

    def session_id_valid(self, token: MigrationToken) -> bool:
        """True when the token is for this session."""
        return hmac.compare_digest(self.session_id, token.session_id)


def move_kind(session: Session) -> str:
    """What goes on at the target: `stream` or `connection` (protocol.md section 4), or the stream if this server dies,
    `checkpoint` (section 11); DecodeError for a bad extension."""
    kinds = {None: "connection", 0: "stream", 8: "checkpoint"}
    content = session.extensions.get(MIGRATION_STREAM)
    kind = kinds.get(None if content is None else len(content))
    if kind is None:
        raise DecodeError(f"migration_stream: {len(content)} bytes")
    return kind


def token_faults(token: MigrationToken, session: Session, here: IPAddress) -> list[str]:
    """What is wrong with a token that arrived over a connection to `here`; empty when it may be followed."""
    keys = Keys.of(session)
    checks = {
        "its session_id is not this session's": keys.session_id_valid(token),
        "its signature does not verify": keys.signature_valid(token),
        "its ticket has no lifetime": session.lifetime > 0,
        "its ticket outlives it": session.lifetime <= token.expiry - session.received_at + CLOCK_SKEW_S,
        f"its target {token.address} is wider than {here}": target_allowed(here, token.address),
    }
    return [fault for fault, held in checks.items() if not held]


def target_allowed(here: IPAddress, target: IPAddress) -> bool:
    """The default target policy: no wider than where the client is (protocol.md section 4)."""
    reach = _reach(target)
    return reach is not None and reach in ("global", _reach(here))


def _reach(address: IPAddress) -> str | None:
    """The class of an address; None for one that no client follows to."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return _reach(mapped)
    refused = address.is_multicast or address.is_unspecified or address.is_link_local
    if refused or address == ipaddress.IPv4Address("255.255.255.255"):
        return None
    if address.is_loopback:
        return "loopback"
    return "global" if address.is_global else "private"
