#!/usr/bin/env python3
"""Writes vectors.json beside this file: the test vectors of docs/protocol.md sections 1, 2 and 6.

It shares no code with the crates; hmac and hashlib of the standard library are all it needs.
"""

import hashlib
import hmac
import ipaddress
import json
import pathlib
import struct


def expand_label(hash_name, secret, label, length):
    """HKDF-Expand-Label of RFC 8446 section 7.1 with an empty context."""
    full = b"tls13 " + label
    info = struct.pack(">HB", length, len(full)) + full + b"\0"
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(secret, block + info + bytes([counter]), hash_name)
        out, counter = out + block, counter + 1
    return out[:length]


def opaque(value):
    return bytes([len(value)]) + value


def signed_part(ip, port, session_id, expiry, nonce):
    address = ipaddress.ip_address(ip)
    kind = b"\0" if address.version == 4 else b"\1"
    return kind + address.packed + struct.pack(">H", port) + opaque(session_id) + struct.pack(">Q", expiry) + opaque(nonce)


def session(hash_name, seed):
    length = hashlib.new(hash_name).digest_size
    secret = hashlib.shake_256(seed).digest(length)
    return {
        "hash": hash_name,
        "secret": secret,
        "session_id": expand_label(hash_name, secret, b"migration id", 32),
        "mac_key": expand_label(hash_name, secret, b"migration key", length),
    }


def token(keys, ip, port, expiry, nonce):
    part = signed_part(ip, port, keys["session_id"], expiry, nonce)
    return part + opaque(hmac.digest(keys["mac_key"], part, keys["hash"]))


def good_vectors():
    for hash_name in ("sha256", "sha384"):
        for ip, shown, nonce_len in (
            ("192.0.2.7", "192.0.2.7:443", 16),
            ("2001:db8::7", "[2001:db8::7]:8443", 16),
            ("192.0.2.7", "192.0.2.7:443", 255),
        ):
            keys = session(hash_name, f"{hash_name} {shown} {nonce_len}".encode())
            nonce = hashlib.shake_256(b"nonce" + keys["secret"]).digest(nonce_len)
            expiry = 1_900_000_000
            port = int(shown.rsplit(":", 1)[1])
            yield {
                "hash": hash_name,
                "resumption_master_secret": keys["secret"].hex(),
                "session_id": keys["session_id"].hex(),
                "mac_key": keys["mac_key"].hex(),
                "target_address": shown,
                "expiry_timestamp": expiry,
                "nonce": nonce.hex(),
                "token": token(keys, ip, port, expiry, nonce).hex(),
            }


def malformed_vectors(valid):
    head, address, port = valid[:1], valid[1:5], valid[5:7]
    session_id, expiry = valid[8:40], valid[40:48]
    nonce, signature = valid[49:65], valid[66:]

    def build(kind=head, session_id=session_id, nonce=nonce, signature=signature):
        return kind + address + port + opaque(session_id) + expiry + opaque(nonce) + opaque(signature)

    assert build() == valid
    yield "empty", b""
    yield "unknown address type 2", build(kind=b"\2")
    yield "unknown address type 255", build(kind=b"\xff")
    yield "ipv6 type with an ipv4 address", build(kind=b"\1")
    yield "empty session_id", build(session_id=b"")
    yield "session_id of 31 bytes", build(session_id=session_id[:31])
    yield "empty nonce", build(nonce=b"")
    yield "nonce of 15 bytes", build(nonce=nonce[:15])
    yield "empty signature", build(signature=b"")
    yield "signature of 31 bytes", build(signature=signature[:31])
    yield "one trailing byte", valid + b"\0"
    yield "twice the token", valid + valid
    for cut in (1, 5, 7, 8, 39, 40, 48, 49, 65, 66, len(valid) - 1):
        yield f"cut after {cut} bytes", valid[:cut]


def unverifiable_vectors():
    for hash_name in ("sha256", "sha384"):
        keys, other = session(hash_name, b"victim"), session(hash_name, b"other")
        common = {"hash": hash_name, "resumption_master_secret": keys["secret"].hex()}
        nonce, expiry = bytes(range(16)), 1_900_000_000
        valid = token(keys, "192.0.2.7", 443, expiry, nonce)
        tag_len = len(keys["mac_key"])

        def case(name, value, error):
            return {"name": f"{hash_name}: {name}", **common, "token": value.hex(), "error": error}

        yield case("signed by another session", token(other, "192.0.2.7", 443, expiry, nonce), "other_session")
        mixed = dict(other, session_id=keys["session_id"])
        yield case("session_id of this, key of another session", token(mixed, "192.0.2.7", 443, expiry, nonce), "bad_signature")
        yield case("port changed", valid[:5] + b"\0\x50" + valid[7:], "bad_signature")
        yield case("expiry moved by a second", valid[:40] + struct.pack(">Q", expiry + 1) + valid[48:], "bad_signature")
        yield case("nonce changed", valid[:49] + b"\xff" + valid[50:], "bad_signature")
        yield case("last bit of the signature flipped", valid[:-1] + bytes([valid[-1] ^ 1]), "bad_signature")
        longer = valid[: -tag_len - 1] + opaque(valid[-tag_len:] + b"\0")
        yield case("signature with a byte added", longer, "bad_signature")
        if tag_len > 32:
            yield case("signature cut to 32 bytes", valid[: -tag_len - 1] + opaque(valid[-tag_len:-16]), "bad_signature")


MIGRATION_TOKEN, MIGRATION_STREAM, EARLY_DATA = 0xFF4E, 0xFF4F, 42


def extension(kind, content):
    return struct.pack(">HH", kind, len(content)) + content


def new_session_ticket(*extensions):
    block = b"".join(extensions)
    body = struct.pack(">II", 3600, 0x01020304) + opaque(b"\0\1") + struct.pack(">H", 40) + bytes(range(40))
    body += struct.pack(">H", len(block)) + block
    return b"\4" + len(body).to_bytes(3, "big") + body


def ticket_vectors(valid):
    token_part, early_data = extension(MIGRATION_TOKEN, valid), extension(EARLY_DATA, struct.pack(">I", 14_336))
    for name, kind, extensions in (
        ("a connection's offer", "connection", (early_data, token_part)),
        ("a stream's offer", "stream", (early_data, token_part, extension(MIGRATION_STREAM, b""))),
        ("a stream's offer, without early data, the other way round", "stream", (extension(MIGRATION_STREAM, b""), token_part)),
        ("migration_stream that is not empty", "malformed", (token_part, extension(MIGRATION_STREAM, b"\0"))),
        ("migration_stream without a token", "none", (early_data, extension(MIGRATION_STREAM, b""))),
        ("an ordinary ticket", "none", (early_data,)),
    ):
        yield {"name": name, "kind": kind, "message": new_session_ticket(*extensions).hex()}


def plaintext(keys, kind, state, version=2):
    """What a ticket seals: docs/protocol.md section 6."""
    hash_byte = bytes([["sha256", "sha384"].index(keys["hash"])])
    psk = hashlib.shake_256(b"psk" + keys["secret"]).digest(len(keys["mac_key"]))
    session_part = b"the TLS library's"
    return (
        bytes([version])
        + struct.pack(">Q", 1_800_000_000_123)
        + hashlib.sha256(b"scope").digest()
        + hashlib.sha256(b"token").digest()
        + keys["session_id"]
        + hash_byte
        + keys["mac_key"]
        + psk
        + struct.pack(">H", len(session_part))
        + session_part
        + bytes([kind])
        + struct.pack(">H", len(state))
        + state
    )


def plaintext_vectors():
    for hash_name in ("sha256", "sha384"):
        keys = session(hash_name, b"sealed")
        for name, kind, state in (
            ("connection", 0, b""),
            ("stream, empty state", 1, b""),
            ("stream, state", 1, b"where to go on"),
            ("stream, largest state", 1, bytes(8192)),
        ):
            shown = state.hex() if kind == 1 else None
            yield {"name": f"{hash_name}: {name}", "state": shown, "plaintext": plaintext(keys, kind, state).hex()}
    keys = session("sha256", b"sealed")
    for name, value in (
        ("a connection with state", plaintext(keys, 0, b"state")),
        ("unknown kind", plaintext(keys, 2, b"")),
        ("version 1", plaintext(keys, 0, b"", version=1)),
        ("one trailing byte", plaintext(keys, 1, b"") + b"\0"),
        ("no state's length", plaintext(keys, 1, b"")[:-2]),
    ):
        yield {"name": name, "malformed": True, "plaintext": value.hex()}


def ordinary_plaintext(session_part, grant=None, version=3):
    """What an ordinary ticket seals: docs/protocol.md section 6."""
    early_data = b"\0" if grant is None else b"\1" + grant
    head = bytes([version]) + struct.pack(">Q", 1_800_000_000_123) + hashlib.sha256(b"scope").digest()
    return head + early_data + struct.pack(">H", len(session_part)) + session_part


def ordinary_vectors():
    session_part = b"the TLS library's"

    def grant(psk_len):
        return hashlib.sha256(b"memory").digest()[:16] + struct.pack(">I", 0x01020304) + opaque(bytes(range(psk_len)))

    for name, value in (("no early data", None), ("early data, sha256", grant(32)), ("early data, sha384", grant(48))):
        yield {
            "name": name,
            "early_data": value is not None,
            "session": session_part.hex(),
            "plaintext": ordinary_plaintext(session_part, value).hex(),
        }
    for name, value in (
        ("version 2", ordinary_plaintext(session_part, version=2)),
        ("a pre-shared key of 33 bytes", ordinary_plaintext(session_part, grant(33))),
        ("one trailing byte", ordinary_plaintext(session_part, grant(32)) + b"\0"),
        ("no session's length", ordinary_plaintext(b"")[:-2]),
    ):
        yield {"name": name, "malformed": True, "plaintext": value.hex()}


def main():
    tokens = list(good_vectors())
    valid = bytes.fromhex(tokens[0]["token"])
    vectors = {
        "tokens": tokens,
        "malformed": [{"name": name, "token": value.hex()} for name, value in malformed_vectors(valid)],
        "unverifiable": list(unverifiable_vectors()),
        "new_session_tickets": list(ticket_vectors(valid)),
        "sealed_plaintexts": list(plaintext_vectors()),
        "ordinary_plaintexts": list(ordinary_vectors()),
    }
    path = pathlib.Path(__file__).with_name("vectors.json")
    path.write_text(json.dumps(vectors, indent=2) + "\n")


if __name__ == "__main__":
    main()
