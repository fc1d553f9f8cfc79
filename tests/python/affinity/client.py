"""A client of draft -03 on tlslite-ng: it asks A, is told to go, resumes at the target, and asks again. Prints one JSON object.

Status 0 when everything held; 1 with the fault on stderr.
"""

import argparse
import json
import socket
import sys

import cryptography.x509 as x509
from cryptography.x509.verification import PolicyBuilder, Store
from tlslite.errors import TLSAlert, TLSLocalAlert, TLSRemoteAlert

import affinity


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connect", required=True, help="A, as HOST:PORT")
    parser.add_argument("--server-name", required=True)
    parser.add_argument("--ca", required=True, help="the certificate authority, in PEM")
    parser.add_argument("--send", default="one", help="said at each server, which echoes it")
    parser.add_argument("--requests", type=int, default=1, help="how many migrate_requests to wait for; the newest counts")
    parser.add_argument("--connect-b", help="go there, whatever the target says")
    parser.add_argument("--no-offer", action="store_true", help="send no migration_support, and go to --connect-b with any ticket")
    parser.add_argument("--psk-ke", action="store_true", help="at B, offer psk_ke alone")
    parser.add_argument("--corrupt", action="store_true", help="change a byte of the ticket")
    parser.add_argument("--times", type=int, default=1, help="how often to present the ticket at B, each time on a connection of its own")
    parser.add_argument("--timeout", type=float, default=20)
    return parser.parse_args()


class Chain:
    """Judges a server's certificates, as the checker of a handshake. A resumed session has none that are new."""

    def __init__(self, options):
        authority = x509.load_pem_x509_certificate(open(options.ca, "rb").read())
        builder = PolicyBuilder().store(Store([authority]))
        self.verifier = builder.build_server_verifier(x509.DNSName(options.server_name))

    def __call__(self, connection):
        if connection.resumed:
            return
        leaf, *rest = [x509.load_der_x509_certificate(bytes(one.bytes)) for one in connection.session.serverCertChain.x509List]
        self.verifier.verify(leaf, rest)


def endpoint(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def dial(options, address, offers):
    sock = socket.create_connection(endpoint(address), options.timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return affinity.ClientConnection(sock, offers)


def converse(options, connection):
    connection.write(options.send.encode())
    connection.read_until(lambda: len(connection.received) >= len(options.send), options.timeout)
    return connection.received.decode()


def close(connection):
    """Says close_notify, and reads what the server still says."""
    connection.closeSocket = True
    try:
        connection.close()
    except (TLSAlert, OSError):
        pass


def at_a(options, chain):
    connection = dial(options, options.connect, not options.no_offer)
    connection.handshakeClientCert(settings=affinity.dhe_settings(), serverName=options.server_name, checker=chain)
    echoed = converse(options, connection)
    wants = (lambda: connection.tickets) if options.no_offer else (
        lambda: len(connection.requests) >= options.requests and connection.allowed_tickets())
    connection.read_until(wants, options.timeout)
    report = {
        "echoed": echoed,
        "tickets": [affinity.is_allowed(ticket) for ticket in connection.tickets],
        "requests": [target.decode() for target in connection.requests],
    }
    session = connection.session
    session.tickets[:] = connection.allowed_tickets() or connection.tickets
    close(connection)
    return report, session


def at_b(options, session, address):
    connection = dial(options, address, not options.no_offer)
    settings = affinity.dhe_settings(psk_modes=["psk_ke"]) if options.psk_ke else affinity.dhe_settings()
    report = {"resumed": False, "echoed": None, "alert": None}
    try:
        connection.handshakeClientCert(session=session, settings=settings, serverName=options.server_name)
        report["resumed"] = connection.resumed
        # Section 10.3: who cannot resume the session gets no byte of application data.
        if connection.resumed:
            report["echoed"] = converse(options, connection)
        close(connection)
    except TLSRemoteAlert as alert:
        report["alert"] = alert.description
    except TLSLocalAlert as alert:
        report["alert"] = -alert.description
    return report


def main():
    options = arguments()
    report, session = at_a(options, Chain(options))
    if options.corrupt:
        session.tickets[0].ticket[-1] ^= 1
    target = options.connect_b or report["requests"][-1]
    tickets = session.tickets[:1]
    legs = []
    for _ in range(options.times):
        session.tickets[:] = tickets
        legs.append(at_b(options, session, target))
    print(json.dumps({"a": report, "b": legs}))


if __name__ == "__main__":
    try:
        main()
    except Exception as fault:  # every fault is a status and a line
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        sys.exit(1)
