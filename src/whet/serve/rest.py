"""The Open Inference Protocol over HTTP: routes, and calls translated. No logic; one error table (``codes``)."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from whet.engine.request import Answer
from whet.errors import TensorError, UsageError, WhetError
from whet.serve.codes import http_headers, http_status, known
from whet.serve.exchange import Exchange
from whet.serve.metrics import CONTENT_TYPE
from whet.serve.protocol import Question, Signature, decode, encode
from whet.serve.repository import Model
from whet.serve.service import Call, Service

_BINARY = b"application/octet-stream"
_JSON = b"application/json"
_LENGTH = b"inference-header-content-length"
_NAME_BYTES = 1024
_TARGET_BYTES = 4096
"""Longest target that leads anywhere; targets are remembered, so they may not be long."""
_SEE = ("/v2", "/v2/health/ready", "/v2/models/stats", "/metrics")
_encode = msgspec.json.encode


class Route(msgspec.Struct, frozen=True):
    """Where a path leads.

    Attributes:
        action: name of the method of :class:`Rest`.
        methods: HTTP methods it takes.
        name: of the model in the path, percent-decoded.
        version: in the path, or empty.
    """

    action: str
    methods: tuple[bytes, ...]
    name: str = ""
    version: str = ""


_READ = (b"GET", b"HEAD")
_WRITE = (b"POST",)
_FIXED = {
    b"": Route("landing", _READ),
    b"metrics": Route("metrics", _READ),
    b"v2": Route("metadata", _READ),
    b"v2/health/live": Route("live", _READ),
    b"v2/health/ready": Route("ready", _READ),
    b"v2/models/stats": Route("statistics", _READ),
    b"v2/repository/index": Route("index", _WRITE),
}
_OF_MODEL = {
    b"": ("model_metadata", _READ),
    b"ready": ("model_ready", _READ),
    b"infer": ("infer", _WRITE),
    b"stats": ("statistics", _READ),
}
_OF_REPOSITORY = {b"load": ("load", _WRITE), b"unload": ("unload", _WRITE)}


@functools.lru_cache(maxsize=1024)
def route(target: bytes) -> Route | None:
    """Return where a request target leads, or None. Names are percent-decoded after the path is cut at its slashes."""
    path = target.partition(b"?")[0].strip(b"/")
    if path in _FIXED:
        return _FIXED[path]
    parts = path.split(b"/")
    if parts[0] == b"models" and len(parts) == 2:
        return _named("describe", _READ, parts[1])
    if parts[:2] == [b"v2", b"models"] and len(parts) >= 3:
        version, rest = b"", parts[3:]
        if rest[:1] == [b"versions"] and len(rest) >= 2:
            version, rest = rest[1], rest[2:]
        action = _OF_MODEL.get(b"/".join(rest))
        return _named(*action, parts[2], version) if action else None
    if parts[:3] == [b"v2", b"repository", b"models"] and len(parts) == 5 and parts[4] in _OF_REPOSITORY:
        return _named(*_OF_REPOSITORY[parts[4]], parts[3])
    return None


def _named(action: str, methods: tuple[bytes, ...], name: bytes, version: bytes = b"") -> Route | None:
    if max(len(name), len(version)) > _NAME_BYTES:
        return None
    try:
        return Route(action, methods, unquote_to_bytes(name).decode(), unquote_to_bytes(version).decode())
    except UnicodeDecodeError:
        return None


class HttpCall(Call):
    """An inference that came by HTTP."""

    __slots__ = ("_exchange",)
    transport = "http"

    def __init__(self, service: Service, exchange: Exchange) -> None:
        super().__init__(service, exchange.began)
        self._exchange = exchange

    def deliver(self, model: Model, question: Question, answer: Answer) -> None:
        """Send the answer, with its timing in the ``Server-Timing`` header."""
        buffers, json_length = encode(model.name, model.version, question, answer.outputs)
        timing = answer.timing
        extra = b"Server-Timing: decode;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f\r\n" % (
            timing.decode_ns / 1e6,
            timing.queue_ns / 1e6,
            timing.compute_ns / 1e6,
        )
        if json_length is None:
            self._exchange.respond(200, buffers, _JSON, extra)
        else:
            self._exchange.respond(
                200, buffers, _BINARY, b"Inference-Header-Content-Length: %d\r\n%b" % (json_length, extra)
            )

    def refuse(self, error: WhetError) -> None:
        """Send the error."""
        self._exchange.fail(http_status(error), str(error), http_headers(error))


class Rest:
    """The handler of a worker's HTTP server."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange) -> None:
        """Answer a request, now or later; raises nothing."""
        try:
            found = route(exchange.target) if len(exchange.target) <= _TARGET_BYTES else None
            if found is None:
                path = exchange.target[:200].decode("latin-1")
                exchange.fail(404, f"there is nothing at '{path}'; GET / lists what there is")
            elif exchange.method not in found.methods:
                allowed = b", ".join(found.methods)
                said = f"'{found.action}' takes {allowed.decode()}, not {exchange.method.decode('latin-1')}"
                exchange.fail(405, said, b"Allow: %b\r\n" % allowed)
            else:
                _ACTIONS[found.action](self, exchange, found)
        except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
            _fail(exchange, error)

    # -- answered at once

    def infer(self, exchange: Exchange, found: Route) -> None:
        """POST /v2/models/NAME[/versions/VERSION]/infer."""
        call = HttpCall(self._service, exchange)
        exchange.left = call.leave
        call.start(found.name, found.version, functools.partial(self._decode, exchange))

    def _decode(self, exchange: Exchange, signature: Signature) -> Question:
        length = exchange.headers.get(_LENGTH)
        if length is not None and not length.isdigit():
            raise TensorError(f"header Inference-Header-Content-Length is {length[:40]!r}; it is a number of bytes")
        json_length = None if length is None else int(length[:20])
        return decode(exchange.body, json_length, signature, self._service.max_json_bytes)

    def live(self, exchange: Exchange, _: Route) -> None:
        """GET /v2/health/live: the process answers."""
        _send(exchange, {"live": True})

    def ready(self, exchange: Exchange, _: Route) -> None:
        """GET /v2/health/ready: 503 until every configured model can be asked."""
        fleet = self._service.link.fleet
        status = 200 if self._service.ready else 503
        _send(exchange, {"ready": fleet.ready, "degraded": fleet.degraded, "workers": fleet.workers}, status)

    def model_ready(self, exchange: Exchange, found: Route) -> None:
        """GET /v2/models/NAME/ready."""
        model = self._service.repository.find(found.name, found.version)
        _send(exchange, {"name": model.name, "ready": True})

    def metadata(self, exchange: Exchange, _: Route) -> None:
        """GET /v2."""
        _send(exchange, self._service.metadata())

    def model_metadata(self, exchange: Exchange, found: Route) -> None:
        """GET /v2/models/NAME."""
        _send(exchange, self._service.model_metadata(found.name, found.version))

    def describe(self, exchange: Exchange, found: Route) -> None:
        """GET /models/NAME: metadata, plan, origin, effective settings."""
        _send(exchange, self._service.describe(found.name, found.version))

    def landing(self, exchange: Exchange, _: Route) -> None:
        """GET /: what there is."""
        names = sorted({entry["name"] for entry in self._service.repository.index()})
        links = {
            "metadata": "/v2",
            "ready": "/v2/health/ready",
            "metrics": "/metrics",
            "statistics": "/v2/models/stats",
        }
        _send(exchange, {**self._service.metadata(), "models": {name: f"/models/{name}" for name in names}, **links})

    # -- answered after asking the supervisor

    def metrics(self, exchange: Exchange, _: Route) -> None:
        """GET /metrics."""

        async def work() -> None:
            exchange.respond(200, [await self._service.metrics()], CONTENT_TYPE)

        self._later(exchange, work)

    def statistics(self, exchange: Exchange, found: Route) -> None:
        """GET /v2/models[/NAME[/versions/VERSION]]/stats."""
        self._ask(exchange, lambda: self._service.statistics(found.name, found.version))

    def index(self, exchange: Exchange, _: Route) -> None:
        """POST /v2/repository/index."""
        ready = _body(exchange).get("ready") is True
        self._ask(exchange, lambda: self._service.index(ready_only=ready))

    def load(self, exchange: Exchange, found: Route) -> None:
        """POST /v2/repository/models/NAME/load."""
        self._service.authorize(_token(exchange))
        if _body(exchange).get("parameters"):
            raise UsageError("load takes no parameters: configuration and files come from the repository alone")
        self._ask(exchange, lambda: self._service.link.ask("load", name=found.name), empty=True)

    def unload(self, exchange: Exchange, found: Route) -> None:
        """POST /v2/repository/models/NAME/unload."""
        self._service.authorize(_token(exchange))
        self._ask(exchange, lambda: self._service.link.ask("unload", name=found.name), empty=True)

    def _ask(self, exchange: Exchange, ask: Callable[[], Awaitable[Any]], *, empty: bool = False) -> None:
        async def work() -> None:
            result = await ask()
            _send(exchange, {} if empty else result)

        self._later(exchange, work)

    def _later(self, exchange: Exchange, work: Callable[[], Awaitable[None]]) -> None:
        async def guarded() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
                _fail(exchange, error)

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_ACTIONS: dict[str, Callable[[Rest, Exchange, Route], None]] = {
    name: getattr(Rest, name)
    for name in {
        *(one.action for one in _FIXED.values()),
        *(action for action, _ in (*_OF_MODEL.values(), *_OF_REPOSITORY.values())),
        "describe",
    }
}


def _send(exchange: Exchange, document: Any, status: int = 200) -> None:
    exchange.respond(status, [_encode(document)])


def _fail(exchange: Exchange, error: BaseException) -> None:
    failure = known(error)
    exchange.fail(http_status(failure), str(failure), http_headers(failure))


def _token(exchange: Exchange) -> bytes:
    scheme, _, token = exchange.headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _body(exchange: Exchange) -> dict[str, Any]:
    if not len(exchange.body):
        return {}
    try:
        return msgspec.json.decode(exchange.body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the body is no JSON object: {error}") from None
