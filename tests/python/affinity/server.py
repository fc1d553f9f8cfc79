"""A server of draft -03 on tlslite-ng that echoes, and asks each client to migrate once it has said enough.

Prints `listening PORT`, and one JSON object for each connection at its end. It serves until it is killed.
"""

import argparse
import json
import socket
import sys
import threading

from tlslite.api import X509CertChain, parsePEMKey
from tlslite.constants import KeyUpdateMessageType
from tlslite.errors import TLSAlert, TLSLocalAlert, TLSRemoteAlert

import affinity


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="HOST:PORT; port 0 for any")
    parser.add_argument("--chain", required=True, help="certificates in PEM")
    parser.add_argument("--key", required=True, help="private key in PEM")
    parser.add_argument("--ticket-key", required=True, help="32 bytes in hexadecimal: servers that share it resume each other's sessions")
    parser.add_argument("--target", help="where to send clients; nobody is asked without it")
    parser.add_argument("--before", action="append", default=[], help="a target that is said before that one")
    parser.add_argument("--after", type=int, default=1, help="bytes of a client after which it is asked")
    parser.add_argument("--key-update", action="store_true", help="change keys before and after the request, and ask for the client's")
    parser.add_argument("--with-tickets", help="a target that is said in the record of the tickets")
    parser.add_argument("--marks", choices=["offered", "always", "never"], default="offered")
    parser.add_argument("--early", help="a target that is said before Finished, against section 5.4")
    parser.add_argument("--unsolicited", action="store_true", help="ask clients that did not offer, against section 5.4")
    return parser.parse_args()


class Server:
    def __init__(self, options):
        self.options = options
        self.chain = X509CertChain()
        self.chain.parsePemList(open(options.chain).read())
        self.key = parsePEMKey(open(options.key).read(), private=True)
        self.settings = affinity.dhe_settings(ticketKeys=[bytearray.fromhex(options.ticket_key)], ticketCipher="aes256gcm")
        self.lock = threading.Lock()

    def serve(self, sock):
        options = self.options
        encoded = lambda text: None if text is None else text.encode()
        connection = affinity.ServerConnection(sock, options.marks, encoded(options.early), encoded(options.with_tickets))
        report = {"offered": False, "resumed": False, "received": 0, "asked": 0, "end": "close_notify"}
        try:
            connection.handshakeServer(certChain=self.chain, privateKey=self.key, settings=self.settings)
            report["offered"], report["resumed"] = connection.offered, connection.accepted_psk
            self.echo(connection, report)
            connection.close()
        except TLSRemoteAlert as alert:
            report["end"] = f"alert {alert.description}"
        except TLSLocalAlert as alert:
            report["end"] = f"own alert {alert.description}"
        except (TLSAlert, OSError, Exception) as fault:  # one line for each connection, whatever becomes of it
            report["end"] = type(fault).__name__
        with self.lock:
            print(json.dumps(report), flush=True)

    def echo(self, connection, report):
        while True:
            said = connection.read(min=1, max=1 << 14)
            if not said:
                return
            report["received"] += len(said)
            connection.write(said)
            due = report["asked"] == 0 and report["received"] >= self.options.after
            if due and self.options.target and (connection.offered or self.options.unsolicited):
                report["asked"] = self.ask(connection)

    def ask(self, connection):
        targets = [*self.options.before, self.options.target]
        for target in targets:
            if self.options.key_update:
                self.change_keys(connection)
            connection.ask(target.encode())
        if self.options.key_update:
            self.change_keys(connection)
        return len(targets)

    def change_keys(self, connection):
        for _ in connection.send_keyupdate_request(KeyUpdateMessageType.update_requested):
            pass


def main():
    options = arguments()
    server = Server(options)
    host, port = options.listen.rsplit(":", 1)
    listener = socket.create_server((host, int(port)), backlog=128)
    print(f"listening {listener.getsockname()[1]}", flush=True)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=server.serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
