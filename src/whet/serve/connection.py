"""One HTTP/1.1 connection: a state machine over head, body and waiting for the answer. Knows no model and no route.

A request's body is read straight into memory of the body's size; the views handed on are views of that memory. One
request of a connection is answered at a time, so pipelined answers keep their order; what arrives meanwhile waits in a
bounded buffer. A caller who leaves is told to whoever works for him.

Heads are parsed by llhttp (httptools), which refuses ambiguous framing; bodies never pass through it.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol

import httptools
import numpy as np

from whet.errors import TensorError, TooLarge, WhetError
from whet.serve.aside import inflate_aside
from whet.serve.bodies import CODINGS, Chunked
from whet.serve.codes import http_status
from whet.serve.exchange import EMPTY, Exchange, Handler, Limits, error_body

PIPELINED_BYTES = 256 << 10
"""What a client may send ahead before reading from it stops."""
SPARE_BYTES = 1
"""Memory behind a body: the loop looks for more at once after a read that filled its buffer, mostly in vain."""
JOIN_BYTES = 16 << 10
"""Answers up to this size are joined into one buffer; a copy is cheaper than a second vector."""
MIN_BYTES_PER_S = 50_000
"""A body may take its timeout plus its size at this rate."""
LINGER_S = 1.0
"""How long an idle connection of a draining server may still bring a request, and a refused one is read from."""
_REASONS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_REASONS[499] = b"HTTP/1.1 499 Client Closed Request\r\n"
_HEAD, _BODY, _CHUNKED, _BUSY, _DISCARD = range(5)
_FOREVER = float("inf")


class Home(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    loop: asyncio.AbstractEventLoop
    scratch: bytearray
    date: bytes
    draining: bool
    connections: set["Connection"]

    def gone(self, connection: "Connection") -> None:
        """Forget a closed connection."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One client's socket: a state machine over head, body, waiting for the answer."""

    __slots__ = (
        "_began", "_body", "_chunked", "_closing", "_complete", "_exchange", "_filled", "_keep_alive", "_parser",
        "_pending", "_reading", "_running", "_server", "_transport", "_writable",
        "deadline", "headers", "method", "state", "target",
    )  # fmt: skip

    def __init__(self, server: Home) -> None:
        self._server = server
        self._transport: Any = None
        self._pending = bytearray()
        self._body: memoryview = EMPTY
        self._filled = 0
        self._chunked: Chunked | None = None
        self._exchange: Exchange | None = None
        self._parser: Any = None
        self._complete = self._keep_alive = self._closing = self._running = False
        self._reading = self._writable = True
        self._began = 0.0
        self.state = _HEAD
        self.deadline = _FOREVER
        self.method = self.target = b""
        self.headers: dict[bytes, bytes] = {}

    # -- what the loop calls

    def connection_made(self, transport: Any) -> None:
        """Take a new socket, or refuse it past the bound."""
        self._transport = transport
        server = self._server
        server.connections.add(self)
        self.deadline = server.loop.time() + (LINGER_S if server.draining else server.limits.idle_s)
        if len(server.connections) > server.limits.connections:
            self._refuse(503, f"the server holds {server.limits.connections} connections, its bound; try again later")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the loop's signature)
        """Forget everything, and tell whoever works for this caller."""
        self._server.gone(self)
        self.deadline = _FOREVER
        exchange, self._exchange = self._exchange, None
        self.state, self._body, self._chunked = _DISCARD, EMPTY, None
        if exchange is not None and exchange.left is not None:
            exchange.left()

    def eof_received(self) -> bool:
        """Close: a caller who sends no more is taken to have left."""
        return False

    def get_buffer(self, sizehint: int) -> Any:  # noqa: ARG002  (the loop's signature)
        """Return where to read: the body itself, or scratch memory while its size is unknown."""
        return self._body[self._filled :] if self.state == _BODY else self._server.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read into the buffer."""
        state = self.state
        if state == _BODY:
            self._filled += nbytes
            whole = len(self._body) - SPARE_BYTES
            if self._filled < whole:
                self._expect_body()
                return
            if self._filled > whole:
                self._pending += self._body[whole : self._filled]
            self._hand_over(self._body[:whole])
        elif state == _DISCARD:
            return
        else:
            self._pending += memoryview(self._server.scratch)[:nbytes]
            if state == _BUSY:
                if len(self._pending) > PIPELINED_BYTES:
                    self._pause_reading()
            else:
                self._run()

    def pause_writing(self) -> None:
        """Stop reading from a client who does not read."""
        self._writable = False
        self.deadline = self._server.loop.time() + self._server.limits.body_s
        self._pause_reading()

    def resume_writing(self) -> None:
        """Go on once the client has read."""
        self._writable = True
        self.deadline = self._server.loop.time() + self._server.limits.idle_s
        if self._closing:
            return
        self._run()
        self._resume_reading()

    # -- what the parser calls

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Note that the head is whole."""
        self._complete = True

    # -- requests

    def _run(self) -> None:
        """Work off what has arrived, as far as answers and the client's reading allow."""
        if self._running:  # a handler answered at once: the loop below goes on by itself
            return
        self._running = True
        try:
            while self._pending and self._writable and self.state in (_HEAD, _CHUNKED):
                if not (self._take_head() if self.state == _HEAD else self._take_chunks()):
                    break
        finally:
            self._running = False

    def _take_head(self) -> bool:
        pending, limits = self._pending, self._server.limits
        end = pending.find(b"\r\n\r\n", 0, limits.header_bytes)
        if end < 0:
            if len(pending) >= limits.header_bytes:
                self._refuse(431, f"the request's head is past the bound of {limits.header_bytes} bytes")
            elif self._began == 0.0:
                self._began = self._server.loop.time()
                self.deadline = self._began + limits.header_s
            return False
        head = bytes(pending[: end + 4])
        del pending[: end + 4]
        self.target, self.headers, self._complete = b"", {}, False
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # an upgrade is an offer; this server declines by answering in HTTP/1.1
        except httptools.HttpParserError as error:
            self._refuse(400, f"the request's head is no HTTP/1.1: {error}")
            return False
        if not self._complete:
            if head.strip(b"\r\n"):
                self._refuse(400, "the request's head is no HTTP/1.1")
                return False
            return True  # empty lines before a request are allowed
        self.method = self._parser.get_method()
        self._keep_alive = self._parser.should_keep_alive() and not self._server.draining
        self._began = self._server.loop.time()
        return self._start_body()

    def _start_body(self) -> bool:
        """Decide by the head how the body comes; return whether to go on with what has arrived."""
        headers, limits = self.headers, self._server.limits
        length = int(headers.get(b"content-length", b"0"))
        coding = headers.get(b"transfer-encoding")
        expect = headers.get(b"expect")
        if coding is not None and coding.lower() != b"chunked":
            return self._refuse(501, f"transfer coding {coding[:40]!r} is unknown; send a length or chunks")
        if length > limits.body_bytes:
            return self._refuse(413, f"the body has {length} bytes, past the bound of {limits.body_bytes}")
        if expect is not None:
            if expect.lower() != b"100-continue":
                return self._refuse(417, f"expectation {expect[:40]!r} is unknown")
            if len(self._pending) < length or coding is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if coding is not None:
            self._chunked = Chunked(limits.body_bytes)
            self.state, self._filled = _CHUNKED, 0
            self._expect_body()
        elif length <= len(self._pending):
            body = memoryview(bytes(self._pending[:length]))
            del self._pending[:length]
            self._hand_over(body)
        else:
            body = memoryview(np.empty(length + SPARE_BYTES, np.uint8))  # type: ignore[arg-type]  # not zeroed
            self._filled = len(self._pending)
            body[: self._filled] = self._pending
            self._pending.clear()
            self._body, self.state = body, _BODY
            self._expect_body()
        return True

    def _take_chunks(self) -> bool:
        assert self._chunked is not None
        try:
            rest = self._chunked.feed(bytes(self._pending))
        except TensorError as error:
            return self._refuse(413 if isinstance(error, TooLarge) else 400, str(error))
        self._pending[:] = rest
        self._filled = len(self._chunked.body)
        if self._chunked.done:
            body, self._chunked = memoryview(self._chunked.body), None
            self._hand_over(body)
        else:
            self._expect_body()
        return True

    def _expect_body(self) -> None:
        self.deadline = self._began + self._server.limits.body_s + self._filled / MIN_BYTES_PER_S

    def _hand_over(self, body: memoryview) -> None:
        self.state, self.deadline = _BUSY, _FOREVER
        self._body = EMPTY
        self._exchange = exchange = Exchange(self, self._began)
        coding = self.headers.get(b"content-encoding")
        if coding is None or coding == b"identity":
            exchange.body = body
            self._server.handler(exchange)
        else:
            self._decompress(exchange, body, coding.lower())

    def _decompress(self, exchange: Exchange, body: memoryview, coding: bytes) -> None:
        if coding not in CODINGS:
            exchange.fail(415, f"content coding {coding[:40].decode('latin-1')!r} is unknown; send gzip or deflate")
            return

        def inflated(whole: memoryview) -> None:
            if self._exchange is exchange:
                exchange.body = whole
                self._server.handler(exchange)

        def failed(error: WhetError) -> None:
            exchange.fail(http_status(error), str(error))

        inflate_aside(self._server.loop, (body, coding, self._server.limits.body_bytes), inflated, failed)

    # -- answers

    def respond(self, exchange: Exchange, status: int, buffers: Sequence[bytes | memoryview], lines: bytes) -> None:
        """Write the answer of the exchange in flight; one whose caller has left is dropped."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        length = 0
        for buffer in buffers:
            length += len(buffer)
        keep = self._keep_alive and not self._server.draining
        head = b"%b%b%bContent-Length: %d\r\n%b\r\n" % (
            _REASONS[status],
            lines,
            self._server.date,
            length,
            b"" if keep else b"Connection: close\r\n",
        )
        if exchange.method == b"HEAD":
            self._transport.write(head)
        elif length <= JOIN_BYTES:
            self._transport.write(b"".join((head, *buffers)))
        else:
            self._transport.writelines((head, *buffers))
        if not keep:
            self.close()
            return
        self.state, self._began = _HEAD, 0.0
        if self._writable:
            self.deadline = self._server.loop.time() + self._server.limits.idle_s
            if self._pending and not self._running:
                self._run()
            self._resume_reading()

    def _refuse(self, status: int, message: str) -> bool:
        """Answer a request that was not understood and close, reading on a little so that the answer arrives."""
        body = error_body(message)
        self._transport.write(
            b"%bContent-Type: application/json\r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (_REASONS[status], self._server.date, len(body), body)
        )
        self._closing, self.state = True, _DISCARD
        self._pending.clear()
        self._body, self._chunked = EMPTY, None
        self.deadline = self._server.loop.time() + LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()
        return False

    def expire(self) -> None:
        """The deadline has passed: say so if a request was under way, and close."""
        if self.state in (_BODY, _CHUNKED) or (self.state == _HEAD and self._pending and self._writable):
            self._refuse(408, "the request did not arrive in time")
        elif self._writable and not self._closing:
            self.close()
        else:
            self.abort()

    def wind_down(self) -> None:
        """The server is draining: a connection on which no request is under way has a moment to bring one."""
        if self.state == _HEAD and not self._pending:
            self.deadline = min(self.deadline, self._server.loop.time() + LINGER_S)

    def close(self) -> None:
        """Close once what is written has been sent."""
        self._closing, self.state = True, _DISCARD
        self.deadline = self._server.loop.time() + self._server.limits.body_s
        self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def _pause_reading(self) -> None:
        if self._reading and not self._closing:
            self._reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading and not self._closing and len(self._pending) <= PIPELINED_BYTES:
            self._reading = True
            self._transport.resume_reading()
