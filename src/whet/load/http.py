"""Load over HTTP: a keep-alive client that does little per request, so that the server is what is measured.

Requests are encoded once, before the run; an answer's head is parsed by httptools, its body is only counted unless
answers are checked. Connections are opened when a request finds none idle, and reused last in, first out.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools

from whet.errors import (
    Cancelled,
    DeadlineExceeded,
    NotFound,
    NotReady,
    QueueFull,
    RuntimeFailed,
    TensorError,
    TimedOut,
    TooLarge,
    Unreachable,
    WhetError,
    WrongAnswer,
)
from whet.load.address import Address
from whet.load.messages import http_infer, http_infer_json, http_outputs, same
from whet.tensors import Tensors

_STATUS: dict[int, type[WhetError]] = {
    400: TensorError,
    404: NotFound,
    413: TooLarge,
    429: QueueFull,
    499: Cancelled,
    500: RuntimeFailed,
    503: NotReady,
    504: DeadlineExceeded,
}


@dataclass(slots=True)
class Reply:
    """An answer: status, the length of its JSON part where it has a binary one, and its body (empty unless kept)."""

    status: int = 0
    json_length: int | None = None
    size: int = 0
    parts: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The bytes kept."""
        return b"".join(self.parts)


class _Connection(asyncio.Protocol):
    """One connection; one request at a time. httptools calls the ``on_`` methods while it is fed."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiting: asyncio.Future[Reply] | None = None
        self.reply = Reply()
        self.keep = False
        self.used = 0
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(WrongAnswer(f"the answer is no HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Unreachable(f"the server closed the connection before its answer was whole ({exc or 'no reason'})"))
        self.transport = None

    @property
    def alive(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def send(self, request: bytes, *, keep: bool) -> asyncio.Future[Reply]:
        assert self.transport is not None
        self.waiting = asyncio.get_running_loop().create_future()
        self.reply, self.keep = Reply(), keep
        self.used += 1
        self.transport.write(request)
        return self.waiting

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"inference-header-content-length":
            self.reply.json_length = int(value)

    def on_headers_complete(self) -> None:
        self.reply.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.reply.size += len(body)
        if self.keep or self.reply.status != 200:
            self.reply.parts.append(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_keep_alive():
            self.close()
        self._end(self.reply)

    def _end(self, outcome: Reply | WhetError) -> None:
        if self.waiting is None or self.waiting.done():
            return
        if isinstance(outcome, WhetError):
            self.waiting.set_exception(outcome)
        else:
            self.waiting.set_result(outcome)


class HttpClient:
    """A pool of keep-alive connections to one server. Used on one event loop.

    Args:
        address: where the server is.
        connections: how many at most; a request past them waits for one.
        timeout_s: patience with one request, waiting included.
    """

    def __init__(self, address: Address, *, connections: int = 256, timeout_s: float = 30.0) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.opened = 0
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._room = asyncio.Semaphore(connections)
        self._tls = ssl.create_default_context() if address.tls else None

    def head(self, method: str, path: str, length: int = 0, extra: str = "") -> bytes:
        """Return the head of a request to this server."""
        said = f"content-length: {length}\r\n" if length else ""
        return f"{method} {path} HTTP/1.1\r\nhost: {self.address.authority}\r\n{said}{extra}\r\n".encode()

    async def request(self, request: bytes, *, keep: bool = True) -> Reply:
        """Send a whole request and return the answer.

        Args:
            request: head and body.
            keep: keep the answer's body; errors' bodies are always kept.

        Raises:
            Unreachable: no connection, or it broke.
            TimedOut: no whole answer within ``timeout_s``.
            WrongAnswer: the answer is no HTTP.
        """
        try:
            async with asyncio.timeout(self.timeout_s), self._room:
                return await self._exchange(request, keep=keep)
        except TimeoutError:
            raise TimedOut(f"{self.address.url} did not answer within {self.timeout_s:g} s") from None

    async def close(self) -> None:
        """Close every connection."""
        for connection in list(self._all):
            connection.close()
        self._all.clear()
        await asyncio.sleep(0)

    async def _exchange(self, request: bytes, *, keep: bool) -> Reply:
        while True:
            connection = await self._take()
            stale = connection.used > 0
            try:
                reply = await connection.send(request, keep=keep)
            except Unreachable:
                # A server may close an idle connection just when it is reused (RFC 9112, 9.5): that request was not
                # refused by anybody, and an inference may be asked twice.
                if stale and not connection.reply.status:
                    continue
                raise
            finally:
                self._give_back(connection)
            return reply

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
            self._all.discard(connection)
        loop = asyncio.get_running_loop()
        try:
            _, opened = await loop.create_connection(_Connection, self.address.host, self.address.port, ssl=self._tls)
        except OSError as error:
            raise Unreachable(f"cannot reach {self.address.url}: {error.strerror or error}") from error
        self.opened += 1
        self._all.add(opened)
        return opened

    def _give_back(self, connection: _Connection) -> None:
        finished = connection.waiting is not None and connection.waiting.done() and not connection.waiting.cancelled()
        if finished and connection.alive:
            self._idle.append(connection)
        else:  # an answer nobody waits for must not meet the next request
            connection.close()
            self._all.discard(connection)


class HttpTarget:
    """Samples sent to a model over HTTP as raw tensors.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        model: its name.
        samples: requests to draw from, each with its batch axis.
        version: of the model; the server's choice when empty.
        connections: see :class:`HttpClient`.
        timeout_s: see :class:`HttpClient`.
        expected: outputs of each sample; a different answer is a failure of kind ``wrong-answer``.
        tolerance: relative and absolute, of that comparison.
    """

    in_process = False

    def __init__(
        self,
        url: str,
        model: str,
        samples: Sequence[Tensors],
        *,
        version: str = "",
        connections: int = 256,
        timeout_s: float = 30.0,
        expected: Sequence[Tensors] | None = None,
        tolerance: float = 1e-5,
    ) -> None:
        address = Address.parse(url).to(model, version)
        self.client = HttpClient(address, connections=connections, timeout_s=timeout_s)
        self._requests = [self._encode(sample) for sample in samples]
        self._rows = [rows_of(sample) for sample in samples]
        self._expected = expected
        self._tolerance = tolerance

    async def __call__(self, index: int) -> int:
        """Send sample ``index``; see :class:`whet.load.runner.Target`."""
        check = self._expected is not None
        reply = await self.client.request(self._requests[index], keep=check)
        if reply.status != 200:
            raise failure(reply)
        if not reply.size:
            raise WrongAnswer("the answer is empty")
        if self._expected is not None:
            why = same(http_outputs(reply.body, reply.json_length), self._expected[index], self._tolerance)
            if why:
                raise WrongAnswer(why)
        return self._rows[index]

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    def _encode(self, sample: Tensors) -> bytes:
        body, json_length = http_infer(sample)
        extra = f"content-type: application/octet-stream\r\ninference-header-content-length: {json_length}\r\n"
        return self.client.head("POST", self.client.address.path + "/infer", len(body), extra) + body


class JsonTarget(HttpTarget):
    """The same samples with their numbers written out as JSON, and answered so; see :class:`HttpTarget`."""

    def _encode(self, sample: Tensors) -> bytes:
        body = http_infer_json(sample)
        extra = "content-type: application/json\r\n"
        return self.client.head("POST", self.client.address.path + "/infer", len(body), extra) + body


def failure(reply: Reply) -> WhetError:
    """Return the error of Whet's tree that an HTTP answer other than 200 stands for."""
    text = reply.body[:500].decode(errors="replace")
    return _STATUS.get(reply.status, WrongAnswer)(f"HTTP {reply.status}: {text}")


def rows_of(sample: Tensors) -> int:
    """Return the rows of a request: the length of axis 0 of its first input, 1 for a scalar."""
    first = next(iter(sample.values()))
    return int(first.shape[0]) if first.ndim else 1
