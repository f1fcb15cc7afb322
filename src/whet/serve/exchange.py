"""What passes between a connection and a handler: one request with its answer, and the bounds of both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

EMPTY = memoryview(b"")


class Answering(Protocol):
    """The connection behind an exchange."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]

    def respond(self, exchange: "Exchange", status: int, buffers: Sequence[bytes | memoryview], lines: bytes) -> None:
        """Write the answer of the exchange in flight."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what a client may do; seconds and bytes.

    Attributes:
        body_bytes: largest body, after decompression.
        header_bytes: largest head.
        connections: open at the same time.
        header_s: from a head's first byte to its last.
        body_s: grace for a body beside its size at :data:`MIN_BYTES_PER_S`, and for reading an answer.
        idle_s: between requests.
    """

    body_bytes: int = 64 << 20
    header_bytes: int = 32 << 10
    connections: int = 8192
    header_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0


class Exchange:
    """One request and its answer. ``respond`` is called exactly once, now or later, on the loop's thread.

    Attributes:
        method: ``b"GET"``, ...
        target: path and query as sent.
        headers: by lower-case name.
        body: the whole body, decompressed.
        began: loop time at which the head was complete.
        left: called when the caller leaves before the answer; set it to be told.
    """

    __slots__ = ("_connection", "began", "body", "headers", "left", "method", "target")

    def __init__(self, connection: "Answering", began: float) -> None:
        self._connection = connection
        self.method = connection.method
        self.target = connection.target
        self.headers = connection.headers
        self.body: memoryview = EMPTY
        self.began = began
        self.left: Callable[[], None] | None = None

    def respond(
        self, status: int, buffers: Sequence[bytes | memoryview], kind: bytes = b"application/json", extra: bytes = b""
    ) -> None:
        """Send the answer.

        Args:
            status: HTTP status.
            buffers: the body, written in order; not copied when large.
            kind: content type.
            extra: more header lines, each ended by CR LF.
        """
        self._connection.respond(self, status, buffers, b"Content-Type: %b\r\n%b" % (kind, extra))

    def fail(self, status: int, message: str, extra: bytes = b"") -> None:
        """Send ``{"error": message}``."""
        self.respond(status, [error_body(message)], extra=extra)


Handler = Callable[[Exchange], None]


def error_body(message: str) -> bytes:
    """Return the protocol's JSON error; long messages (they may quote the request) are cut."""
    return msgspec.json.encode({"error": message if len(message) <= 2000 else message[:2000] + "..."})
