"""What goes to the client: answers in frames, as fast as its windows let them."""

from collections.abc import Sequence
from typing import Any, Protocol

from whet.serve.connection import JOIN_BYTES
from whet.serve.h2 import frames
from whet.serve.h2.frames import END_HEADERS, END_STREAM, Code, Kind, Violation
from whet.serve.h2.heads import CLOSING, OPENING
from whet.serve.h2.stream import PREFIX_BYTES, Stream


class Calls(Protocol):
    """The connection, as its answers act on it."""

    def answered(self, stream: Stream) -> None:
        """The answer is written, all of it."""
        ...

    def held_back(self, stream: Stream) -> None:
        """The answer waits for the client to widen a window."""
        ...

    def moved(self) -> None:
        """A part of an answer that was held back is written."""
        ...


class Outbox:
    """The answers of one connection.

    Args:
        calls: told how answers fare.

    Attributes:
        transport: to write to; set once the socket is there.
        max_frame: largest payload the client takes.
        stream_window: what the client lets a new stream send.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.transport: Any = None
        self.max_frame = frames.LEAST_MAX_FRAME
        self.stream_window = frames.FIRST_WINDOW
        self._window = frames.FIRST_WINDOW
        self._held: dict[int, Stream] = {}

    def control(self, data: bytes) -> None:
        """Write frames that no window holds back."""
        self.transport.write(data)

    def answer(self, stream: Stream, parts: Sequence[bytes | memoryview]) -> None:
        """Write the answer of a call: at once where its windows allow, else as they are widened."""
        length = 0
        for part in parts:
            length += len(part)
        number, size = stream.id, length + PREFIX_BYTES
        opening = frames.head(Kind.HEADERS, END_HEADERS, number, len(OPENING))
        prefix = b"\0" + frames.NUMBER.pack(length)
        if size > self.max_frame or size > self._window or size > stream.window or self._held:
            self.control(opening + OPENING)
            stream.unsent = memoryview(b"".join((prefix, *parts)))
            self._held[number] = stream
            self._calls.held_back(stream)
            self.flush()
            return
        self._window -= size
        buffers = (opening, OPENING, frames.head(Kind.DATA, 0, number, size), prefix, *parts, _closing(number))
        if size <= JOIN_BYTES:
            self.transport.write(b"".join(buffers))
        else:
            self.transport.writelines(buffers)
        self._calls.answered(stream)

    def end(self, stream: Stream, block: bytes) -> None:
        """Write a block of headers that is the whole answer."""
        self.control(frames.frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream.id, block))

    def reset(self, number: int, code: Code) -> None:
        """Give a stream up."""
        self.control(frames.reset(number, code))

    def forget(self, number: int) -> None:
        """Drop what is held back of an answer."""
        self._held.pop(number, None)

    def flush(self) -> None:
        """Send what was held back, as far as windows allow now, in the order of the answers."""
        for stream in list(self._held.values()):
            while stream.unsent:
                size = min(len(stream.unsent), self.max_frame, self._window, stream.window)
                if size <= 0:
                    break
                part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
                self._window -= size
                stream.window -= size
                self.transport.writelines((frames.head(Kind.DATA, 0, stream.id, size), part))
                self._calls.moved()
            if not stream.unsent:
                del self._held[stream.id]
                self.control(_closing(stream.id))
                self._calls.answered(stream)
            elif self._window <= 0:
                return

    def widen(self, increment: int, stream: Stream | None) -> None:
        """Let a stream, or for None the connection, send more.

        Raises:
            Violation: past the largest window.
        """
        if stream is None:
            self._window = _checked(self._window + increment)
        else:
            stream.window = _checked(stream.window + increment)
        if self._held:
            self.flush()

    def set_stream_window(self, size: int, streams: Sequence[Stream]) -> None:
        """Take another window for new streams; those that are open move by the difference (RFC 9113, 6.9.2).

        Raises:
            Violation: one moves past the largest window.
        """
        by, self.stream_window = size - self.stream_window, size
        for stream in streams:
            stream.window = _checked(stream.window + by)


def _checked(window: int) -> int:
    if window > frames.MOST_WINDOW:
        raise Violation(Code.FLOW_CONTROL_ERROR, f"a window was widened past {frames.MOST_WINDOW}")
    return window


def _closing(number: int) -> bytes:
    return frames.head(Kind.HEADERS, END_HEADERS | END_STREAM, number, len(CLOSING)) + CLOSING
