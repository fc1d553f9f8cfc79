"""What the tests connect to: a certificate authority and `openssl s_server`. It never listens beyond loopback."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tls13 import ClientConfig, Connection

SERVER_NAME = "service.test"
PATIENCE_S = 20.0

KEY_MAKERS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


class Authority:
    """A certificate authority; `issue` signs server certificates and further authorities."""

    def __init__(self, name: str = "Test CA", kind: str = "p256") -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = KEY_MAKERS[kind]()
        self.certificate = self._sign(self.name, self.key.public_key(), [ca_extension()])

    def _sign(self, subject: x509.Name, key, extensions: list, days: int = 30) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().issuer_name(self.name).subject_name(subject).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=60)).not_valid_after(now + timedelta(days=days))
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        digest = None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(self.key, digest)

    def intermediate(self, name: str, *extensions: tuple[x509.ExtensionType, bool]) -> "Authority":
        """An authority below this one; its basic constraints are the usual ones unless `extensions` are given."""
        below = Authority(name)
        below.certificate = self._sign(below.name, below.key.public_key(), list(extensions) or [ca_extension()])
        return below

    def issue(
        self, kind: str = "p256", name: str = SERVER_NAME, days: int = 30, usage=ExtendedKeyUsageOID.SERVER_AUTH
    ) -> tuple[x509.Certificate, object]:
        """A server certificate and its key; negative `days` make one that has expired."""
        key = KEY_MAKERS[kind]()
        extensions = [
            (x509.SubjectAlternativeName([x509.DNSName(name)]), False),
            (x509.ExtendedKeyUsage([usage]), False),
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._sign(subject, key.public_key(), extensions, days), key


def ca_extension(path_length: int | None = None) -> tuple[x509.BasicConstraints, bool]:
    """Basic constraints of an authority, critical."""
    return x509.BasicConstraints(ca=True, path_length=path_length), True


def usage_extension(cert_sign: bool) -> tuple[x509.KeyUsage, bool]:
    """Key usage for digital signatures, and for certificates if `cert_sign`; critical."""
    return x509.KeyUsage(True, False, False, False, False, cert_sign, False, False, False), True


def write_pem(path: Path, certificates: list[x509.Certificate], key=None) -> Path:
    """Write certificates, and a key if given, to one PEM file."""
    data = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    if key is not None:
        data += key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    path.write_bytes(data)
    return path


class OpensslServer:
    """A running `openssl s_server` on a free port of 127.0.0.1; use it with `with`."""

    def __init__(self, pem: Path, *options: str) -> None:
        if shutil.which("openssl") is None:
            raise AssertionError("openssl is missing: apt-get install openssl")
        command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(pem), "-key", str(pem)]
        command += options
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.output = b""
        self._sockets: list[socket.socket] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for(rb"ACCEPT 127\.0\.0\.1:(\d+)").group(1))

    def _collect(self) -> None:
        while data := self._process.stdout.read1(65536):
            with self._news:
                self.output += data
                self._news.notify_all()

    def wait_for(self, pattern: bytes) -> re.Match:
        """The first match of `pattern` in the server's output; AssertionError when it does not come."""
        with self._news:
            if not self._news.wait_for(lambda: re.search(pattern, self.output), PATIENCE_S):
                raise AssertionError(f"openssl s_server did not print {pattern!r} but {self.output!r}")
            return re.search(pattern, self.output)

    def say(self, text: bytes) -> None:
        """Give the server a line of input: data for the client, or one of its command letters."""
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def connect(self, config: ClientConfig) -> Connection:
        """A handshake with this server."""
        connection = Connection(config)
        connection.handshake(self.socket())
        return connection

    def socket(self) -> socket.socket:
        """A TCP connection to this server; it is closed together with the server."""
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        self._sockets.append(sock)
        return sock

    def die(self) -> None:
        """Kill the server, so that its connections end without close_notify."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "OpensslServer":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()
        self.die()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()
