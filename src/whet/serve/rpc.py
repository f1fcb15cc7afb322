"""The Open Inference Protocol over gRPC: calls translated. No logic; one error table (``codes``)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError

from whet.engine.request import Answer
from whet.errors import NotFound, NotReady, TensorError, UsageError, WhetError
from whet.serve.codes import grpc_status, grpc_trailers, known
from whet.serve.h2.stream import Stream
from whet.serve.messages import HEALTH, INFERENCE
from whet.serve.protocol import Question
from whet.serve.repository import Model
from whet.serve.service import Call, Service
from whet.serve.wire import Received, decode, encode, values

_MESSAGE_CUT = 1000
"""Longest error text; HTTP/2 bounds the trailers it travels in."""
_SERVING, _NOT_SERVING = 1, 2
Method = Callable[["Rpc", Any, Stream], Awaitable[Any]]


class RpcCall(Call):
    """An inference that came by gRPC."""

    __slots__ = ("_stream",)
    transport = "grpc"

    def __init__(self, service: Service, stream: Stream) -> None:
        super().__init__(service)
        self._stream = stream
        stream.left = self.leave

    def begin(self, max_head_bytes: int, now: float) -> None:
        """Read the message and start the inference."""
        stream = self._stream
        try:
            received = Received(stream.message, max_head_bytes)
        except WhetError as error:
            self._done(error)
            return
        given = stream.head.timeout_s
        left = None if given is None else given - (now - stream.began)
        head = received.head
        self.start(head.model_name, head.model_version, lambda signature: decode(received, signature), left)

    def deliver(self, model: Model, question: Question, answer: Answer) -> None:
        """Send the answer."""
        self._stream.respond(encode(model.name, model.version, question, answer.outputs))

    def refuse(self, error: WhetError) -> None:
        """Send the error."""
        _refuse(self._stream, error)


class Rpc:
    """The methods of ``inference.GRPCInferenceService`` and ``grpc.health.v1.Health``; called with every whole call."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, stream: Stream) -> None:
        """Answer a call, now or later."""
        path = stream.head.path
        if path == _INFER:
            RpcCall(self._service, stream).begin(self._service.max_json_bytes, self._loop.time())
            return
        found = _METHODS.get(path)
        if found is None:
            words = f"method '{path[:200].decode('latin-1')}' is unknown here"
            stream.fail("UNIMPLEMENTED", words)
            return
        task = self._loop.create_task(self._answer(stream, *found))
        self._tasks.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._tasks.discard)

        def leave() -> None:
            task.cancel()

        stream.left = leave

    async def _answer(self, stream: Stream, method: Method, message: type[Any]) -> None:
        try:
            try:
                request = message.FromString(bytes(stream.message))
            except DecodeError:
                raise TensorError(f"the message is no {message.DESCRIPTOR.name}") from None
            answer = await method(self, request, stream)
        except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
            _refuse(stream, known(error))
        else:
            stream.respond([answer.SerializeToString()])

    async def server_live(self, request: Any, stream: Stream) -> Any:  # noqa: ARG002  (the shape of a method)
        """ServerLive."""
        return INFERENCE["ServerLiveResponse"](live=True)

    async def server_ready(self, request: Any, stream: Stream) -> Any:  # noqa: ARG002
        """ServerReady."""
        return INFERENCE["ServerReadyResponse"](ready=self._service.ready)

    async def model_ready(self, request: Any, stream: Stream) -> Any:  # noqa: ARG002
        """ModelReady; an unknown model is an error, one that is not ready is an answer."""
        try:
            self._service.repository.find(request.name, request.version)
        except NotReady:
            return INFERENCE["ModelReadyResponse"](ready=False)
        return INFERENCE["ModelReadyResponse"](ready=True)

    async def server_metadata(self, request: Any, stream: Stream) -> Any:  # noqa: ARG002
        """ServerMetadata."""
        return INFERENCE["ServerMetadataResponse"](**self._service.metadata())

    async def model_metadata(self, request: Any, stream: Stream) -> Any:  # noqa: ARG002
        """ModelMetadata."""
        return INFERENCE["ModelMetadataResponse"](**self._service.model_metadata(request.name, request.version))

    async def model_statistics(self, request: Any, stream: Stream) -> Any:  # noqa: ARG002
        """ModelStatistics."""
        return INFERENCE["ModelStatisticsResponse"](**await self._service.statistics(request.name, request.version))

    async def repository_index(self, request: Any, stream: Stream) -> Any:  # noqa: ARG002
        """RepositoryIndex."""
        return INFERENCE["RepositoryIndexResponse"](models=await self._service.index(ready_only=request.ready))

    async def repository_load(self, request: Any, stream: Stream) -> Any:
        """RepositoryModelLoad."""
        self._service.authorize(_token(stream))
        if values(request.parameters):
            raise UsageError("load takes no parameters: configuration and files come from the repository alone")
        await self._service.link.ask("load", name=request.model_name)
        return INFERENCE["RepositoryModelLoadResponse"]()

    async def repository_unload(self, request: Any, stream: Stream) -> Any:
        """RepositoryModelUnload."""
        self._service.authorize(_token(stream))
        await self._service.link.ask("unload", name=request.model_name)
        return INFERENCE["RepositoryModelUnloadResponse"]()

    async def health(self, request: Any, stream: Stream) -> Any:  # noqa: ARG002
        """Check of the standard health service: the server for an empty name, else the model of that name."""
        ready = self._service.ready
        if request.service and request.service != _SERVICE:
            try:
                self._service.repository.find(request.service)
            except NotReady:
                ready = False
            except NotFound:
                raise NotFound(f"service '{request.service[:200]}' is unknown; ask for '' or a model's name") from None
        return HEALTH["HealthCheckResponse"](status=_SERVING if ready else _NOT_SERVING)


_SERVICE = "inference.GRPCInferenceService"
_INFER = f"/{_SERVICE}/ModelInfer".encode()
# path -> (implementation, request message)
_METHODS: dict[bytes, tuple[Method, type[Any]]] = {
    f"/{_SERVICE}/{name}".encode(): (method, INFERENCE[message])
    for name, method, message in (
        ("ServerLive", Rpc.server_live, "ServerLiveRequest"),
        ("ServerReady", Rpc.server_ready, "ServerReadyRequest"),
        ("ModelReady", Rpc.model_ready, "ModelReadyRequest"),
        ("ServerMetadata", Rpc.server_metadata, "ServerMetadataRequest"),
        ("ModelMetadata", Rpc.model_metadata, "ModelMetadataRequest"),
        ("ModelStatistics", Rpc.model_statistics, "ModelStatisticsRequest"),
        ("RepositoryIndex", Rpc.repository_index, "RepositoryIndexRequest"),
        ("RepositoryModelLoad", Rpc.repository_load, "RepositoryModelLoadRequest"),
        ("RepositoryModelUnload", Rpc.repository_unload, "RepositoryModelUnloadRequest"),
    )
}
_METHODS[b"/grpc.health.v1.Health/Check"] = (Rpc.health, HEALTH["HealthCheckRequest"])


def _refuse(stream: Stream, error: WhetError) -> None:
    text = str(error)
    if len(text) > _MESSAGE_CUT:
        text = text[:_MESSAGE_CUT] + "..."
    stream.fail(grpc_status(error), text, grpc_trailers(error))


def _token(stream: Stream) -> str:
    scheme, _, token = stream.head.authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
