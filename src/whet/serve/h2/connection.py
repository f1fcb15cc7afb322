"""One HTTP/2 connection that carries gRPC: a state machine over frames. Knows no method and no model.

Everything is read into one scratch buffer of the loop; a message's bytes are copied from there to where the tensors'
views will lie, and that is the only copy here. A connection never buffers more than one frame of headers, and a stream
never more than the message it has announced. A caller who leaves is told to whoever works for him.

Windows are as large as the largest message: what bounds memory is the announced size of messages, not flow control.
"""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from whet.errors import TensorError, TooLarge
from whet.serve.bodies import CODINGS, inflate
from whet.serve.codes import GRPC_NUMBERS, grpc_status
from whet.serve.connection import JOIN_BYTES, LINGER_S, MIN_BYTES_PER_S
from whet.serve.exchange import Limits
from whet.serve.h2 import frames
from whet.serve.h2.control import Inbox
from whet.serve.h2.frames import END_HEADERS, END_STREAM, FRAME_HEAD, HEAD_BYTES, PADDED, Code, Kind, Violation
from whet.serve.h2.heads import CLOSING, OPENING, Head, failure, not_grpc
from whet.serve.h2.stream import PREFIX_BYTES, Handler, Stream

MAX_FRAME = 1 << 20
"""Largest frame a client may send; few large ones cost less than many small ones."""
MAX_STREAMS = 1024
"""Calls of a connection at the same time."""
WINDOW = 64 << 20
"""What a client may send on a connection before it is told that it was read."""
SLACK = 1 << 20
"""What a stream may carry beside its message: framing and padding."""
ARRIVING = 4
"""Messages of the largest size that may be on their way on a connection at the same time."""
_FOREVER = float("inf")
_PARTING = frames.go_away(frames.MOST_ID, Code.NO_ERROR) + frames.frame(Kind.PING, 0, 0, b"parting ")
"""Announces an end; the answer to the ping tells that the client has heard."""


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


class Connection(asyncio.BufferedProtocol):
    """One client's socket. Made by the server of a loop; everything happens on the loop's thread."""

    def __init__(self, server: Home) -> None:
        self._server = server
        self._transport: Any = None
        self._streams: dict[int, Stream] = {}
        self._inbox = Inbox(self, server.limits.header_bytes)
        self._rest = b""
        self._greeted = self._over = self._parting = False
        self._data: Stream | None = None
        self._data_left = self._padding_left = 0
        self._data_ends = False
        self._last = 0
        self._refuse_after = frames.MOST_ID
        self._credit = frames.FIRST_WINDOW
        self._read = self._arriving = 0
        self._window = frames.FIRST_WINDOW
        self._stuck: dict[int, Stream] = {}
        self._part_at = self._reconnect_at = self._unread_until = _FOREVER
        self.deadline = _FOREVER

    # -- what the loop calls

    def connection_made(self, transport: Any) -> None:
        """Greet a new client, or turn it away past the bound."""
        self._transport = transport
        server, now = self._server, self._server.loop.time()
        server.connections.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None:  # a client that vanished without a word is found out
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        values = {
            frames.Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            frames.Setting.INITIAL_WINDOW_SIZE: self._stream_window,
            frames.Setting.MAX_FRAME_SIZE: MAX_FRAME,
            frames.Setting.MAX_HEADER_LIST_SIZE: server.limits.header_bytes,
        }
        self._write(frames.settings(values) + frames.window_update(0, WINDOW - self._credit))
        self._credit = WINDOW
        self.deadline = now + server.limits.header_s
        age_s = server.age_s
        if age_s is not None:
            self._reconnect_at = now + age_s
        if server.draining:
            self.wind_down()
        if len(server.connections) > server.limits.connections:
            self._end(Code.ENHANCE_YOUR_CALM, f"the server holds {server.limits.connections} connections, its bound")

    @property
    def _stream_window(self) -> int:
        return min(frames.MOST_WINDOW, self._server.limits.body_bytes + SLACK)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the loop's signature)
        """Forget everything, and tell whoever works for this caller."""
        self._server.gone(self)
        self._over, self.deadline, self._data = True, _FOREVER, None
        streams, self._streams = self._streams, {}
        self._stuck.clear()
        for stream in streams.values():
            if stream.left is not None:
                stream.left()

    def eof_received(self) -> bool:
        """Close: a caller who sends no more is taken to have left."""
        return False

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  (the loop's signature)
        """Return where to read."""
        return self._server.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read into the buffer."""
        if self._over:
            return
        view = memoryview(self._server.scratch)[:nbytes]
        if self._rest:
            view, self._rest = memoryview(self._rest + view), b""
        try:
            self._rest = bytes(self._take(view))
        except Violation as violation:
            self._end(violation.code, str(violation))

    def pause_writing(self) -> None:
        """Stop reading from a client who does not read."""
        self._transport.pause_reading()
        self._unread_until = self._server.loop.time() + self._server.limits.body_s
        self._reconsider(self._unread_until)

    def resume_writing(self) -> None:
        """Go on once the client has read."""
        self._unread_until = _FOREVER
        if not self._over:
            self._transport.resume_reading()

    # -- frames

    def _take(self, view: memoryview) -> memoryview:
        """Work off whole frames and payload of messages; return what is left, less than a frame."""
        position, end = 0, len(view)
        if not self._greeted:
            if bytes(view[: len(frames.PREFACE)]) != frames.PREFACE[:end]:
                raise Violation(Code.PROTOCOL_ERROR, "this port speaks gRPC over HTTP/2 without TLS")
            if end < len(frames.PREFACE):
                return view
            self._greeted, position = True, len(frames.PREFACE)
            self.deadline = min(self._part_at, self._reconnect_at)
            if self._parting:
                self._write(_PARTING)
        while position < end and not self._over:
            if self._data_left or self._padding_left:
                position = self._take_payload(view, position, end)
                continue
            if end - position < HEAD_BYTES:
                break
            high, low, kind, flags, number = FRAME_HEAD.unpack_from(view, position)
            length = high << 8 | low
            start = position + HEAD_BYTES
            if kind == Kind.DATA and not self._inbox.in_block:
                padded = bool(flags & PADDED)
                if padded and start == end:
                    break
                self._start_payload(number, length, flags, view[start] if padded else None)
                position = start + padded
                continue
            if length > frames.LEAST_MAX_FRAME:
                raise Violation(Code.FRAME_SIZE_ERROR, f"a control frame of {length} bytes is past the bound")
            if end - start < length:
                break
            position = start + length
            self._inbox.take(kind, flags, number & frames.MOST_ID, bytes(view[start:position]))
        return view[position:end] if not self._over else view[:0]

    def _start_payload(self, number: int, length: int, flags: int, padding: int | None) -> None:
        if length > MAX_FRAME:
            raise Violation(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes is past the bound of {MAX_FRAME}")
        if not 0 < number <= self._last:
            raise Violation(Code.PROTOCOL_ERROR, "data came for a stream that was never opened")
        self._credit -= length
        self._read += length
        if self._credit < 0:
            raise Violation(Code.FLOW_CONTROL_ERROR, "more was sent than the connection's window allows")
        if self._read >= WINDOW // 2:
            self._write(frames.window_update(0, self._read))
            self._credit, self._read = self._credit + self._read, 0
        own = length if padding is None else length - 1 - padding
        if own < 0:
            raise Violation(Code.PROTOCOL_ERROR, "a DATA frame is shorter than its padding")
        self._data_left, self._padding_left = own, padding or 0
        self._data_ends = bool(flags & END_STREAM)
        # None: the call was answered or given up meanwhile; what its caller had sent by then leads nowhere
        stream = self._data = self._streams.get(number)
        if stream is not None:
            stream.received += length
            if stream.ended or stream.received > self._stream_window:
                raise Violation(
                    Code.FLOW_CONTROL_ERROR, "more was sent than the stream's window allows, or after its end"
                )
        if not own:
            self._inbox.idle()
            self._end_payload()

    def _take_payload(self, view: memoryview, position: int, end: int) -> int:
        """Take payload and padding of the DATA frame at hand; return the position behind it."""
        if self._data_left:
            stop = min(end, position + self._data_left)
            self._data_left -= stop - position
            if self._data is not None:
                self._feed(self._data, view[position:stop])
            position = stop
            if not self._data_left:
                self._end_payload()
        if not self._data_left and self._padding_left:
            skipped = min(end - position, self._padding_left)
            self._padding_left -= skipped
            position += skipped
        return position

    def _feed(self, stream: Stream, data: memoryview) -> None:
        before = len(stream.message)
        try:
            stream.feed(data, self._server.limits.body_bytes)
        except TensorError as error:
            self.fail(stream, grpc_status(error), str(error))
            return
        if len(stream.message) != before:
            self._arriving += len(stream.message)
            bound = ARRIVING * self._server.limits.body_bytes
            if self._arriving > bound:
                words = f"messages of {self._arriving} bytes are on their way on this connection, past {bound}"
                self.fail(stream, "RESOURCE_EXHAUSTED", words)

    def _end_payload(self) -> None:
        stream, self._data = self._data, None
        if self._data_ends and stream is not None and stream.id in self._streams:
            self.end_of(stream)

    # -- calls

    def open(self, number: int, head: Head, *, ends: bool) -> None:
        """Begin a call, or take the trailers of one that is under way.

        Raises:
            Violation: the stream's number is none a client may use.
        """
        known = self._streams.get(number)
        if known is not None:
            if not ends or known.ended:
                raise Violation(Code.PROTOCOL_ERROR, "headers came in the middle of a stream")
            self.end_of(known)
            return
        if number % 2 == 0:
            raise Violation(Code.PROTOCOL_ERROR, "streams of clients have odd numbers")
        if number <= self._last:  # trailers of a call that was answered meanwhile
            return
        self._last = number
        if number > self._refuse_after or len(self._streams) >= MAX_STREAMS:
            self._write(frames.reset(number, Code.REFUSED_STREAM))
            return
        now = self._server.loop.time()
        stream = Stream(self, number, head, now, self._inbox.stream_window)
        self._streams[number] = stream
        stream.ended = ends
        if head.method != b"POST" or not head.kind.startswith(b"application/grpc"):
            self._close(stream, not_grpc(405 if head.method != b"POST" else 415))
        elif head.wrong:
            self.fail(stream, "INVALID_ARGUMENT", head.wrong)
        elif ends:
            self.end_of(stream)
        else:
            stream.deadline = now + self._server.limits.body_s
            self._reconsider(stream.deadline)

    def end_of(self, stream: Stream) -> None:
        """Hand over a call whose caller has sent everything."""
        stream.ended, stream.deadline = True, _FOREVER
        if not stream.whole:
            self.fail(stream, "INVALID_ARGUMENT", "the call ended before its message was whole")
            return
        self._arriving -= len(stream.message)
        self._inbox.busy()
        if stream.compressed:
            self._decompress(stream)
        else:
            self._server.handler(stream)

    def _decompress(self, stream: Stream) -> None:
        """Inflate on a thread of the loop's executor: zlib releases the GIL, and a bomb must not stop the loop."""
        coding, bound = stream.head.coding, self._server.limits.body_bytes
        if coding not in CODINGS:
            words = f"messages compressed by {coding[:40].decode('latin-1')!r} are not read; send gzip or deflate"
            self.fail(stream, "UNIMPLEMENTED", words, (("grpc-accept-encoding", "identity,deflate,gzip"),))
            return
        work = self._server.loop.run_in_executor(None, inflate, stream.message, coding, bound)

        def inflated(future: asyncio.Future[memoryview]) -> None:
            if self._streams.get(stream.id) is not stream or future.cancelled():
                return
            error = future.exception()
            if error is None:
                stream.message = future.result()
                self._server.handler(stream)
            elif isinstance(error, (TooLarge, TensorError)):
                self.fail(stream, grpc_status(error), str(error))
            else:
                self.fail(stream, "INTERNAL", "decompressing the message failed")

        work.add_done_callback(inflated)

    def leave(self, number: int) -> None:
        """Give up a call: its caller has left."""
        stream = self._forget(number)
        if stream is not None and stream.left is not None:
            stream.left()
        self._part_if_over()

    def _forget(self, number: int) -> Stream | None:
        stream = self._streams.pop(number, None)
        self._stuck.pop(number, None)
        if stream is not None and not stream.ended:
            self._arriving -= len(stream.message)
        return stream

    # -- answers

    def respond(self, stream: Stream, parts: Sequence[bytes | memoryview]) -> None:
        """Write the answer of a call; one whose caller has left is dropped."""
        if self._streams.get(stream.id) is not stream:
            return
        length = 0
        for part in parts:
            length += len(part)
        number, size = stream.id, length + PREFIX_BYTES
        opening = frames.head(Kind.HEADERS, END_HEADERS, number, len(OPENING)) + OPENING
        prefix = b"\0" + frames.NUMBER.pack(length)
        if size > self._inbox.max_frame or size > self._window or size > stream.window or self._stuck:
            self._write(opening)
            stream.unsent = memoryview(b"".join((prefix, *parts)))
            stream.deadline = self._server.loop.time() + self._server.limits.body_s
            self._stuck[number] = stream
            self._reconsider(stream.deadline)
            self.flush()
            return
        self._window -= size
        buffers = (opening, frames.head(Kind.DATA, 0, number, size), prefix, *parts, _closing(number))
        if size <= JOIN_BYTES:
            self._write(b"".join(buffers))
        else:
            self._transport.writelines(buffers)
        self._inbox.answered()
        self._finish(stream)

    def fail(self, stream: Stream, status: str, message: str, more: Iterable[tuple[str, str]] = ()) -> None:
        """Write why a call has no answer."""
        if self._streams.get(stream.id) is stream:
            self._close(stream, failure(GRPC_NUMBERS[status], message, more))

    def _close(self, stream: Stream, block: bytes) -> None:
        self._write(frames.frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream.id, block))
        self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        self._forget(stream.id)
        if not stream.ended:  # the answer came first: the rest of the question is not wanted
            self._write(frames.reset(stream.id, Code.NO_ERROR))
        self._part_if_over()

    def flush(self) -> None:
        """Send what windows held back, as far as they allow now, in the order of the answers."""
        for stream in list(self._stuck.values()):
            while stream.unsent:
                size = min(len(stream.unsent), self._inbox.max_frame, self._window, stream.window)
                if size <= 0:
                    break
                part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
                self._window -= size
                stream.window -= size
                self._transport.writelines((frames.head(Kind.DATA, 0, stream.id, size), part))
            if not stream.unsent:
                self._write(_closing(stream.id))
                self._inbox.answered()
                self._finish(stream)
            elif self._window <= 0:
                return

    def widen(self, number: int, increment: int) -> None:
        """Take a WINDOW_UPDATE.

        Raises:
            Violation: by nothing, or past the largest window.
        """
        if not increment:
            raise Violation(Code.PROTOCOL_ERROR, "a window was widened by nothing")
        if number == 0:
            self._window += increment
            if self._window > frames.MOST_WINDOW:
                raise Violation(Code.FLOW_CONTROL_ERROR, "the connection's window was widened past the bound")
        else:
            self.shift(increment, number)
        if self._stuck:
            self.flush()

    def shift(self, by: int, number: int | None = None) -> None:
        """Move the window of one stream, or of all that are open.

        Raises:
            Violation: past the largest window.
        """
        one = self._streams.get(number) if number is not None else None
        for stream in [one] if one is not None else self._streams.values() if number is None else ():
            stream.window += by
            if stream.window > frames.MOST_WINDOW:
                raise Violation(Code.FLOW_CONTROL_ERROR, "a stream's window was widened past the bound")

    # -- ends

    def wind_down(self) -> None:
        """Ask the client to reconnect elsewhere; calls it sends until it has heard are still answered."""
        if self._parting or self._over:
            return
        self._parting = True
        self._part_at = self._server.loop.time() + LINGER_S
        self._reconnect_at = _FOREVER
        self._reconsider(self._part_at)
        if self._greeted:
            self._write(_PARTING)

    def heard(self) -> None:
        """Take no further calls: the client has heard that this connection ends, or had the time to."""
        if self._parting and self._refuse_after == frames.MOST_ID:
            self._part_at = _FOREVER
            self._refuse_after = self._last
            self._write(frames.go_away(self._last, Code.NO_ERROR))
            self._part_if_over()

    def expire(self) -> None:
        """Give up what is past its time, and set the next deadline."""
        now = self._server.loop.time()
        if self._over or not self._greeted or self._unread_until < now:
            self.abort()
            return
        self.deadline = _FOREVER
        for stream in [one for one in self._streams.values() if one.deadline < now]:
            if stream.unsent:
                self._write(frames.reset(stream.id, Code.CANCEL))
                self._forget(stream.id)
            elif stream.deadline + stream.received / MIN_BYTES_PER_S >= now:
                continue
            else:
                self.fail(stream, "DEADLINE_EXCEEDED", "the call's message did not arrive in time")
        if self._reconnect_at < now:
            self.wind_down()
        if self._part_at < now:
            self.heard()
        late = [one.deadline + (0 if one.unsent else one.received / MIN_BYTES_PER_S) for one in self._streams.values()]
        self._reconsider(min([self._part_at, self._reconnect_at, self._unread_until, *late]))

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def _part_if_over(self) -> None:
        if self._refuse_after != frames.MOST_ID and not self._streams and not self._over:
            self._over = True
            self._reconsider(self._server.loop.time() + self._server.limits.body_s)
            self._transport.close()

    def _end(self, code: Code, words: str) -> None:
        """Tell the client what it did, and close."""
        self._over, self._rest = True, b""
        self.deadline = self._server.loop.time() + LINGER_S
        self._transport.write(frames.go_away(self._last, code, words))
        self._transport.close()

    def _reconsider(self, deadline: float) -> None:
        self.deadline = min(self.deadline, deadline)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        """Write a control frame."""
        self._write(data)


def _closing(number: int) -> bytes:
    return frames.head(Kind.HEADERS, END_HEADERS | END_STREAM, number, len(CLOSING)) + CLOSING
