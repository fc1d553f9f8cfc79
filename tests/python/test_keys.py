"""Key schedule, records and message codecs against the figures of RFC 8448."""

import unittest

from cryptography import x509

import rfc8448 as rfc
from certificates import CertificateError, verify_signature
from keys import (
    SUITES,
    BadRecord,
    KeySchedule,
    RecordCipher,
    Transcript,
    expand_label,
    finished_mac,
    resumption_psk,
)
from messages import (
    PRE_SHARED_KEY,
    ClientHello,
    NewSessionTicket,
    ServerHello,
    decode_certificate,
    decode_certificate_verify,
    read_extensions,
)
from wire import DecodeError, Reader

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]


def transcript(*messages: bytes) -> Transcript:
    """A transcript of the given messages."""
    result = Transcript()
    for message in messages:
        result.add(message)
    return result


THROUGH_VERIFY = (
    rfc.CLIENT_HELLO,
    rfc.SERVER_HELLO,
    rfc.ENCRYPTED_EXTENSIONS,
    rfc.CERTIFICATE,
    rfc.CERTIFICATE_VERIFY,
)


class KeyScheduleFigures(unittest.TestCase):
    """RFC 8448 sections 3 and 4."""

    def test_the_secrets_of_a_full_handshake_are_those_of_the_rfc(self):
        hello = transcript(rfc.CLIENT_HELLO, rfc.SERVER_HELLO).digest("sha256")
        finished = transcript(*THROUGH_VERIFY, rfc.SERVER_FINISHED).digest("sha256")
        schedule = KeySchedule("sha256")
        self.assertEqual(schedule.secret, rfc.EARLY_SECRET)
        schedule.add_shared_secret(rfc.SHARED_SECRET)
        self.assertEqual(schedule.secret, rfc.HANDSHAKE_SECRET)
        self.assertEqual(schedule.derive("c hs traffic", hello), rfc.CLIENT_HANDSHAKE_TRAFFIC)
        self.assertEqual(schedule.derive("s hs traffic", hello), rfc.SERVER_HANDSHAKE_TRAFFIC)
        schedule.add_nothing()
        self.assertEqual(schedule.secret, rfc.MASTER_SECRET)
        self.assertEqual(schedule.derive("c ap traffic", finished), rfc.CLIENT_APPLICATION_TRAFFIC)
        self.assertEqual(schedule.derive("s ap traffic", finished), rfc.SERVER_APPLICATION_TRAFFIC)

    def test_both_finished_messages_are_those_of_the_rfc(self):
        server = transcript(*THROUGH_VERIFY).digest("sha256")
        client = transcript(*THROUGH_VERIFY, rfc.SERVER_FINISHED).digest("sha256")
        self.assertEqual(finished_mac("sha256", rfc.SERVER_HANDSHAKE_TRAFFIC, server), rfc.SERVER_FINISHED[4:])
        self.assertEqual(finished_mac("sha256", rfc.CLIENT_HANDSHAKE_TRAFFIC, client), rfc.CLIENT_FINISHED[4:])

    def test_resumption_master_secret_and_psk_are_those_of_the_rfc(self):
        schedule = KeySchedule("sha256")
        schedule.add_shared_secret(rfc.SHARED_SECRET)
        schedule.add_nothing()
        whole = transcript(*THROUGH_VERIFY, rfc.SERVER_FINISHED, rfc.CLIENT_FINISHED).digest("sha256")
        master = schedule.derive("res master", whole)
        self.assertEqual(master, rfc.RESUMPTION_MASTER)
        self.assertEqual(resumption_psk("sha256", master, rfc.TICKET_NONCE), rfc.RESUMPTION_PSK)

    def test_binder_and_early_traffic_secret_of_a_resumed_hello_are_those_of_the_rfc(self):
        schedule = KeySchedule("sha256", rfc.RESUMPTION_PSK)
        covered = rfc.RESUMED_CLIENT_HELLO[: -rfc.RESUMED_BINDERS_LENGTH]
        binder = finished_mac("sha256", schedule.derive("res binder"), transcript(covered).digest("sha256"))
        self.assertEqual(binder, rfc.RESUMED_BINDER)
        whole = transcript(rfc.RESUMED_CLIENT_HELLO).digest("sha256")
        self.assertEqual(schedule.derive("c e traffic", whole), rfc.CLIENT_EARLY_TRAFFIC)


class Records(unittest.TestCase):
    """RFC 8446 section 5."""

    def test_the_first_application_record_is_that_of_the_rfc(self):
        writer = RecordCipher(SUITE, rfc.CLIENT_APPLICATION_TRAFFIC)
        self.assertEqual(writer.seal(23, rfc.CLIENT_PAYLOAD), rfc.CLIENT_RECORD)

    def test_each_suite_opens_what_it_sealed_and_moves_its_keys(self):
        for suite in SUITES.values():
            with self.subTest(suite=suite.name):
                secret = bytes(suite.hash_length)
                writer, reader = RecordCipher(suite, secret), RecordCipher(suite, secret)
                for _ in range(2):
                    record = writer.seal(22, b"abc")
                    self.assertEqual(reader.open(record[:5], record[5:]), (22, b"abc"))
                    writer.update()
                    reader.update()

    def test_padding_is_removed_and_a_record_of_padding_alone_is_refused(self):
        secret = bytes(32)
        padded = RecordCipher(SUITE, secret).seal(0, b"abc\x17\0\0")
        self.assertEqual(RecordCipher(SUITE, secret).open(padded[:5], padded[5:]), (23, b"abc"))
        empty = RecordCipher(SUITE, secret).seal(0, b"\0\0")
        with self.assertRaises(BadRecord):
            RecordCipher(SUITE, secret).open(empty[:5], empty[5:])

    def test_a_changed_record_does_not_open(self):
        record = bytearray(RecordCipher(SUITE, bytes(32)).seal(23, b"abc"))
        record[-1] ^= 1
        with self.assertRaises(BadRecord):
            RecordCipher(SUITE, bytes(32)).open(bytes(record[:5]), bytes(record[5:]))


class Messages(unittest.TestCase):
    """Decoders on real messages and on broken ones."""

    def test_the_server_hello_of_the_rfc_is_read(self):
        hello = ServerHello.decode(rfc.SERVER_HELLO)
        self.assertEqual((hello.suite, hello.is_retry, hello.accepts_psk), (0x1301, False, False))
        self.assertEqual(hello.key_share()[0], 0x001D)

    def test_a_client_hello_rebuilt_from_the_fields_of_the_rfc_is_the_same_bytes(self):
        reader = Reader(rfc.RESUMED_CLIENT_HELLO[4:], "ClientHello")
        reader.take(2)
        random, session_id, suites = reader.take(32), reader.vector(1), Reader(reader.vector(2), "suites")
        reader.vector(1)
        extensions = read_extensions(reader, "ClientHello")
        identities = Reader(extensions.pop(PRE_SHARED_KEY), "pre_shared_key")
        identity = Reader(identities.vector(2), "identity")
        ticket, age = identity.vector(2), identity.uint(4)
        hello = ClientHello(random, session_id, [suites.uint(2) for _ in range(3)], extensions)
        rebuilt, covered = hello.with_psk(ticket, age, 32)
        self.assertEqual(rebuilt[:-32] + rfc.RESUMED_BINDER, rfc.RESUMED_CLIENT_HELLO)
        self.assertEqual(covered, len(rfc.RESUMED_CLIENT_HELLO) - rfc.RESUMED_BINDERS_LENGTH)

    def test_every_truncation_of_a_server_hello_or_certificate_is_refused(self):
        for end in range(6, len(rfc.SERVER_HELLO)):
            with self.subTest(message="ServerHello", end=end):
                decode_shorter(self, ServerHello.decode, rfc.SERVER_HELLO[:end])
        for end in range(4, len(rfc.CERTIFICATE)):
            with self.subTest(message="Certificate", end=end), self.assertRaises(DecodeError):
                decode_certificate(rfc.CERTIFICATE[4:end])

    def test_a_doubled_extension_is_refused(self):
        block = bytes.fromhex("0008 002b0000 002b0000")
        with self.assertRaisesRegex(DecodeError, "twice"):
            read_extensions(Reader(block, "test"), "test")

    def test_a_new_session_ticket_is_read_and_trailing_bytes_are_refused(self):
        body = bytes.fromhex("0000001e fad6aac5 020000 0003 aabbcc 0008 002a0004 00000400")
        ticket = NewSessionTicket.decode(body)
        self.assertEqual((ticket.lifetime, ticket.nonce, ticket.ticket), (30, bytes(2), b"\xaa\xbb\xcc"))
        self.assertEqual(ticket.max_early_data, 1024)
        with self.assertRaisesRegex(DecodeError, "trailing"):
            NewSessionTicket.decode(body + b"\0")

    def test_the_certificate_verify_of_the_rfc_verifies_and_a_changed_one_does_not(self):
        leaf = x509.load_der_x509_certificate(decode_certificate(rfc.CERTIFICATE[4:])[0])
        scheme, signature = decode_certificate_verify(rfc.CERTIFICATE_VERIFY[4:])
        digest = transcript(*THROUGH_VERIFY[:-1]).digest("sha256")
        verify_signature(leaf, scheme, signature, digest)
        with self.assertRaises(CertificateError):
            verify_signature(leaf, scheme, signature, bytes(32))


def decode_shorter(case: unittest.TestCase, decode, data: bytes) -> None:
    """Decode a truncated message; only one that ends before its extension block may pass."""
    without_extensions = 4 + 2 + 32 + 1 + 2 + 1
    if len(data) == without_extensions:
        case.assertEqual(decode(data).extensions, {})
    else:
        with case.assertRaises(DecodeError):
            decode(data)


class Labels(unittest.TestCase):
    """HKDF-Expand-Label."""

    def test_a_traffic_key_of_the_rfc_is_expanded(self):
        key = expand_label("sha256", rfc.CLIENT_APPLICATION_TRAFFIC, "key", b"", 16)
        self.assertEqual(key.hex(), "17422dda596ed5d9acd890e3c63f5051")


if __name__ == "__main__":
    unittest.main()
