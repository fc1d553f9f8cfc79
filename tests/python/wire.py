"""The TLS presentation language: a strict reader and vector writers.

Source: RFC 8446 section 3. It never accepts truncated or trailing bytes.
"""

from __future__ import annotations


class DecodeError(ValueError):
    """The bytes do not have the shape that the format demands."""


class Reader:
    """Reads big-endian integers and vectors from the front of `data`."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._at = 0
        self._name = name

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        """The next `length` bytes; DecodeError when fewer are left."""
        if self.remaining < length:
            raise DecodeError(f"{self._name}: truncated, {length} bytes wanted, {self.remaining} left")
        start, self._at = self._at, self._at + length
        return self._data[start : self._at]

    def uint(self, length: int) -> int:
        """An unsigned integer of `length` bytes."""
        return int.from_bytes(self.take(length), "big")

    def vector(self, prefix: int, minimum: int = 0) -> bytes:
        """A vector with a length prefix of `prefix` bytes and at least `minimum` bytes of content."""
        length = self.uint(prefix)
        if length < minimum:
            raise DecodeError(f"{self._name}: vector of {length} bytes, at least {minimum} needed")
        return self.take(length)

    def finish(self) -> None:
        """DecodeError unless every byte was read."""
        if self.remaining:
            raise DecodeError(f"{self._name}: {self.remaining} trailing bytes")


def uint(value: int, length: int) -> bytes:
    """`value` as an unsigned integer of `length` bytes."""
    return value.to_bytes(length, "big")


def vector(content: bytes, prefix: int) -> bytes:
    """`content` behind its length in `prefix` bytes."""
    return uint(len(content), prefix) + content
