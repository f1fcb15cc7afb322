"""Request bodies of HTTP/1.1 that are more than their bytes: chunked or compressed. Pure; every size bounded."""

import zlib

from whet.errors import TensorError, TooLarge

_LINE = 256
"""Longest size line, and longest trailer section line by line; extensions are skipped, not kept."""
_TRAILERS = 8192


class Chunked:
    """Collects one chunked body.

    Attributes:
        body: what was decoded so far.
        done: the last chunk and the trailers have come.
    """

    def __init__(self, max_bytes: int) -> None:
        self.body = bytearray()
        self.done = False
        self._max = max_bytes
        self._line = bytearray()
        self._left = 0
        self._state = self._size
        self._trailers = 0

    def feed(self, data: bytes) -> bytes:
        """Take ``data`` and return what follows the body in it (the next request), empty while not done.

        Raises:
            TooLarge: the body grows past its bound.
            TensorError: the framing is broken.
        """
        while data and not self.done:
            data = self._state(data)
        return data

    def _size(self, data: bytes) -> bytes:
        line, data = self._take_line(data)
        if line is None:
            return data
        digits = line.partition(b";")[0].strip(b" \t")
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            raise TensorError(f"the request's chunk size {bytes(digits[:20])!r} is no hexadecimal number")
        self._left = int(digits, 16)
        if len(self.body) + self._left > self._max:
            raise TooLarge(f"the request's body is past the bound of {self._max} bytes")
        self._state = self._data if self._left else self._trailer
        return data

    def _data(self, data: bytes) -> bytes:
        part = data[: self._left]
        self.body += part
        self._left -= len(part)
        if not self._left:
            self._state = self._end_of_data
        return data[len(part) :]

    def _end_of_data(self, data: bytes) -> bytes:
        line, data = self._take_line(data)
        if line:
            raise TensorError("a chunk of the request is longer than its size says")
        if line is not None:
            self._state = self._size
        return data

    def _trailer(self, data: bytes) -> bytes:
        line, data = self._take_line(data)
        if line is None:
            return data
        self._trailers += len(line)
        if self._trailers > _TRAILERS:
            raise TensorError(f"the request's trailers are past the bound of {_TRAILERS} bytes")
        self.done = not line
        return data

    def _take_line(self, data: bytes) -> tuple[bytes | None, bytes]:
        """Return a whole line without its end, or None while it is incomplete, and what follows."""
        head, newline, rest = data.partition(b"\n")
        self._line += head
        if len(self._line) > (_TRAILERS if self._state == self._trailer else _LINE):
            raise TensorError("a line of the request's chunked framing is too long")
        if not newline:
            return None, b""
        line, self._line = bytes(self._line), bytearray()
        if not line.endswith(b"\r"):
            raise TensorError("the request's chunked framing has a line that does not end with CR LF")
        return line[:-1], rest


CODINGS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""Content coding -> zlib's window bits."""


def inflate(body: memoryview, coding: bytes, max_bytes: int) -> memoryview:
    """Decompress ``body``.

    Raises:
        TooLarge: it inflates past ``max_bytes``; found out without inflating further.
        TensorError: it is damaged or cut off.
    """
    inflater = zlib.decompressobj(CODINGS[coding])
    try:
        out = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise TensorError(f"the request's body is no {coding.decode()}: {error}") from None
    if len(out) > max_bytes:
        raise TooLarge(f"the request's body inflates past the bound of {max_bytes} bytes")
    if not inflater.eof or inflater.unused_data:
        raise TensorError(f"the request's {coding.decode()} body is cut off or followed by other bytes")
    return memoryview(out)
