"""The Open Inference Protocol over gRPC: calls translated. No logic; one error table (``codes``)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from whet.engine.request import Answer
from whet.errors import AddressInUse, NotFound, NotReady, UsageError, WhetError
from whet.serve.codes import grpc_status, grpc_trailers, known
from whet.serve.messages import HEALTH, INFERENCE
from whet.serve.protocol import Question
from whet.serve.repository import Model
from whet.serve.service import Call, Service
from whet.serve.wire import Received, decode, encode, values

_MESSAGE_SLACK = 1 << 20
"""What a message may hold beside its tensors."""
_MESSAGE_CUT = 1000
"""Longest error text; HTTP/2 bounds the trailers it travels in."""
_SERVING, _NOT_SERVING = 1, 2
Method = Callable[["Rpc", Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


class RpcCall(Call):
    """An inference that came by gRPC."""

    __slots__ = ("future",)
    transport = "grpc"

    def __init__(self, service: Service, future: asyncio.Future[bytes]) -> None:
        super().__init__(service)
        self.future = future

    def deliver(self, model: Model, question: Question, answer: Answer) -> None:
        """Hand the serialised answer to whoever awaits the call."""
        self.future.set_result(encode(model.name, model.version, question, answer.outputs))

    def refuse(self, error: WhetError) -> None:
        """Hand the error to whoever awaits the call."""
        self.future.set_exception(error)


class Rpc:
    """The methods of ``inference.GRPCInferenceService`` and ``grpc.health.v1.Health``."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop

    async def model_infer(self, data: bytes, context: Any) -> bytes:
        """ModelInfer; takes and gives serialised messages, so that tensors are not copied by protobuf."""
        call = RpcCall(self._service, self._loop.create_future())
        try:
            received = Received(data, self._service.max_json_bytes)
        except WhetError as error:
            await _abort(context, error)
        head = received.head
        call.start(
            head.model_name, head.model_version, lambda signature: decode(received, signature), context.time_remaining()
        )
        try:
            return await call.future
        except asyncio.CancelledError:
            call.leave()
            raise
        except WhetError as error:
            await _abort(context, error)
            raise  # not reached: abort raises

    async def server_live(self, request: Any, context: Any) -> Any:  # noqa: ARG002  (the shape of a method)
        """ServerLive."""
        return INFERENCE["ServerLiveResponse"](live=True)

    async def server_ready(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """ServerReady."""
        return INFERENCE["ServerReadyResponse"](ready=self._service.ready)

    async def model_ready(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """ModelReady; an unknown model is an error, one that is not ready is an answer."""
        try:
            self._service.repository.find(request.name, request.version)
        except NotReady:
            return INFERENCE["ModelReadyResponse"](ready=False)
        return INFERENCE["ModelReadyResponse"](ready=True)

    async def server_metadata(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """ServerMetadata."""
        return INFERENCE["ServerMetadataResponse"](**self._service.metadata())

    async def model_metadata(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """ModelMetadata."""
        return INFERENCE["ModelMetadataResponse"](**self._service.model_metadata(request.name, request.version))

    async def model_statistics(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """ModelStatistics."""
        return INFERENCE["ModelStatisticsResponse"](**await self._service.statistics(request.name, request.version))

    async def repository_index(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """RepositoryIndex."""
        return INFERENCE["RepositoryIndexResponse"](models=await self._service.index(ready_only=request.ready))

    async def repository_load(self, request: Any, context: Any) -> Any:
        """RepositoryModelLoad."""
        self._service.authorize(_token(context))
        if values(request.parameters):
            raise UsageError("load takes no parameters: configuration and files come from the repository alone")
        await self._service.link.ask("load", name=request.model_name)
        return INFERENCE["RepositoryModelLoadResponse"]()

    async def repository_unload(self, request: Any, context: Any) -> Any:
        """RepositoryModelUnload."""
        self._service.authorize(_token(context))
        await self._service.link.ask("unload", name=request.model_name)
        return INFERENCE["RepositoryModelUnloadResponse"]()

    async def health(self, request: Any, context: Any) -> Any:  # noqa: ARG002
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
# method -> (implementation, request message)
_METHODS: dict[str, tuple[Method, str]] = {
    "ServerLive": (Rpc.server_live, "ServerLiveRequest"),
    "ServerReady": (Rpc.server_ready, "ServerReadyRequest"),
    "ModelReady": (Rpc.model_ready, "ModelReadyRequest"),
    "ServerMetadata": (Rpc.server_metadata, "ServerMetadataRequest"),
    "ModelMetadata": (Rpc.model_metadata, "ModelMetadataRequest"),
    "ModelStatistics": (Rpc.model_statistics, "ModelStatisticsRequest"),
    "RepositoryIndex": (Rpc.repository_index, "RepositoryIndexRequest"),
    "RepositoryModelLoad": (Rpc.repository_load, "RepositoryModelLoadRequest"),
    "RepositoryModelUnload": (Rpc.repository_unload, "RepositoryModelUnloadRequest"),
}


def handlers(rpc: Rpc) -> list[grpc.GenericRpcHandler]:
    """Return the generic handlers of both services."""
    methods = {
        name: grpc.unary_unary_rpc_method_handler(_guarded(rpc, method), INFERENCE[message].FromString, _serialize)
        for name, (method, message) in _METHODS.items()
    }
    methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(rpc.model_infer)
    check = grpc.unary_unary_rpc_method_handler(
        _guarded(rpc, Rpc.health), HEALTH["HealthCheckRequest"].FromString, _serialize
    )
    return [
        grpc.method_handlers_generic_handler(_SERVICE, methods),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),
    ]


def make_server(rpc: Rpc, max_body_bytes: int, *, share_port: bool, connection_age_ms: int) -> grpc.aio.Server:
    """Return a server that is not listening yet.

    Args:
        rpc: the methods.
        max_body_bytes: largest tensors of a request or an answer.
        share_port: other workers listen on the same port; connections are then asked to reconnect now and then, since
            the kernel spreads few long-lived ones badly.
        connection_age_ms: how often.
    """
    options: list[tuple[str, int]] = [
        ("grpc.max_receive_message_length", max_body_bytes + _MESSAGE_SLACK),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(share_port)),
    ]
    if share_port:
        options += [("grpc.max_connection_age_ms", connection_age_ms)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers(handlers(rpc))
    return server


def listen(server: grpc.aio.Server, host: str, port: int) -> int:
    """Bind the server and return its port.

    Raises:
        AddressInUse: somebody else listens there.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound: int = server.add_insecure_port(shown)
    except RuntimeError:
        bound = 0
    if not bound:
        raise AddressInUse(f"gRPC port {shown} is in use or cannot be bound; choose another with --grpc-port")
    return bound


def _guarded(rpc: Rpc, method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
    async def guarded(request: Any, context: Any) -> Any:
        try:
            return await method(rpc, request, context)
        except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
            return await _abort(context, known(error))

    return guarded


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


async def _abort(context: Any, error: WhetError) -> None:
    text = str(error)
    if len(text) > _MESSAGE_CUT:
        text = text[:_MESSAGE_CUT] + "..."
    await context.abort(grpc.StatusCode[grpc_status(error)], text, grpc_trailers(error))


def _token(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        scheme, _, token = str(value).partition(" ")
        if key == "authorization" and scheme.lower() == "bearer":
            return token.strip()
    return ""
