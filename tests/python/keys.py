"""Cipher suites, key exchange, the key schedule and record protection of TLS 1.3.

Source: RFC 8446 sections 4.2.8, 5.2, 5.3 and 7. It never touches a socket.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from wire import DecodeError, uint, vector

IV_LENGTH = 12
TAG_LENGTH = 16
MAX_PLAINTEXT = 2**14
MAX_CIPHERTEXT = MAX_PLAINTEXT + 256
RECORD_VERSION = b"\x03\x03"
APPLICATION_DATA = 23

_HASHES = {"sha256": hashes.SHA256, "sha384": hashes.SHA384}
_CURVES = {"secp256r1": ec.SECP256R1, "secp384r1": ec.SECP384R1, "secp521r1": ec.SECP521R1}

GROUPS = {"x25519": 0x001D, "secp256r1": 0x0017, "secp384r1": 0x0018, "secp521r1": 0x0019}


@dataclass(frozen=True)
class Suite:
    """A cipher suite: its codepoint, hash, key length in bytes and AEAD."""

    name: str
    code: int
    hash_name: str
    key_length: int
    aead: type

    @property
    def hash_length(self) -> int:
        """Hash.length in bytes."""
        return hashlib.new(self.hash_name).digest_size


SUITES = {
    suite.name: suite
    for suite in (
        Suite("TLS_AES_128_GCM_SHA256", 0x1301, "sha256", 16, AESGCM),
        Suite("TLS_AES_256_GCM_SHA384", 0x1302, "sha384", 32, AESGCM),
        Suite("TLS_CHACHA20_POLY1305_SHA256", 0x1303, "sha256", 32, ChaCha20Poly1305),
    )
}
SUITES_BY_CODE = {suite.code: suite for suite in SUITES.values()}


class KeyShare:
    """One ephemeral key pair of a named group."""

    def __init__(self, group: str) -> None:
        self.group = group
        if group == "x25519":
            self._key = x25519.X25519PrivateKey.generate()
        else:
            self._key = ec.generate_private_key(_CURVES[group]())

    @property
    def public(self) -> bytes:
        """The key_exchange bytes: raw for X25519, uncompressed point for the NIST curves."""
        if self.group == "x25519":
            return self._key.public_key().public_bytes_raw()
        return self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )

    def shared_secret(self, peer: bytes) -> bytes:
        """The (EC)DHE shared secret; DecodeError when the peer's share is not a point."""
        try:
            if self.group == "x25519":
                return self._key.exchange(x25519.X25519PublicKey.from_public_bytes(peer))
            point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[self.group](), peer)
            return self._key.exchange(ec.ECDH(), point)
        except ValueError as error:
            raise DecodeError(f"bad {self.group} key share") from error


def hkdf_extract(hash_name: str, salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract (RFC 5869 section 2.2)."""
    return hmac.digest(salt, ikm, hash_name)


def expand_label(hash_name: str, secret: bytes, label: str, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446 section 7.1)."""
    info = uint(length, 2) + vector(b"tls13 " + label.encode(), 1) + vector(context, 1)
    return HKDFExpand(_HASHES[hash_name](), length, info).derive(secret)


def derive_secret(hash_name: str, secret: bytes, label: str, transcript_hash: bytes) -> bytes:
    """Derive-Secret (RFC 8446 section 7.1), given the hash of the messages."""
    return expand_label(hash_name, secret, label, transcript_hash, len(transcript_hash))


def finished_mac(hash_name: str, base_key: bytes, transcript_hash: bytes) -> bytes:
    """verify_data of a Finished message, and the value of a PSK binder."""
    key = expand_label(hash_name, base_key, "finished", b"", len(base_key))
    return hmac.digest(key, transcript_hash, hash_name)


def resumption_psk(hash_name: str, resumption_master: bytes, ticket_nonce: bytes) -> bytes:
    """The PSK of a ticket (RFC 8446 section 4.6.1)."""
    return expand_label(hash_name, resumption_master, "resumption", ticket_nonce, len(resumption_master))


class KeySchedule:
    """The three secrets of RFC 8446 section 7.1, moved on by `add_shared_secret` and `add_nothing`."""

    def __init__(self, hash_name: str, psk: bytes | None = None) -> None:
        self.hash_name = hash_name
        self._zeros = bytes(hashlib.new(hash_name).digest_size)
        self._empty = hashlib.new(hash_name).digest()
        self.secret = hkdf_extract(hash_name, self._zeros, psk or self._zeros)

    def derive(self, label: str, transcript_hash: bytes | None = None) -> bytes:
        """Derive-Secret from the current secret; no transcript means no messages."""
        digest = self._empty if transcript_hash is None else transcript_hash
        return derive_secret(self.hash_name, self.secret, label, digest)

    def add_shared_secret(self, shared: bytes) -> None:
        """Early Secret to Handshake Secret."""
        self.secret = hkdf_extract(self.hash_name, self.derive("derived"), shared)

    def add_nothing(self) -> None:
        """Handshake Secret to Master Secret."""
        self.secret = hkdf_extract(self.hash_name, self.derive("derived"), self._zeros)


class Transcript:
    """The handshake messages so far; hashed on demand because the hash is known only late."""

    def __init__(self) -> None:
        self._messages = b""

    def add(self, message: bytes) -> None:
        """Append one whole handshake message."""
        self._messages += message

    def digest(self, hash_name: str, extra: bytes = b"") -> bytes:
        """Hash of all messages, followed by `extra`."""
        return hashlib.new(hash_name, self._messages + extra).digest()

    def fold(self, hash_name: str) -> None:
        """Replace ClientHello1 by its message_hash (RFC 8446 section 4.4.1)."""
        self._messages = b"\xfe" + vector(self.digest(hash_name), 3)


class BadRecord(Exception):
    """A record failed its authentication or has no content type."""


class RecordCipher:
    """Protects the records of one direction under one traffic secret."""

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self._suite = suite
        self._install(secret)

    def _install(self, secret: bytes) -> None:
        self._secret = secret
        self._sequence = 0
        key = expand_label(self._suite.hash_name, secret, "key", b"", self._suite.key_length)
        self._iv = expand_label(self._suite.hash_name, secret, "iv", b"", IV_LENGTH)
        self._aead = self._suite.aead(key)

    def update(self) -> None:
        """Move to the next generation of keys (RFC 8446 section 7.2)."""
        length = len(self._secret)
        self._install(expand_label(self._suite.hash_name, self._secret, "traffic upd", b"", length))

    def _next_nonce(self) -> bytes:
        value = int.from_bytes(self._iv, "big") ^ self._sequence
        self._sequence += 1
        return value.to_bytes(IV_LENGTH, "big")

    def seal(self, content_type: int, content: bytes) -> bytes:
        """One TLSCiphertext record with its header."""
        header = record_header(APPLICATION_DATA, len(content) + 1 + TAG_LENGTH)
        return header + self._aead.encrypt(self._next_nonce(), content + bytes([content_type]), header)

    def open(self, header: bytes, body: bytes) -> tuple[int, bytes]:
        """Content type and content of one record; BadRecord when it does not verify."""
        try:
            inner = self._aead.decrypt(self._next_nonce(), body, header).rstrip(b"\0")
        except InvalidTag as error:
            raise BadRecord("record does not decrypt") from error
        if not inner:
            raise BadRecord("record has no content type")
        return inner[-1], inner[:-1]


def record_header(content_type: int, length: int) -> bytes:
    """The five bytes in front of a record of `length` bytes."""
    return bytes([content_type]) + RECORD_VERSION + uint(length, 2)
