"""Frames that carry no message: header blocks, settings, windows, pings, and the bounds of what a client may ask.

What costs a client nothing and the server something is counted between calls; too much of it ends the connection.
"""

from typing import Protocol

from whet.serve.h2 import frames
from whet.serve.h2.frames import ACK, END_HEADERS, END_STREAM, Code, Kind, Violation
from whet.serve.h2.heads import Head, HeadReader

IDLE_FRAMES = 10_000
"""Frames in a row that bring no call forward: pings, settings, priorities, empty data, windows."""
RESETS = 4096
"""Calls in a row that their caller gave up before they were answered."""


class Calls(Protocol):
    """The connection, as its control frames act on it."""

    def open(self, number: int, head: Head, *, ends: bool) -> None:
        """Begin a call."""
        ...

    def leave(self, number: int) -> None:
        """Give up a call."""
        ...

    def widen(self, number: int, increment: int) -> None:
        """Let a stream, or for 0 the connection, be sent more."""
        ...

    def set_stream_window(self, size: int) -> None:
        """Take another window for streams towards the client."""
        ...

    def set_max_frame(self, size: int) -> None:
        """Take another largest frame towards the client."""
        ...

    def heard(self) -> None:
        """The client knows that the connection is ending."""
        ...

    def write(self, data: bytes) -> None:
        """Write a control frame."""
        ...


class Inbox:
    """The control frames of one connection.

    Args:
        calls: acted on.
        max_header_bytes: of a header block, compressed or not.

    Attributes:
        in_block: a header block is under way; nothing else may come.
    """

    def __init__(self, calls: Calls, max_header_bytes: int) -> None:
        self._calls = calls
        self._max_header_bytes = max_header_bytes
        self._heads = HeadReader(max_header_bytes)
        self._block = b""
        self._block_of = (0, False)
        self._idle = self._resets = 0
        self.in_block = False

    def take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Act on one frame.

        Raises:
            Violation: it breaks the protocol.
        """
        if self.in_block and (kind != Kind.CONTINUATION or number != self._block_of[0]):
            raise Violation(Code.PROTOCOL_ERROR, "a header block was interrupted")
        if kind == Kind.HEADERS:
            self._start_block(flags, number, frames.unpadded(flags, payload))
        elif kind == Kind.CONTINUATION:
            self._go_on(flags, payload)
        elif kind == Kind.RST_STREAM:
            self._reset(number, payload)
        elif kind == Kind.WINDOW_UPDATE:
            self._widen(number, frames.number(payload))
        elif kind == Kind.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == Kind.PING:
            self._ping(flags, number, payload)
        elif kind == Kind.PUSH_PROMISE:
            raise Violation(Code.PROTOCOL_ERROR, "clients do not push")
        else:  # priorities, a client that goes away once it has its answers, and what HTTP/2 may learn yet
            self.idle()

    def idle(self) -> None:
        """Count a frame that brings no call forward.

        Raises:
            Violation: there were too many.
        """
        self._idle += 1
        if self._idle > IDLE_FRAMES:
            raise Violation(Code.ENHANCE_YOUR_CALM, f"{IDLE_FRAMES} frames in a row brought no call forward")

    def busy(self) -> None:
        """A call has come whole, or an answer goes on."""
        self._idle = 0

    def _start_block(self, flags: int, number: int, block: bytes) -> None:
        if number == 0:
            raise Violation(Code.PROTOCOL_ERROR, "headers came for no stream")
        self._block_of = (number, bool(flags & END_STREAM))
        self._block = b""
        self._go_on(flags, block, first=True)

    def _go_on(self, flags: int, part: bytes, *, first: bool = False) -> None:
        if not first and not self.in_block:
            raise Violation(Code.PROTOCOL_ERROR, "a header block goes on that never began")
        if not first:
            self.idle()
        self._block += part
        if len(self._block) > self._max_header_bytes:
            raise Violation(
                Code.ENHANCE_YOUR_CALM, f"a header block is past the bound of {self._max_header_bytes} bytes"
            )
        self.in_block = not flags & END_HEADERS
        if not self.in_block:
            block, self._block = self._block, b""
            number, ends = self._block_of
            self._calls.open(number, self._heads.read(block), ends=ends)

    def _reset(self, number: int, payload: bytes) -> None:
        frames.number(payload)
        if number == 0:
            raise Violation(Code.PROTOCOL_ERROR, "a reset came for no stream")
        self._resets += 1
        if self._resets > RESETS:
            raise Violation(Code.ENHANCE_YOUR_CALM, f"{RESETS} calls in a row were given up by their caller")
        self._calls.leave(number)

    def _widen(self, number: int, increment: int) -> None:
        if not increment:
            raise Violation(Code.PROTOCOL_ERROR, "a window was widened by nothing")
        self.idle()
        self._calls.widen(number, increment)

    def answered(self) -> None:
        """A call was answered."""
        self._resets = 0

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or (flags & ACK and payload):
            raise Violation(Code.PROTOCOL_ERROR, "a SETTINGS frame for a stream, or an acknowledgement with a payload")
        self.idle()
        if flags & ACK:
            return
        for name, value in frames.read_settings(payload):
            if name == frames.Setting.INITIAL_WINDOW_SIZE:
                self._calls.set_stream_window(value)
            elif name == frames.Setting.MAX_FRAME_SIZE:
                self._calls.set_max_frame(value)
        self._calls.write(frames.frame(Kind.SETTINGS, ACK, 0))

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise Violation(Code.PROTOCOL_ERROR, "a PING for a stream, or of another size than 8 bytes")
        self.idle()
        if flags & ACK:
            self._calls.heard()
        else:
            self._calls.write(frames.frame(Kind.PING, ACK, 0, payload))
