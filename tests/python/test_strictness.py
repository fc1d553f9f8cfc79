"""The client refuses a server that breaks RFC 8446, with the alert that the RFC names."""

import socket
import unittest
from collections.abc import Callable
from dataclasses import replace

import messages as hs
from keys import GROUPS
from migrating_client import flip
from peers import PATIENCE_S, SERVER_NAME
from records import ProtocolError
from scripted_server import Realm, Script, ScriptedServer
from tls13 import ClientConfig, Connection
from wire import uint, vector

DECRYPT_ERROR, ILLEGAL_PARAMETER, DECODE_ERROR = 51, 47, 50
BAD_CERTIFICATE, UNEXPECTED_MESSAGE, UNSUPPORTED_EXTENSION, PROTOCOL_VERSION = 42, 10, 110, 70
SESSION_ID_AT = 4 + 2 + 32 + 1
SUITE_AT = SESSION_ID_AT + 32


def only(kind: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Apply `change` to the messages of one type."""
    return lambda raw: change(raw) if raw[0] == kind else raw


def with_extension(raw: bytes, kind: int, data: bytes, block_at: int) -> bytes:
    """A message with one more extension; its block, the message's last field, starts at `block_at`."""
    block = raw[block_at + 2 :] + uint(kind, 2) + vector(data, 2)
    return hs.message(raw[0], raw[4:block_at] + vector(block, 2))


def retry_for(raw: bytes, group: str) -> bytes:
    """A HelloRetryRequest for `group` in place of a ServerHello."""
    head = raw[4:6] + hs.RETRY_RANDOM + raw[SESSION_ID_AT - 1 : SUITE_AT + 3]
    extensions = {hs.SUPPORTED_VERSIONS: uint(hs.TLS13, 2), hs.KEY_SHARE: uint(GROUPS[group], 2)}
    return hs.message(hs.SERVER_HELLO, head + hs.encode_extensions(extensions))


class Strictness(unittest.TestCase):
    """One broken message each."""

    def setUp(self) -> None:
        self.realm = Realm()
        self.config = ClientConfig(SERVER_NAME, [self.realm.authority.certificate])

    def check_refused(self, tamper: Callable[[bytes], bytes], alert: int, reason: str, **changes) -> None:
        with ScriptedServer(self.realm, Script(tamper=tamper)) as server:
            with socket.create_connection(server.address, PATIENCE_S) as sock:
                with self.assertRaisesRegex(ProtocolError, reason) as raised:
                    Connection(replace(self.config, **changes)).handshake(sock)
        self.assertEqual(raised.exception.alert, alert)

    def test_the_untouched_handshake_is_accepted(self):
        with ScriptedServer(self.realm, Script()) as server:
            with socket.create_connection(server.address, PATIENCE_S) as sock:
                Connection(self.config).handshake(sock)

    def test_a_changed_finished_is_refused(self):
        self.check_refused(only(hs.FINISHED, lambda raw: flip(raw, -1)), DECRYPT_ERROR, "Finished does not verify")

    def test_a_changed_certificate_verify_is_refused(self):
        change = only(hs.CERTIFICATE_VERIFY, lambda raw: flip(raw, -1))
        self.check_refused(change, BAD_CERTIFICATE, "bad signature")

    def test_a_session_id_that_is_not_echoed_is_refused(self):
        change = only(hs.SERVER_HELLO, lambda raw: flip(raw, SESSION_ID_AT))
        self.check_refused(change, ILLEGAL_PARAMETER, "not echoed")

    def test_a_suite_that_was_not_offered_is_refused(self):
        change = only(hs.SERVER_HELLO, lambda raw: raw[:SUITE_AT] + b"\x13\x02" + raw[SUITE_AT + 2 :])
        self.check_refused(change, ILLEGAL_PARAMETER, "not offered", suites=("TLS_AES_128_GCM_SHA256",))

    def test_a_server_hello_without_supported_versions_is_refused(self):
        change = only(hs.SERVER_HELLO, lambda raw: hs.message(raw[0], raw[4 : SUITE_AT + 3] + b"\0\0"))
        self.check_refused(change, PROTOCOL_VERSION, "TLS 1.3")

    def test_a_psk_that_was_not_offered_is_refused(self):
        change = only(hs.SERVER_HELLO, lambda raw: with_extension(raw, hs.PRE_SHARED_KEY, b"\0\0", SUITE_AT + 3))
        self.check_refused(change, UNSUPPORTED_EXTENSION, "not offered")

    def test_an_extension_that_was_not_asked_for_is_refused(self):
        change = only(hs.ENCRYPTED_EXTENSIONS, lambda raw: with_extension(raw, 0x1234, b"", 4))
        self.check_refused(change, UNSUPPORTED_EXTENSION, "unasked")

    def test_early_data_accepted_without_a_session_is_refused(self):
        change = only(hs.ENCRYPTED_EXTENSIONS, lambda raw: with_extension(raw, hs.EARLY_DATA, b"", 4))
        self.check_refused(change, UNSUPPORTED_EXTENSION, "unasked")

    def test_a_retry_for_a_group_that_had_a_share_is_refused(self):
        change = only(hs.SERVER_HELLO, lambda raw: retry_for(raw, "x25519"))
        self.check_refused(change, ILLEGAL_PARAMETER, "HelloRetryRequest for group")

    def test_a_retry_for_a_group_that_was_not_offered_is_refused(self):
        change = only(hs.SERVER_HELLO, lambda raw: retry_for(raw, "secp521r1"))
        self.check_refused(change, ILLEGAL_PARAMETER, "HelloRetryRequest for group")

    def test_a_second_retry_is_refused(self):
        change = only(hs.SERVER_HELLO, lambda raw: retry_for(raw, "x25519"))
        self.check_refused(change, UNEXPECTED_MESSAGE, "second HelloRetryRequest", share_groups=())

    def test_a_message_out_of_order_is_refused(self):
        change = only(hs.CERTIFICATE, lambda raw: hs.message(hs.FINISHED, raw[4:]))
        self.check_refused(change, UNEXPECTED_MESSAGE, "handshake message 20")

    def test_trailing_bytes_in_a_message_are_refused(self):
        change = only(hs.ENCRYPTED_EXTENSIONS, lambda raw: hs.message(raw[0], raw[4:] + b"\0"))
        self.check_refused(change, DECODE_ERROR, "trailing")


if __name__ == "__main__":
    unittest.main()
