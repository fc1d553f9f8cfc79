#!/usr/bin/env python3
"""Writes vectors.json beside this file: the test vectors of docs/protocol.md sections 1, 2, 6 and 10.

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
MIGRATION_ALLOWED = 0xFE4E


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
        ("migration_stream of one byte", "malformed", (token_part, extension(MIGRATION_STREAM, b"\0"))),
        ("migration_stream of nine bytes", "malformed", (token_part, extension(MIGRATION_STREAM, bytes(9)))),
        ("migration_stream without a token", "none", (early_data, extension(MIGRATION_STREAM, b""))),
        ("an ordinary ticket", "none", (early_data,)),
    ):
        yield {"name": name, "kind": kind, "message": new_session_ticket(*extensions).hex()}
    allowed, stream = extension(MIGRATION_ALLOWED, b""), extension(MIGRATION_STREAM, b"")
    for name, kind, extensions in (
        ("draft -03: a connection's ticket", "allowed connection", (early_data, allowed)),
        ("draft -03: a stream's ticket", "allowed stream", (allowed, stream)),
        ("draft -03: migration_allowed that is not empty", "malformed", (extension(MIGRATION_ALLOWED, b"\0"),)),
        ("draft -03: migration_stream of one byte", "malformed", (allowed, extension(MIGRATION_STREAM, b"\0"))),
        ("a token and migration_allowed", "malformed", (token_part, allowed)),
    ):
        yield {"name": name, "draft_03": True, "kind": kind, "message": new_session_ticket(*extensions).hex()}
    for position in (0, 1_000_000):
        for draft_03, kind, mark, target in (
            (False, "checkpoint", token_part, b""),
            (True, "allowed checkpoint", allowed, b""),
            (True, "allowed checkpoint", allowed, b"192.0.2.7:443"),
        ):
            stream = extension(MIGRATION_STREAM, struct.pack(">Q", position) + target)
            yield {
                "name": f"{kind} at {position}, target of {len(target)} bytes",
                "draft_03": draft_03,
                "kind": kind,
                "position": position,
                "target": target.hex(),
                "message": new_session_ticket(early_data, mark, stream).hex(),
            }


LINEAGE, EPOCH = hashlib.sha256(b"lineage").digest()[:16], 3


def lineage_vectors():
    """Which stream begins on a connection: docs/protocol.md section 6."""
    for hash_name in ("sha256", "sha384"):
        secret = session(hash_name, b"lineage")["secret"]
        yield {
            "hash": hash_name,
            "resumption_master_secret": secret.hex(),
            "lineage": expand_label(hash_name, secret, b"migration lineage", 16).hex(),
        }


def plaintext(keys, kind, state, version=5, ahead=b"", lineage=LINEAGE + struct.pack(">Q", EPOCH)):
    """What a ticket seals: docs/protocol.md section 6."""
    hash_byte = bytes([["sha256", "sha384"].index(keys["hash"])])
    psk = hashlib.shake_256(b"psk" + keys["secret"]).digest(len(keys["mac_key"]))
    session_part = b"the TLS library's"
    return (
        bytes([version])
        + struct.pack(">Q", 1_800_000_000_123)
        + hashlib.sha256(b"scope").digest()
        + lineage
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
        + ahead
    )


def scoped_plaintext(hash_name, address, kind, state, version=6, address_type=None, lineage=LINEAGE + struct.pack(">Q", EPOCH)):
    """What a ticket of draft -03 seals: docs/protocol.md section 10."""
    ip, port = address.rsplit(":", 1)
    ip = ipaddress.ip_address(ip.strip("[]"))
    psk = hashlib.shake_256(b"psk").digest(hashlib.new(hash_name).digest_size)
    session_part = b"the TLS library's"
    return (
        bytes([version])
        + struct.pack(">Q", 1_800_000_000_123)
        + hashlib.sha256(b"scope").digest()
        + lineage
        + struct.pack(">Q", 1_800_003_600)
        + bytes([(0 if ip.version == 4 else 1) if address_type is None else address_type])
        + ip.packed
        + struct.pack(">H", int(port))
        + bytes([["sha256", "sha384"].index(hash_name)])
        + psk
        + struct.pack(">H", len(session_part))
        + session_part
        + bytes([kind])
        + struct.pack(">H", len(state))
        + state
    )


def scoped_vectors():
    for hash_name in ("sha256", "sha384"):
        for address in ("192.0.2.7:443", "[2001:db8::7]:8443"):
            for name, kind, state in (("connection", 0, b""), ("stream", 1, b"where to go on")):
                yield {
                    "name": f"draft -03, {hash_name}, {address}: {name}",
                    "target": address,
                    "lineage": LINEAGE.hex(),
                    "epoch": EPOCH,
                    "state": state.hex() if kind == 1 else None,
                    "plaintext": scoped_plaintext(hash_name, address, kind, state).hex(),
                }
    address = "192.0.2.7:443"
    for name, value in (
        ("unknown address type", scoped_plaintext("sha256", address, 0, b"", address_type=2)),
        ("an IPv6 address that is cut", scoped_plaintext("sha256", address, 0, b"", address_type=1)),
        ("a connection with state", scoped_plaintext("sha256", address, 0, b"state")),
        ("version 4, of before lineages", scoped_plaintext("sha256", address, 0, b"", version=4, lineage=b"")),
        ("version 4", scoped_plaintext("sha256", address, 0, b"", version=4)),
        ("no lineage", scoped_plaintext("sha256", address, 0, b"", lineage=b"")),
        ("one trailing byte", scoped_plaintext("sha256", address, 1, b"") + b"\0"),
    ):
        yield {"name": f"draft -03: {name}", "malformed": True, "plaintext": value.hex()}


def request_vectors():
    def message(body):
        return b"\xfd" + len(body).to_bytes(3, "big") + body

    for name, target in (
        ("no target: the client's own choice", b""),
        ("an address", b"192.0.2.7:443"),
        ("a name", b"node-b.example:443"),
        ("bytes", bytes(range(256))),
    ):
        yield {"name": name, "target": target.hex(), "message": message(struct.pack(">H", len(target)) + target).hex()}
    for name, body in (
        ("no length", b""),
        ("a length that is cut", b"\0"),
        ("a target that is cut", b"\0\5node"),
        ("one trailing byte", b"\0\4node\0"),
    ):
        yield {"name": name, "malformed": True, "message": message(body).hex()}


def plaintext_vectors():
    yield from scoped_vectors()
    line = {"lineage": LINEAGE.hex(), "epoch": EPOCH}
    for hash_name in ("sha256", "sha384"):
        keys = session(hash_name, b"sealed")
        for name, kind, state in (
            ("connection", 0, b""),
            ("stream, empty state", 1, b""),
            ("stream, state", 1, b"where to go on"),
            ("stream, largest state", 1, bytes(8192)),
        ):
            shown = state.hex() if kind == 1 else None
            yield {"name": f"{hash_name}: {name}", **line, "state": shown, "plaintext": plaintext(keys, kind, state).hex()}
        for ahead in (0, 1_000_000):
            value = plaintext(keys, 2, b"where to go on", ahead=struct.pack(">Q", ahead))
            name = f"{hash_name}: checkpoint, {ahead} bytes ahead"
            yield {"name": name, **line, "state": b"where to go on".hex(), "ahead": ahead, "plaintext": value.hex()}
    keys = session("sha256", b"sealed")
    for name, value in (
        ("a connection with state", plaintext(keys, 0, b"state")),
        ("unknown kind", plaintext(keys, 3, b"")),
        ("a checkpoint that does not say how far it is ahead", plaintext(keys, 2, b"")),
        ("version 2, of before lineages", plaintext(keys, 0, b"", version=2, lineage=b"")),
        ("version 2", plaintext(keys, 0, b"", version=2)),
        ("no lineage", plaintext(keys, 0, b"", lineage=b"")),
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
        ("version 5", ordinary_plaintext(session_part, version=5)),
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
        "migrate_requests": list(request_vectors()),
        "lineages": list(lineage_vectors()),
        "sealed_plaintexts": list(plaintext_vectors()),
        "ordinary_plaintexts": list(ordinary_vectors()),
    }
    path = pathlib.Path(__file__).with_name("vectors.json")
    path.write_text(json.dumps(vectors, indent=2) + "\n")


if __name__ == "__main__":
    main()
