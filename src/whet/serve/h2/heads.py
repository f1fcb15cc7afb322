"""Header blocks: what a call asks, and what an answer says. Pure; ``hpack`` decompresses.

Most calls of a connection carry the very same block, all of it references into the compression table. Such a block is
decoded once, and known again until the table changes. Answers use no table at all: their blocks are constants.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

import hpack

from whet.serve.h2.frames import Code, Violation

TABLE_BYTES = 4096
"""Of the compression table, as HTTP/2 starts with; also the most a client may ask for."""
KNOWN = 64
"""Blocks remembered per connection."""
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_DIGITS = 8
_UPDATE, _UPDATE_MASK = 0x20, 0xE0
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What stands in a ``grpc-message`` as it is; everything else is percent-encoded UTF-8."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a call's headers say.

    Attributes:
        method: ``POST`` for gRPC; empty when the block is no request's.
        path: ``/package.Service/Method``.
        kind: content type.
        coding: of compressed messages.
        timeout_s: what the caller gives it, seconds, or None.
        authorization: credentials, or empty.
        wrong: what is wrong with the call, in words, or empty.
    """

    method: bytes = b""
    path: bytes = b""
    kind: bytes = b""
    coding: bytes = b"identity"
    timeout_s: float | None = None
    authorization: str = ""
    wrong: str = ""


class HeadReader:
    """Decodes one connection's header blocks, which must come in order.

    Args:
        max_bytes: largest list of headers, uncompressed.
    """

    def __init__(self, max_bytes: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_bytes)
        self._decoder.max_allowed_table_size = TABLE_BYTES
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Return what a block says.

        Raises:
            Violation: it cannot be decompressed, or is past the bound; the table is lost with it.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table.dynamic_entries
        count, newest = len(table), table[0] if table else None
        try:
            found = _head(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise Violation(Code.ENHANCE_YOUR_CALM, "the headers of a call are past the bound") from None
        except hpack.HPACKError:
            raise Violation(Code.COMPRESSION_ERROR, "a header block cannot be decompressed") from None
        if len(table) != count or (count and table[0] is not newest):
            self._known.clear()
        elif len(self._known) < KNOWN and block and block[0] & _UPDATE_MASK != _UPDATE:
            self._known[block] = found
        return found


def _head(fields: Iterable[tuple[bytes, bytes]]) -> Head:
    said = dict(fields)
    timeout_s, wrong = None, ""
    timeout = said.get(b"grpc-timeout")
    if timeout is not None:
        digits, unit = timeout[:-1], _UNITS.get(timeout[-1:])
        if unit is None or not digits.isdigit() or len(digits) > _DIGITS:
            wrong = f"grpc-timeout {timeout[:40]!r} is no duration; it is up to 8 digits and one of H, M, S, m, u, n"
        else:
            timeout_s = int(digits) * unit
    return Head(
        said.get(b":method", b""),
        said.get(b":path", b""),
        said.get(b"content-type", b""),
        said.get(b"grpc-encoding", b"identity"),
        timeout_s,
        said.get(b"authorization", b"").decode("latin-1"),
        wrong,
    )


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header in the form that changes no table (RFC 7541, 6.2.2)."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(value: int) -> bytes:
    """Return an integer with a 7-bit prefix (RFC 7541, 5.1)."""
    if value < 0x7F:
        return bytes((value,))
    out, value = bytearray((0x7F,)), value - 0x7F
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_STATUS_200 = b"\x88"
"""The static table's entry 8."""
OPENING = (
    _STATUS_200
    + literal(b"content-type", b"application/grpc")
    + literal(b"grpc-accept-encoding", b"identity,deflate,gzip")
)
"""Block in front of an answer."""
CLOSING = literal(b"grpc-status", b"0")
"""Block behind an answer."""


def failure(status: int, message: str, more: Iterable[tuple[str, str]] = (), *, opened: bool = False) -> bytes:
    """Return the block of a call that failed.

    Args:
        status: number of the gRPC status.
        message: for people.
        more: further trailers.
        opened: an opening block has been sent.
    """
    block = (b"" if opened else OPENING) + literal(b"grpc-status", b"%d" % status)
    block += literal(b"grpc-message", quote(message, safe=_PLAIN).encode())
    return block + b"".join(literal(name.encode(), value.encode()) for name, value in more)


def not_grpc(http_status: int) -> bytes:
    """Return the block that answers a request which is no gRPC."""
    return literal(b":status", b"%d" % http_status)
