"""Half-close against the standard library's TLS server, which can write after it has read close_notify."""

import socket
import ssl
import tempfile
import threading
import unittest
from pathlib import Path

from peers import PATIENCE_S, SERVER_NAME, Authority, write_pem
from tls13 import ClientConfig, Closed, Connection, Data

ANSWER = b"0123456789" * 10_000


def answer_after_the_end(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Read one connection to its close_notify, then answer and close."""
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE_S)
    with context.wrap_socket(sock, server_side=True) as stream:
        heard = b""
        while data := stream.recv(4096):
            heard += data
        stream.sendall(heard + ANSWER)
        stream.unwrap()


class HalfClose(unittest.TestCase):
    """RFC 8446 section 6.1."""

    def test_what_the_server_sends_after_the_clients_close_notify_arrives_whole(self):
        authority = Authority()
        leaf, key = authority.issue()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            context.load_cert_chain(write_pem(Path(folder) / "leaf.pem", [leaf], key))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = threading.Thread(target=answer_after_the_end, args=(listener, context))
            server.start()
            self.addCleanup(server.join)
            with socket.create_connection(listener.getsockname(), PATIENCE_S) as sock:
                connection = Connection(ClientConfig(SERVER_NAME, [authority.certificate]))
                connection.handshake(sock)
                connection.write(b"heard ")
                connection.close_write()
                received = b""
                while not isinstance(event := connection.read_event(), Closed):
                    received += event.content if isinstance(event, Data) else b""
        self.assertFalse(event.truncated)
        self.assertEqual(received, b"heard " + ANSWER)


if __name__ == "__main__":
    unittest.main()
