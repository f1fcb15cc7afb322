"""One unary call: its payload put together into one message, and its answer handed to the connection."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from whet.errors import TensorError, TooLarge
from whet.serve.exchange import EMPTY, Limits
from whet.serve.h2.heads import Head

PREFIX_BYTES = 5
"""In front of a message: whether it is compressed, and its length."""
_FOREVER = float("inf")


class Answering(Protocol):
    """The connection of a stream."""

    def respond(self, stream: "Stream", parts: Sequence[bytes | memoryview]) -> None:
        """Write the answer of a call."""
        ...

    def fail(self, stream: "Stream", status: str, message: str, more: Iterable[tuple[str, str]] = ()) -> None:
        """Write why a call has no answer."""
        ...


class Stream:
    """A call and its answer. ``respond`` or ``fail`` is called exactly once, now or later, on the loop's thread.

    Attributes:
        id: of the HTTP/2 stream.
        head: what the call's headers say.
        began: loop time at which they came.
        message: the whole message, decompressed; until then the memory it is read into.
        left: called when the caller leaves before the answer; set it to be told.
        deadline: loop time by which the rest of the message, or of the answer, must have gone through.
        ended: the caller has sent everything.
        compressed: the message is.
        received: bytes of payload so far, framing and padding included.
        window: bytes the caller lets us send.
        unsent: the part of the answer that windows hold back.
    """

    __slots__ = (
        "_connection", "_filled", "_prefix",
        "began", "compressed", "deadline", "ended", "head", "id", "left", "message", "received", "unsent", "window",
    )  # fmt: skip

    def __init__(self, connection: Answering, number: int, head: Head, began: float, window: int) -> None:
        self._connection = connection
        self._prefix = b""
        self._filled = 0
        self.id = number
        self.head = head
        self.began = began
        self.message: memoryview = EMPTY
        self.left: Callable[[], None] | None = None
        self.deadline = _FOREVER
        self.ended = self.compressed = False
        self.received = 0
        self.window = window
        self.unsent: memoryview = EMPTY

    @property
    def whole(self) -> bool:
        """The message has come, all of it."""
        return len(self._prefix) == PREFIX_BYTES and self._filled == len(self.message)

    def feed(self, data: memoryview, max_bytes: int) -> None:
        """Take payload; it is copied to where the message belongs.

        Args:
            data: the next bytes.
            max_bytes: largest message.

        Raises:
            TooLarge: the message is past the bound; found out before anything of it is kept.
            TensorError: more comes than the one message of a unary call.
        """
        missing = PREFIX_BYTES - len(self._prefix)
        if missing:
            self._prefix += data[:missing]
            if len(self._prefix) < PREFIX_BYTES:
                return
            data = data[missing:]
            length = int.from_bytes(self._prefix[1:], "big")
            if length > max_bytes:
                raise TooLarge(f"the message has {length} bytes, past the bound of {max_bytes}")
            self.compressed = bool(self._prefix[0])
            self.message = memoryview(np.empty(length, np.uint8))  # type: ignore[arg-type]  # not zeroed: filled below
        stop = self._filled + len(data)
        if stop > len(self.message):
            raise TensorError("the call carries more than its one message")
        self.message[self._filled : stop] = data
        self._filled = stop

    def respond(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send the answer: one message in parts, written in order."""
        self._connection.respond(self, parts)

    def fail(self, status: str, message: str, more: Iterable[tuple[str, str]] = ()) -> None:
        """Send the name of a gRPC status, what it is about, and further trailers."""
        self._connection.fail(self, status, message, more)


Handler = Callable[[Stream], None]


class Home(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    loop: asyncio.AbstractEventLoop
    scratch: bytearray
    draining: bool
    connections: set[Any]

    @property
    def age_s(self) -> float | None:
        """Age at which a connection is asked to reconnect, seconds, or None."""
        ...

    def gone(self, connection: Any) -> None:
        """Forget a closed connection."""
        ...
