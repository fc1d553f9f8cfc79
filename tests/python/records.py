"""The record layer over a TCP socket.

Source: RFC 8446 section 5. It never interprets a handshake message; it drops change_cipher_spec records only
where the RFC lets them appear.
"""

from __future__ import annotations

import socket

from keys import APPLICATION_DATA, MAX_CIPHERTEXT, MAX_PLAINTEXT, RecordCipher, record_header

CHANGE_CIPHER_SPEC = 20
ALERT = 21
HANDSHAKE = 22

DUMMY_CHANGE_CIPHER_SPEC = record_header(CHANGE_CIPHER_SPEC, 1) + b"\x01"
"""The record of middlebox compatibility mode (RFC 8446 appendix D.4)."""

UNEXPECTED_MESSAGE = 10
RECORD_OVERFLOW = 22


class ProtocolError(Exception):
    """The peer broke the protocol; `alert` is the description to send."""

    def __init__(self, alert: int, text: str) -> None:
        super().__init__(text)
        self.alert = alert


def plaintext_records(content_type: int, content: bytes, pieces: int) -> list[bytes]:
    """`content` in unprotected records, `pieces` of them when it has that many bytes."""
    size = min(MAX_PLAINTEXT, -(-len(content) // pieces))
    return [record_header(content_type, len(chunk)) + chunk for chunk in split(content, size)]


def split(content: bytes, size: int = MAX_PLAINTEXT) -> list[bytes]:
    """`content` in pieces of at most `size` bytes."""
    return [content[at : at + size] for at in range(0, len(content), size)]


class RecordLayer:
    """Sends and receives records; protected once `reader` or `writer` is set."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.reader: RecordCipher | None = None
        self.writer: RecordCipher | None = None
        self.handshaking = True
        self._received = b""
        self._send_failed = False

    def send_bytes(self, data: bytes) -> None:
        """Write raw bytes; a reset peer is noticed by the next read, which may still hold its alert."""
        if self._send_failed:
            return
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self._send_failed = True

    def send(self, content_type: int, content: bytes) -> None:
        """Write `content` in as many records as it needs."""
        for chunk in split(content):
            if self.writer is None:
                self.send_bytes(record_header(content_type, len(chunk)) + chunk)
            else:
                self.send_bytes(self.writer.seal(content_type, chunk))

    def receive(self) -> tuple[int, bytes] | None:
        """Type and content of the next record; None when the TCP stream has ended."""
        while (record := self._next_record()) is not None:
            header, body = record
            if header[0] == CHANGE_CIPHER_SPEC:
                self._check_change_cipher_spec(body)
            elif self.reader is None:
                return header[0], body
            elif header[0] == APPLICATION_DATA:
                return self._checked(*self.reader.open(header, body))
            else:
                raise ProtocolError(UNEXPECTED_MESSAGE, f"unprotected record of type {header[0]}")
        return None

    def _check_change_cipher_spec(self, body: bytes) -> None:
        if not self.handshaking or body != b"\x01":
            raise ProtocolError(UNEXPECTED_MESSAGE, "change_cipher_spec out of place")

    @staticmethod
    def _checked(content_type: int, content: bytes) -> tuple[int, bytes]:
        if len(content) > MAX_PLAINTEXT:
            raise ProtocolError(RECORD_OVERFLOW, "record content too long")
        if not content and content_type != APPLICATION_DATA:
            raise ProtocolError(UNEXPECTED_MESSAGE, f"empty record of type {content_type}")
        return content_type, content

    def _next_record(self) -> tuple[bytes, bytes] | None:
        if not self._fill(5):
            return None
        length = int.from_bytes(self._received[3:5], "big")
        if length > (MAX_PLAINTEXT if self.reader is None else MAX_CIPHERTEXT):
            raise ProtocolError(RECORD_OVERFLOW, f"record of {length} bytes")
        if not self._fill(5 + length):
            return None
        record, self._received = self._received[: 5 + length], self._received[5 + length :]
        return record[:5], record[5:]

    def _fill(self, length: int) -> bool:
        """Buffer at least `length` bytes; False at the end of the stream."""
        while len(self._received) < length:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return False
            if not data:
                return False
            self._received += data
        return True
