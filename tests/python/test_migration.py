"""Token codec, derivations and the client's checks, without a network."""

import hashlib
import hmac
import ipaddress
import unittest
from dataclasses import replace

from keys import SUITES
from migration import MIGRATION_STREAM, Keys, MigrationToken, move_kind, target_allowed, token_faults
from tls13 import Session
from wire import DecodeError

MASTER = bytes(range(32))
NOW = 1_800_000_000.0
HERE = ipaddress.ip_address("127.0.0.2")


def hkdf_expand(hash_name: str, key: bytes, label: str, length: int) -> bytes:
    """HKDF-Expand-Label with empty context, one or two blocks, from the RFCs' formulas with the standard library."""
    full = b"tls13 " + label.encode()
    info = length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
    first = hmac.digest(key, info + b"\x01", hash_name)
    return (first + hmac.digest(key, first + info + b"\x02", hash_name))[:length]


def session(suite: str = "TLS_AES_128_GCM_SHA256", lifetime: int = 60) -> Session:
    """A session with a fixed resumption master secret."""
    chosen = SUITES[suite]
    master = (MASTER * 2)[: chosen.hash_length]
    return Session(b"ticket", b"", chosen, 0, lifetime, NOW, 0, {}, master)


def token(for_session: Session, target: str = "127.0.0.3", **changes) -> MigrationToken:
    """A token that `for_session` signs."""
    keys = Keys.of(for_session)
    plain = MigrationToken(ipaddress.ip_address(target), 4433, keys.session_id, int(NOW) + 60, bytes(16), b"")
    return keys.sign(replace(plain, **changes))


class Codec(unittest.TestCase):
    """protocol.md section 2."""

    def test_an_ipv4_token_is_laid_out_as_the_draft_says(self):
        plain = MigrationToken(
            ipaddress.ip_address("192.0.2.1"), 0x1151, b"\x01" * 32, 0x0102030405060708, b"\x02" * 16, b"\x03" * 32
        )
        expected = "00c00002011151" + "20" + "01" * 32 + "0102030405060708" + "10" + "02" * 16 + "20" + "03" * 32
        self.assertEqual(plain.encode().hex(), expected)
        self.assertEqual(len(plain.encode()), 98)
        self.assertEqual(MigrationToken.decode(plain.encode()), plain)

    def test_an_ipv6_token_survives_the_round_trip(self):
        plain = token(session(), "::1")
        self.assertEqual(plain.encode()[0], 1)
        self.assertEqual(MigrationToken.decode(plain.encode()), plain)
        self.assertEqual(plain.target, "[::1]:4433")

    def test_longest_and_shortest_fields_are_read(self):
        for length in (32, 255):
            plain = token(session(), session_id=bytes(length), nonce=bytes(max(16, length)))
            self.assertEqual(MigrationToken.decode(plain.encode()), plain)

    def test_every_truncation_and_trailing_bytes_are_refused(self):
        data = token(session()).encode()
        for end in range(len(data)):
            with self.subTest(end=end), self.assertRaises(DecodeError):
                MigrationToken.decode(data[:end])
        with self.assertRaisesRegex(DecodeError, "trailing"):
            MigrationToken.decode(data + b"\0")

    def test_an_unknown_address_type_is_refused(self):
        data = token(session()).encode()
        with self.assertRaisesRegex(DecodeError, "address type 2"):
            MigrationToken.decode(b"\x02" + data[1:])

    def test_fields_below_their_minimum_are_refused(self):
        good = token(session())
        for short in (
            replace(good, session_id=bytes(31)),
            replace(good, nonce=bytes(15)),
            replace(good, signature=bytes(31)),
        ):
            with self.assertRaises(DecodeError):
                MigrationToken.decode(short.encode())


class Derivations(unittest.TestCase):
    """The formulas of protocol.md section 2, computed a second way."""

    def test_session_id_mac_key_and_signature_follow_the_formulas_for_both_hashes(self):
        for suite, hash_name in (("TLS_AES_128_GCM_SHA256", "sha256"), ("TLS_AES_256_GCM_SHA384", "sha384")):
            with self.subTest(hash=hash_name):
                here = session(suite)
                keys = Keys.of(here)
                size = hashlib.new(hash_name).digest_size
                master = here.resumption_master
                self.assertEqual(keys.session_id, hkdf_expand(hash_name, master, "migration id", 32))
                self.assertEqual(keys.mac_key, hkdf_expand(hash_name, master, "migration key", size))
                signed = token(here)
                self.assertEqual(signed.signed_bytes(), signed.encode()[: -1 - size])
                self.assertEqual(signed.signature, hmac.digest(keys.mac_key, signed.signed_bytes(), hash_name))


class Checks(unittest.TestCase):
    """What the client checks when a token arrives."""

    def test_a_good_token_has_no_faults(self):
        self.assertEqual(token_faults(token(session()), session(), HERE), [])

    def test_migration_stream_says_what_goes_on_by_its_length(self):
        kinds = {None: "connection", 0: "stream", 8: "checkpoint"}
        for length in (None, *range(10)):
            extensions = {} if length is None else {MIGRATION_STREAM: bytes(length)}
            found = replace(session(), extensions=extensions)
            if length in kinds:
                self.assertEqual(move_kind(found), kinds[length])
            else:
                self.assertRaises(DecodeError, move_kind, found)

    def test_a_token_of_another_session_is_dropped(self):
        other = replace(session(), resumption_master=bytes(32))
        faults = token_faults(token(other), session(), HERE)
        self.assertEqual(len(faults), 2)

    def test_each_changed_byte_of_the_signed_part_breaks_the_signature(self):
        good = token(session())
        keys = Keys.of(session())
        data = good.encode()
        for at in range(1, len(good.signed_bytes())):
            changed = bytearray(data)
            changed[at] ^= 1
            try:
                other = MigrationToken.decode(bytes(changed))
            except DecodeError:
                continue
            self.assertFalse(keys.signature_valid(other), f"byte {at}")

    def test_a_ticket_without_a_lifetime_is_dropped(self):
        faults = token_faults(token(session()), session(lifetime=0), HERE)
        self.assertEqual(faults, ["its ticket has no lifetime"])

    def test_a_ticket_that_outlives_its_token_is_a_fault(self):
        self.assertIn("its ticket outlives it", token_faults(token(session()), session(lifetime=7200), HERE))


class TargetPolicy(unittest.TestCase):
    """protocol.md section 4: no wider than where I am."""

    def test_targets_are_allowed_by_class(self):
        cases = [
            ("127.0.0.1", "127.0.0.3", True),
            ("127.0.0.1", "::1", True),
            ("127.0.0.1", "1.1.1.1", True),
            ("127.0.0.1", "10.0.0.1", False),
            ("10.0.0.1", "192.168.1.1", True),
            ("10.0.0.1", "127.0.0.1", False),
            ("1.1.1.1", "2606:4700::1111", True),
            ("1.1.1.1", "10.0.0.1", False),
            ("1.1.1.1", "127.0.0.1", False),
            ("1.1.1.1", "::ffff:127.0.0.1", False),
        ]
        for here, target, allowed in cases:
            with self.subTest(here=here, target=target):
                self.assertIs(target_allowed(ipaddress.ip_address(here), ipaddress.ip_address(target)), allowed)

    def test_no_client_follows_to_special_addresses(self):
        for target in ("224.0.0.1", "ff02::1", "255.255.255.255", "0.0.0.0", "::", "169.254.1.1", "fe80::1"):
            for here in ("127.0.0.1", "10.0.0.1", "1.1.1.1", target):
                with self.subTest(here=here, target=target):
                    self.assertFalse(target_allowed(ipaddress.ip_address(here), ipaddress.ip_address(target)))


if __name__ == "__main__":
    unittest.main()
