"""Bytes as they come from a socket, cut into frames. Pure; payload of messages passes through without being kept."""

from typing import Protocol

from whet.serve.h2 import frames
from whet.serve.h2.frames import END_STREAM, FRAME_HEAD, HEAD_BYTES, PADDED, Code, Kind, Violation

MAX_FRAME = 1 << 20
"""Largest frame of data a client may send; few large ones cost less than many small ones."""


class Sink(Protocol):
    """Takes what was read. Any of these may raise :class:`Violation`."""

    def greeted(self) -> None:
        """The client speaks HTTP/2."""
        ...

    def control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """A whole frame that is no data."""
        ...

    def begin_data(self, number: int, size: int) -> None:
        """A frame of data begins; ``size`` counts its padding too."""
        ...

    def data(self, payload: memoryview) -> None:
        """The next bytes of that frame; the view is good until this returns."""
        ...

    def end_data(self, *, ends: bool) -> None:
        """That frame's data has come, and with it, if it ``ends``, all that the stream's caller has to say."""
        ...


class Reader:
    """Cuts one connection's bytes into frames, however they are split on the way.

    Args:
        sink: told of them in order.
        max_header_bytes: largest frame of headers, which are kept until they are whole.

    Attributes:
        over: set it, and what is still to come is ignored.
    """

    def __init__(self, sink: Sink, max_header_bytes: int) -> None:
        self._sink = sink
        self._max_kept = max(frames.LEAST_MAX_FRAME, max_header_bytes)
        self._greeted = False
        self._rest = b""
        self._data_left = self._padding_left = 0
        self._ends = False
        self.over = False

    def feed(self, view: memoryview) -> None:
        """Take the next bytes.

        Raises:
            Violation: they break the protocol.
        """
        if self._rest:
            view, self._rest = memoryview(self._rest + view), b""
        position, end = 0, len(view)
        if not self._greeted:
            if view[: len(frames.PREFACE)] != frames.PREFACE[:end]:
                raise Violation(Code.PROTOCOL_ERROR, "this port speaks gRPC over HTTP/2 without TLS")
            if end >= len(frames.PREFACE):
                self._greeted, position = True, len(frames.PREFACE)
                self._sink.greeted()
        while position < end and self._greeted and not self.over:
            after = (
                self._payload(view, position) if self._data_left or self._padding_left else self._frame(view, position)
            )
            if after == position:  # less than a frame is left
                break
            position = after
        self._rest = b"" if self.over else bytes(view[position:])

    def _frame(self, view: memoryview, position: int) -> int:
        """Take the frame that begins at ``position``; return the position behind what was taken of it."""
        start = position + HEAD_BYTES
        if len(view) < start:
            return position
        high, low, kind, flags, number = FRAME_HEAD.unpack_from(view, position)
        length, number = int(high << 8 | low), number & frames.MOST_ID
        if kind == Kind.DATA:
            return self._data_frame(view, start, length, (number, flags))
        if length > self._max_kept:
            raise Violation(Code.ENHANCE_YOUR_CALM, f"a frame of {length} bytes is past the bound of {self._max_kept}")
        if len(view) - start < length:
            return position
        self._sink.control(kind, flags, number, bytes(view[start : start + length]))
        return start + length

    def _data_frame(self, view: memoryview, start: int, length: int, of: tuple[int, int]) -> int:
        number, flags = of
        if length > MAX_FRAME:
            raise Violation(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes is past the bound of {MAX_FRAME}")
        padding, own = 0, length
        if flags & PADDED and length:
            if len(view) == start:
                return start - HEAD_BYTES
            padding = int(view[start])
            own, start = length - 1 - padding, start + 1
        if own < 0:
            raise Violation(Code.PROTOCOL_ERROR, "a DATA frame is shorter than its padding")
        self._data_left, self._padding_left, self._ends = own, padding, bool(flags & END_STREAM)
        self._sink.begin_data(number, length)
        if not own:
            self._sink.end_data(ends=self._ends)
        return start

    def _payload(self, view: memoryview, position: int) -> int:
        """Take data, then padding, of the frame at hand; return the position behind them."""
        if self._data_left:
            stop = min(len(view), position + self._data_left)
            self._data_left -= stop - position
            self._sink.data(view[position:stop])
            if not self._data_left:
                self._sink.end_data(ends=self._ends)
            return stop
        skipped = min(len(view) - position, self._padding_left)
        self._padding_left -= skipped
        return position + skipped
