"""The TLS 1.3 client against `openssl s_server`."""

import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID

from keys import SUITES
from peers import SERVER_NAME, Authority, OpensslServer, ca_extension, usage_extension, write_pem
from records import ProtocolError
from tls13 import AlertReceived, ClientConfig, Closed, Connection, Data, Session, Ticket

EARLY = ("-early_data", "-max_early_data", "4096")


class OpensslCase(unittest.TestCase):
    """Gives each test an authority and a folder."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.authority = Authority()
        self.config = ClientConfig(SERVER_NAME, [self.authority.certificate])

    def server(self, *options: str, kind: str = "p256", **certificate) -> OpensslServer:
        """A server with a fresh certificate of this test's authority."""
        leaf, key = self.authority.issue(kind, **certificate)
        return OpensslServer(write_pem(self.folder / f"{kind}.pem", [leaf], key), *options)

    def server_below(self, *authorities: Authority) -> OpensslServer:
        """A server with a certificate of the first of `authorities`, which it sends all."""
        leaf, key = authorities[0].issue()
        chain = write_pem(self.folder / "chain.pem", [authority.certificate for authority in authorities])
        return OpensslServer(write_pem(self.folder / "leaf.pem", [leaf], key), "-cert_chain", str(chain))

    def events_until(self, connection: Connection, kind: type):
        """The first event of `kind`."""
        while not isinstance(event := connection.read_event(), kind):
            self.assertNotIsInstance(event, Closed)
        return event

    def check_echo(self, server: OpensslServer, connection: Connection) -> None:
        """Data crosses in both directions."""
        connection.write(b"ping to the server\n")
        server.wait_for(b"ping to the server")
        server.say(b"pong to the client\n")
        self.assertEqual(self.events_until(connection, Data).content, b"pong to the client\n")

    def first_session(self, server: OpensslServer, config: ClientConfig) -> Session:
        """A ticket from a full handshake, which is then closed."""
        connection = server.connect(config)
        session = self.events_until(connection, Ticket).session
        connection.close_write()
        self.read_to_end(connection)
        return session

    def read_to_end(self, connection: Connection) -> Closed:
        """The Closed event, after whatever came before it."""
        while not isinstance(event := connection.read_event(), Closed):
            pass
        return event


class FullHandshake(OpensslCase):
    """Suites, groups and keys."""

    def test_each_suite_and_group_carries_data_both_ways(self):
        with self.server() as server:
            for suite, group in zip(SUITES, ("x25519", "secp256r1", "secp384r1"), strict=True):
                with self.subTest(suite=suite, group=group):
                    config = replace(self.config, suites=(suite,), groups=(group,), share_groups=(group,))
                    connection = server.connect(config)
                    self.assertEqual((connection.suite.name, connection.group), (suite, group))
                    self.assertFalse(connection.resumed)
                    self.check_echo(server, connection)
                    server.output = b""
                    connection.close_write()

    def test_each_kind_of_server_key_is_verified(self):
        for kind in ("p256", "p384", "rsa", "ed25519"):
            with self.subTest(kind=kind), self.server(kind=kind) as server:
                self.assertEqual(len(server.connect(self.config).peer_chain), 1)

    def test_a_chain_through_an_intermediate_is_verified(self):
        middle = self.authority.intermediate("Middle CA", ca_extension(0), usage_extension(cert_sign=True))
        with self.server_below(middle) as server:
            self.assertEqual(len(server.connect(self.config).peer_chain), 2)

    def test_a_hello_in_many_records_is_understood(self):
        with self.server() as server:
            self.check_echo(server, server.connect(replace(self.config, hello_fragments=7)))

    def test_a_server_that_asks_for_a_certificate_gets_an_empty_one(self):
        with self.server("-verify", "1") as server:
            self.check_echo(server, server.connect(self.config))

    def test_more_than_one_record_of_data_arrives_whole(self):
        payload = bytes(range(97, 123)) * 1500
        with self.server() as server:
            connection = server.connect(self.config)
            connection.write(payload + b"\n")
            server.wait_for(payload)


class ServerAuthentication(OpensslCase):
    """Certificates that must be refused."""

    def check_refused(self, server: OpensslServer, config: ClientConfig, reason: str) -> None:
        with server, self.assertRaisesRegex(ProtocolError, reason):
            server.connect(config)

    def test_a_certificate_for_another_name_is_refused(self):
        self.check_refused(self.server(name="other.test"), self.config, "not for service.test")

    def test_a_certificate_of_an_unknown_authority_is_refused(self):
        stranger = replace(self.config, trust=[Authority("Stranger").certificate])
        self.check_refused(self.server(), stranger, "no trusted issuer")

    def test_a_certificate_of_a_namesake_authority_is_refused(self):
        namesake = replace(self.config, trust=[Authority().certificate])
        self.check_refused(self.server(), namesake, "no trusted issuer")

    def test_an_expired_certificate_is_refused(self):
        self.check_refused(self.server(days=-1), self.config, "not valid at")

    def test_a_client_certificate_is_refused_as_server(self):
        server = self.server(usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.check_refused(server, self.config, "not for servers")

    def test_a_certificate_signed_by_a_server_certificate_is_refused(self):
        fake = Authority("Fake")
        fake.certificate, fake.key = self.authority.issue()
        fake.name = fake.certificate.subject
        self.check_refused(self.server_below(fake), self.config, "no trusted issuer")

    def test_an_authority_that_may_not_sign_certificates_is_refused(self):
        middle = self.authority.intermediate("Middle CA", ca_extension(), usage_extension(cert_sign=False))
        self.check_refused(self.server_below(middle), self.config, "no trusted issuer")

    def test_a_chain_longer_than_its_path_length_is_refused(self):
        upper = self.authority.intermediate("Upper CA", ca_extension(0))
        self.check_refused(self.server_below(upper.intermediate("Lower CA"), upper), self.config, "no trusted issuer")


class Retry(OpensslCase):
    """HelloRetryRequest."""

    def test_a_server_without_the_offered_group_gets_a_second_hello(self):
        for group in ("secp256r1", "secp384r1", "x25519"):
            code = {"secp256r1": "P-256", "secp384r1": "P-384", "x25519": "X25519"}[group]
            with self.subTest(group=group), self.server("-groups", code) as server:
                config = replace(self.config, groups=("secp521r1", group), share_groups=("secp521r1",))
                connection = server.connect(config)
                self.assertEqual((connection.hello_retry, connection.group), (True, group))
                self.check_echo(server, connection)

    def test_a_hello_without_key_share_is_retried(self):
        with self.server() as server:
            connection = server.connect(replace(self.config, share_groups=()))
            self.assertTrue(connection.hello_retry)
            self.check_echo(server, connection)

    def test_a_session_resumes_across_a_retry_and_loses_its_early_data(self):
        with self.server(*EARLY, "-no_anti_replay") as server:
            session = self.first_session(server, self.config)
            config = replace(self.config, session=session, early_data=b"too early\n", share_groups=())
            connection = server.connect(config)
            self.assertTrue(connection.hello_retry and connection.resumed and connection.early_data_offered)
            self.assertFalse(connection.early_data_accepted)
            self.check_echo(server, connection)
            self.assertNotIn(b"too early", server.output)


class Resumption(OpensslCase):
    """Tickets, binders and 0-RTT."""

    def test_each_suite_resumes_with_early_data(self):
        for suite in SUITES:
            with self.subTest(suite=suite), self.server(*EARLY) as server:
                config = replace(self.config, suites=(suite,))
                session = self.first_session(server, config)
                self.assertEqual(session.max_early_data, 4096)
                connection = server.connect(replace(config, session=session, early_data=b"early bird\n"))
                self.assertTrue(connection.resumed and connection.early_data_accepted)
                server.wait_for(b"early bird")
                self.check_echo(server, connection)

    def test_a_ticket_without_early_data_resumes_without_it(self):
        with self.server() as server:
            session = self.first_session(server, self.config)
            connection = server.connect(replace(self.config, session=session, early_data=b"early bird\n"))
            self.assertTrue(connection.resumed)
            self.assertFalse(connection.early_data_offered)

    def test_a_replayed_ticket_gets_a_full_handshake_and_its_early_data_is_ignored(self):
        with self.server(*EARLY) as server:
            session = self.first_session(server, self.config)
            config = replace(self.config, session=session, early_data=b"early bird\n")
            first = server.connect(config)
            server.wait_for(b"early bird")
            first.close_write()
            self.read_to_end(first)
            second = server.connect(config)
            self.assertFalse(second.resumed or second.early_data_accepted)
            self.check_echo(server, second)
            self.assertEqual(server.output.count(b"early bird"), 1)

    def test_a_resumed_session_issues_tickets_that_resume(self):
        with self.server() as server:
            session = self.first_session(server, self.config)
            again = self.first_session(server, replace(self.config, session=session))
            self.assertTrue(server.connect(replace(self.config, session=again)).resumed)

    def test_a_spoiled_binder_is_answered_with_an_alert(self):
        with self.server() as server:
            session = self.first_session(server, self.config)
            with self.assertRaises(AlertReceived) as raised:
                server.connect(replace(self.config, session=session, corrupt_binder=True))
            self.assertIn(raised.exception.description, (47, 51))

    def test_a_spoiled_ticket_gets_a_full_handshake(self):
        with self.server() as server:
            session = self.first_session(server, self.config)
            spoiled = replace(session, ticket=bytes(len(session.ticket)))
            connection = server.connect(replace(self.config, session=spoiled))
            self.assertFalse(connection.resumed)
            self.check_echo(server, connection)

    def test_a_session_of_another_hash_is_not_resumed(self):
        with self.server() as server:
            session = self.first_session(server, replace(self.config, suites=("TLS_AES_256_GCM_SHA384",)))
            config = replace(self.config, session=session, suites=("TLS_AES_128_GCM_SHA256",))
            self.assertFalse(server.connect(config).resumed)


class AfterTheHandshake(OpensslCase):
    """KeyUpdate, alerts and the end of data."""

    def test_data_crosses_after_key_updates_with_and_without_a_request(self):
        with self.server() as server:
            connection = server.connect(self.config)
            for command in (b"k\n", b"K\n", b"k\n"):
                server.say(command)
                self.check_echo(server, connection)
                server.output = b""

    def test_a_requested_key_update_is_answered(self):
        with self.server("-msg") as server:
            connection = server.connect(self.config)
            server.say(b"K\n")
            self.check_echo(server, connection)
            server.say(b"more\n")
            self.events_until(connection, Data)
            connection.write(b"after the update\n")
            server.wait_for(rb"<<< [^\n]*KeyUpdate")
            server.wait_for(b"after the update")

    def test_close_notify_is_answered_and_ends_the_data(self):
        with self.server() as server:
            connection = server.connect(self.config)
            self.check_echo(server, connection)
            connection.close_write()
            self.assertFalse(self.read_to_end(connection).truncated)

    def test_an_end_without_close_notify_is_told_apart(self):
        with self.server() as server:
            connection = server.connect(self.config)
            self.check_echo(server, connection)
            server.die()
            self.assertTrue(self.read_to_end(connection).truncated)

    def test_a_server_that_speaks_only_tls_1_2_is_refused(self):
        with self.server("-tls1_2") as server, self.assertRaises((AlertReceived, ProtocolError)):
            server.connect(self.config)

    def test_a_suite_that_the_server_lacks_ends_in_its_alert(self):
        with self.server("-ciphersuites", "TLS_AES_128_GCM_SHA256") as server:
            with self.assertRaises(AlertReceived) as raised:
                server.connect(replace(self.config, suites=("TLS_CHACHA20_POLY1305_SHA256",)))
            self.assertEqual(raised.exception.description, 40)


if __name__ == "__main__":
    unittest.main()
