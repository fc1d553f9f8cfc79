"""The command-line client from end to end, against the scripted server."""

import contextlib
import io
import json
import socket
import tempfile
import unittest
from pathlib import Path

import migrating_client
from keys import SUITES
from migration import MigrationToken
from peers import SERVER_NAME, Authority, write_pem
from scripted_server import Realm, Script, ScriptedServer


class ClientCase(unittest.TestCase):
    """Starts B on 127.0.0.3 and A on 127.0.0.2 and runs the client against them."""

    def start(self, source: Script | None = None, target: Script | None = None) -> None:
        self.realm = Realm()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.ca = write_pem(Path(folder.name) / "ca.pem", [self.realm.authority.certificate])
        self.b = self.enterContext(ScriptedServer(self.realm, target or Script(), "127.0.0.3"))
        source = source or Script()
        source.target = source.target or self.b.address
        self.a = self.enterContext(ScriptedServer(self.realm, source, "127.0.0.2"))

    def run_client(self, *options: str) -> tuple[int, dict, str]:
        """Exit status, report and error line of one run."""
        host, port = self.a.address
        arguments = ["--connect", f"{host}:{port}", "--server-name", SERVER_NAME, "--ca", str(self.ca), "--json"]
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = migrating_client.main([*arguments, "--timeout", "10", *options])
        return status, json.loads(output.getvalue()), errors.getvalue()

    def report_of(self, *options: str) -> dict:
        """The report of a run that must end with status 0 and no error."""
        status, report, errors = self.run_client(*options)
        self.assertEqual((status, errors), (0, ""))
        return report


class Migration(ClientCase):
    """Runs where everything holds."""

    def test_each_suite_moves_from_a_to_b_with_its_early_line(self):
        self.start()
        for suite in SUITES:
            with self.subTest(suite=suite):
                self.realm.early_lines.clear()
                report = self.report_of("--suite", suite, "--send", "one", "--await-bytes", "12", "--send-early", "two")
                a, b = report["legs"]
                self.assertEqual((a["handshake"], a["received_prefix"], a["suite"]), ("full", "A heard one\n", suite))
                self.assertEqual((b["handshake"], b["early_data"], b["suite"]), ("resumed", True, suite))
                self.assertEqual((b["received_prefix"], b["end"]), ("B heard two\n", "close_notify"))
                self.assertTrue(report["token"]["signature_valid"] and report["token"]["session_id_valid"])
                self.assertEqual(report["token"]["target"], b["address"])
                self.assertEqual(self.realm.early_lines, [b"two\n"])

    def test_the_client_waits_for_migrate_notify_and_keeps_what_came_before_it(self):
        self.start(Script(notify=True))
        report = self.report_of("--until-notify", "--send-early", "two")
        self.assertTrue(report["notified"])
        self.assertEqual(report["legs"][0]["received_prefix"], "last words of A\n")

    def test_drain_reads_a_to_its_end_and_uses_its_last_token(self):
        self.start(Script(drain=True, stream=b""))
        report = self.report_of("--drain", "--send-early", "two")
        self.assertEqual(report["legs"][0]["received_prefix"], "rest of A\n")
        self.assertEqual((report["legs"][0]["end"], report["legs"][0]["tokens"]), ("close_notify", 2))
        _, _, last = list(self.realm.tickets.values())[-1]
        self.assertEqual(report["token"]["nonce"], MigrationToken.decode(last).nonce.hex())
        self.assertEqual(report["token"]["kind"], "stream")

    def test_a_connection_move_leaves_a_to_end_by_itself(self):
        self.start(Script(notify=True, leave=True))
        report = self.report_of("--until-notify", "--drain", "--send-early", "two")
        self.assertEqual(report["token"]["kind"], "connection")
        self.assertEqual(report["legs"][0]["end"], "close_notify")
        self.assertEqual(report["legs"][1]["received_prefix"], "B heard two\n")

    def test_a_ticket_without_early_data_moves_the_line_in_1_rtt(self):
        self.start(Script(max_early_data=0))
        b = self.report_of("--send-early", "two")["legs"][1]
        self.assertEqual((b["handshake"], b["early_data"]), ("resumed", False))
        self.assertEqual(b["received_prefix"], "B heard two\n")

    def test_a_retry_on_b_keeps_the_session_and_sends_the_line_in_1_rtt(self):
        self.start()
        options = ("--group", "x25519", "--offer-group-first", "secp384r1", "--retry-leg", "b", "--send-early", "two")
        a, b = self.report_of(*options)["legs"]
        self.assertEqual((a["hello_retry"], b["hello_retry"]), (False, True))
        self.assertEqual((b["handshake"], b["early_data_offered"], b["early_data"]), ("resumed", True, False))
        self.assertEqual(b["received_prefix"], "B heard two\n")

    def test_a_fragmented_hello_makes_no_difference(self):
        self.start()
        b = self.report_of("--hello-fragments", "9", "--send-early", "two")["legs"][1]
        self.assertEqual((b["handshake"], b["early_data"]), ("resumed", True))


class Adversary(ClientCase):
    """The adversary options send what they say, and report the answer."""

    def setUp(self) -> None:
        self.start()

    def test_a_changed_token_gets_a_full_handshake_and_the_line_still_arrives(self):
        changes = [
            ("--forge", "target=127.0.0.9:1"),
            ("--forge", "expiry=3600"),
            ("--forge", "nonce"),
            ("--corrupt", "token-signature"),
            ("--corrupt", "token-truncate"),
            ("--corrupt", "token-trailing"),
            ("--corrupt", "ticket"),
            ("--no-token",),
            ("--no-psk",),
        ]
        for change in changes:
            with self.subTest(change=change):
                b = self.report_of(*change, "--send-early", "two")["legs"][1]
                self.assertEqual((b["handshake"], b["early_data"]), ("full", False))
                self.assertEqual(b["received_prefix"], "B heard two\n")
        self.assertEqual(self.realm.early_lines, [])

    def test_a_spoiled_binder_is_reported_as_the_servers_alert(self):
        b = self.report_of("--corrupt", "binder")["legs"][1]
        self.assertEqual((b["handshake"], b["alert"], b["end"]), (None, 51, "alert"))

    def test_a_replay_is_reported_as_a_leg_of_its_own(self):
        b, replay = self.report_of("--replay", "--send-early", "two")["legs"][1:]
        self.assertEqual((b["handshake"], b["early_data"]), ("resumed", True))
        self.assertEqual((replay["leg"], replay["handshake"], replay["early_data"]), ("replay", "full", False))

    def test_a_copied_first_flight_takes_the_early_data_and_not_the_session(self):
        copy, b = self.report_of("--raw-hello-copy", "--send-early", "two")["legs"][1:]
        self.assertEqual((copy["leg"], copy["handshake"], copy["early_data"]), ("copy", "resumed", None))
        self.assertEqual((b["handshake"], b["early_data"]), ("resumed", False))
        self.assertEqual(b["received_prefix"], "B heard two\n")


class Faults(ClientCase):
    """Status 1 and one line that says what is wrong."""

    def check_fault(self, reason: str, *options: str) -> dict:
        status, report, errors = self.run_client(*options)
        self.assertEqual(status, 1)
        self.assertEqual(errors.count("\n"), 1)
        self.assertRegex(errors, reason)
        return report

    def test_a_token_with_a_bad_signature_is_not_followed(self):
        self.start(Script(spoil=lambda token: migrating_client.flip(token, -1)))
        report = self.check_fault("signature does not verify", "--timeout", "2")
        self.assertEqual([leg["leg"] for leg in report["legs"]], ["a"])

    def test_a_token_with_trailing_bytes_is_not_followed(self):
        self.start(Script(spoil=lambda token: token + b"\0"))
        self.check_fault("trailing", "--timeout", "2")

    def test_a_token_to_a_wider_address_is_not_followed(self):
        self.start(Script(target=("10.0.0.1", 4433)))
        self.check_fault("wider", "--timeout", "2")

    def test_a_missing_notification_is_named(self):
        self.start()
        self.check_fault("before migrate_notify", "--until-notify", "--timeout", "2")

    def test_a_b_that_ends_without_close_notify_is_a_fault(self):
        self.start(target=Script(mute=True))
        self.check_fault("ended with truncated", "--send-early", "two")

    def test_a_b_that_does_not_listen_is_named(self):
        self.start()
        with socket.create_server(("127.0.0.3", 0)) as closed:
            address = closed.getsockname()
        self.check_fault("cannot connect", "--connect-b", f"{address[0]}:{address[1]}")

    def test_a_server_of_another_authority_is_refused(self):
        self.start()
        write_pem(self.ca, [Authority("Other").certificate])
        self.check_fault("no trusted issuer")

    def test_a_file_without_certificates_is_named(self):
        self.start()
        self.ca.write_bytes(b"")
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            status = migrating_client.main(["--connect", "127.0.0.1:1", "--server-name", "x", "--ca", str(self.ca)])
        self.assertEqual(status, 1)
        self.assertIn("cannot read", errors.getvalue())


if __name__ == "__main__":
    unittest.main()
