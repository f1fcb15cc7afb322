"""One HTTP/2 connection that carries gRPC: a state machine over frames. Knows no method and no model.

Everything is read into one scratch buffer of the loop; a message's bytes are copied from there to where the tensors'
views will lie, and that is the only copy here. A connection never buffers more than one frame of headers, and a stream
never more than the message it has announced. A caller who leaves is told to whoever works for him.

Windows are as large as the largest message: what bounds memory is the announced size of messages, not flow control.
"""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from whet.errors import TensorError, WhetError
from whet.serve.aside import inflate_aside
from whet.serve.bodies import CODINGS
from whet.serve.codes import GRPC_NUMBERS, grpc_status
from whet.serve.connection import LINGER_S, MIN_BYTES_PER_S
from whet.serve.h2 import frames
from whet.serve.h2.control import Inbox
from whet.serve.h2.frames import Code, Kind, Violation
from whet.serve.h2.heads import Head, failure, not_grpc
from whet.serve.h2.outbox import Outbox
from whet.serve.h2.reader import MAX_FRAME, Reader
from whet.serve.h2.stream import Home, Stream

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


class Connection(asyncio.BufferedProtocol):
    """One client's socket. Made by the server of a loop; everything happens on the loop's thread."""

    def __init__(self, server: Home) -> None:
        self._server = server
        self._transport: Any = None
        self._streams: dict[int, Stream] = {}
        self._reader = Reader(self, server.limits.header_bytes)
        self._inbox = Inbox(self, server.limits.header_bytes)
        self._outbox = Outbox(self)
        self._greeted = self._over = self._parting = False
        self._stream: Stream | None = None
        self._last = 0
        self._refuse_after = frames.MOST_ID
        self._credit = frames.FIRST_WINDOW
        self._read = self._arriving = 0
        self._part_at = self._reconnect_at = self._unread_until = _FOREVER
        self.deadline = _FOREVER

    # -- what the loop calls

    def connection_made(self, transport: Any) -> None:
        """Greet a new client, or turn it away past the bound."""
        self._transport = self._outbox.transport = transport
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
        self.write(frames.settings(values) + frames.window_update(0, WINDOW - self._credit))
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
        self._over = self._reader.over = True
        self.deadline, self._stream = _FOREVER, None
        streams, self._streams = self._streams, {}
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
        try:
            self._reader.feed(memoryview(self._server.scratch)[:nbytes])
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

    # -- what the reader has cut out

    def greeted(self) -> None:
        """Serve a client who speaks HTTP/2."""
        self._greeted = True
        self.deadline = min(self._part_at, self._reconnect_at)
        if self._parting:
            self.write(_PARTING)

    def control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Act on a frame that is no data."""
        self._inbox.take(kind, flags, number, payload)

    def begin_data(self, number: int, size: int) -> None:
        """Find whose data comes, and account for it.

        Raises:
            Violation: it may not come now, or not that much of it.
        """
        if self._inbox.in_block or not 0 < number <= self._last:
            raise Violation(Code.PROTOCOL_ERROR, "data came for a stream that was never opened, or within headers")
        self._credit -= size
        self._read += size
        if self._credit < 0:
            raise Violation(Code.FLOW_CONTROL_ERROR, "more was sent than the connection's window allows")
        if self._read >= WINDOW // 2:
            self.write(frames.window_update(0, self._read))
            self._credit, self._read = self._credit + self._read, 0
        if not size:
            self._inbox.idle()
        # None: the call was answered or given up meanwhile; what its caller had sent by then leads nowhere
        stream = self._stream = self._streams.get(number)
        if stream is not None:
            stream.received += size
            if stream.ended or stream.received > self._stream_window:
                raise Violation(
                    Code.FLOW_CONTROL_ERROR, "more was sent than a stream's window allows, or after its end"
                )

    def data(self, payload: memoryview) -> None:
        """Put payload where its message belongs."""
        stream, limit = self._stream, self._server.limits.body_bytes
        if stream is None:
            return
        before = len(stream.message)
        try:
            stream.feed(payload, limit)
        except TensorError as error:
            self._stream = None
            self.fail(stream, grpc_status(error), str(error))
            return
        self._arriving += len(stream.message) - before
        if self._arriving > ARRIVING * limit:
            words = f"messages of {self._arriving} bytes are on their way here at once, past {ARRIVING * limit}"
            self._stream = None
            self.fail(stream, "RESOURCE_EXHAUSTED", words)

    def end_data(self, *, ends: bool) -> None:
        """A frame of data is over."""
        stream, self._stream = self._stream, None
        if ends and stream is not None and stream.id in self._streams:
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
            self._outbox.reset(number, Code.REFUSED_STREAM)
            return
        now = self._server.loop.time()
        stream = Stream(self, number, head, now, self._outbox.stream_window)
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
        self._arriving -= len(stream.message)
        if not stream.whole:
            self.fail(stream, "INVALID_ARGUMENT", "the call ended before its message was whole")
            return
        self._inbox.busy()
        if stream.compressed:
            self._decompress(stream)
        else:
            self._server.handler(stream)

    def _decompress(self, stream: Stream) -> None:
        coding, bound = stream.head.coding, self._server.limits.body_bytes
        if coding not in CODINGS:
            words = f"messages compressed by {coding[:40].decode('latin-1')!r} are not read; send gzip or deflate"
            self.fail(stream, "UNIMPLEMENTED", words, (("grpc-accept-encoding", "identity,deflate,gzip"),))
            return

        def inflated(message: memoryview) -> None:
            if self._streams.get(stream.id) is stream:
                stream.message = message
                self._server.handler(stream)

        def failed(error: WhetError) -> None:
            self.fail(stream, grpc_status(error), str(error))

        inflate_aside(self._server.loop, (stream.message, coding, bound), inflated, failed)

    def leave(self, number: int) -> None:
        """Give up a call: its caller has left."""
        stream = self._forget(number)
        if stream is not None and stream.left is not None:
            stream.left()
        self._part_if_over()

    def _forget(self, number: int) -> Stream | None:
        stream = self._streams.pop(number, None)
        self._outbox.forget(number)
        if stream is not None and not stream.ended:
            self._arriving -= len(stream.message)
        return stream

    # -- answers

    def respond(self, stream: Stream, parts: Sequence[bytes | memoryview]) -> None:
        """Write the answer of a call; one whose caller has left is dropped."""
        if self._streams.get(stream.id) is stream:
            self._outbox.answer(stream, parts)

    def fail(self, stream: Stream, status: str, message: str, more: Iterable[tuple[str, str]] = ()) -> None:
        """Write why a call has no answer."""
        if self._streams.get(stream.id) is stream:
            self._close(stream, failure(GRPC_NUMBERS[status], message, more))

    def _close(self, stream: Stream, block: bytes) -> None:
        self._outbox.end(stream, block)
        self._finish(stream)

    def answered(self, stream: Stream) -> None:
        """The answer of a call is written."""
        self._inbox.answered()
        self._finish(stream)

    def held_back(self, stream: Stream) -> None:
        """The client has a while to read the answer of a call."""
        stream.deadline = self._server.loop.time() + self._server.limits.body_s
        self._reconsider(stream.deadline)

    def moved(self) -> None:
        """A client who reads a long answer may widen windows for as long as it takes."""
        self._inbox.busy()

    def _finish(self, stream: Stream) -> None:
        self._forget(stream.id)
        if not stream.ended:  # the answer came first: the rest of the question is not wanted
            self._outbox.reset(stream.id, Code.NO_ERROR)
        self._part_if_over()

    # -- what the client sets

    def widen(self, number: int, increment: int) -> None:
        """Let a stream, or for 0 the connection, be sent more; a stream that is over needs none."""
        stream = self._streams.get(number)
        if stream is not None or number == 0:
            self._outbox.widen(increment, stream)

    def set_stream_window(self, size: int) -> None:
        """Take another window for streams towards the client."""
        self._outbox.set_stream_window(size, list(self._streams.values()))
        self._outbox.flush()

    def set_max_frame(self, size: int) -> None:
        """Take another largest frame towards the client."""
        self._outbox.max_frame = size

    def write(self, data: bytes) -> None:
        """Write a control frame."""
        self._outbox.control(data)

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
            self.write(_PARTING)

    def heard(self) -> None:
        """Take no further calls: the client has heard that this connection ends, or had the time to."""
        if self._parting and self._refuse_after == frames.MOST_ID:
            self._part_at = _FOREVER
            self._refuse_after = self._last
            self.write(frames.go_away(self._last, Code.NO_ERROR))
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
                self._outbox.reset(stream.id, Code.CANCEL)
                self._finish(stream)
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
            self._over = self._reader.over = True
            self._reconsider(self._server.loop.time() + self._server.limits.body_s)
            self._transport.close()

    def _end(self, code: Code, words: str) -> None:
        """Tell the client what it did, and close."""
        self._over = self._reader.over = True
        self.deadline = self._server.loop.time() + LINGER_S
        self._transport.write(frames.go_away(self._last, code, words))
        self._transport.close()

    def _reconsider(self, deadline: float) -> None:
        self.deadline = min(self.deadline, deadline)
