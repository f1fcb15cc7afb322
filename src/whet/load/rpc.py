"""Load over gRPC: messages encoded once, before the run, and sent as bytes over a few channels."""

import itertools
from collections.abc import Sequence
from typing import Any

from whet.errors import (
    Cancelled,
    DeadlineExceeded,
    NotFound,
    NotReady,
    QueueFull,
    RuntimeFailed,
    TensorError,
    TimedOut,
    Unreachable,
    WhetError,
    WrongAnswer,
)
from whet.load.address import Address
from whet.load.http import rows_of
from whet.load.messages import grpc_infer, grpc_metadata, grpc_metadata_request, grpc_outputs, same
from whet.tensors import Tensors

SERVICE = "/inference.GRPCInferenceService/"
_STATUS: dict[str, type[WhetError]] = {
    "INVALID_ARGUMENT": TensorError,
    "NOT_FOUND": NotFound,
    "RESOURCE_EXHAUSTED": QueueFull,
    "CANCELLED": Cancelled,
    "INTERNAL": RuntimeFailed,
}


class GrpcClient:
    """A few channels to one server, used in turn; each has a connection of its own.

    Args:
        address: where the server is.
        channels: how many.
        timeout_s: patience with one call.
    """

    def __init__(self, address: Address, *, channels: int = 4, timeout_s: float = 30.0) -> None:
        import grpc

        self.address = address
        self.timeout_s = timeout_s
        options = [
            ("grpc.use_local_subchannel_pool", 1),  # else all channels of a process share one connection
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        self._failed = grpc.aio.AioRpcError
        self._channels = [
            grpc.aio.secure_channel(address.authority, grpc.ssl_channel_credentials(), options)
            if address.tls
            else grpc.aio.insecure_channel(address.authority, options)
            for _ in range(channels)
        ]
        self.opened = channels
        self._stubs: dict[str, Any] = {}

    async def call(self, method: str, message: bytes) -> bytes:
        """Call ``method`` of the inference service with an encoded message and return the encoded answer.

        Raises:
            WhetError: the error of Whet's tree that the status stands for.
        """
        if method not in self._stubs:
            # Without serializers grpc passes bytes through.
            stubs = [channel.unary_unary(SERVICE + method) for channel in self._channels]
            self._stubs[method] = itertools.cycle(stubs)
        try:
            answer: bytes = await next(self._stubs[method])(message, timeout=self.timeout_s)
        except self._failed as error:
            raise self._error(error) from None
        return answer

    async def metadata(self) -> dict[str, Any]:
        """Return the model's metadata, in the form HTTP gives."""
        request = grpc_metadata_request(self.address.model, self.address.version)
        return grpc_metadata(await self.call("ModelMetadata", request))

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()

    def _error(self, error: Any) -> WhetError:
        name, text = error.code().name, str(error.details())[:500]
        if name == "UNAVAILABLE":
            # A server that is there says why; a connection that is not is grpc's own message.
            gone = "connect" in text.lower() or "socket" in text.lower()
            return (Unreachable if gone else NotReady)(f"{self.address.url}: {text}")
        if name == "DEADLINE_EXCEEDED":
            # The call's own timer reads "Deadline Exceeded"; any other text is the server's refusal.
            if text == "Deadline Exceeded":
                return TimedOut(f"{self.address.url} did not answer within {self.timeout_s:g} s")
            return DeadlineExceeded(f"{self.address.url}: {text}")
        return _STATUS.get(name, WrongAnswer)(f"gRPC {name}: {text}")


class GrpcTarget:
    """Samples sent to a model over gRPC as raw contents. Arguments as :class:`whet.load.http.HttpTarget`'s."""

    in_process = False

    def __init__(
        self,
        url: str,
        model: str,
        samples: Sequence[Tensors],
        *,
        version: str = "",
        connections: int = 4,
        timeout_s: float = 30.0,
        expected: Sequence[Tensors] | None = None,
        tolerance: float = 1e-5,
    ) -> None:
        address = Address.parse(url).to(model, version)
        self.client = GrpcClient(address, channels=connections, timeout_s=timeout_s)
        self._messages = [grpc_infer(model, version, sample) for sample in samples]
        self._rows = [rows_of(sample) for sample in samples]
        self._expected = expected
        self._tolerance = tolerance

    async def __call__(self, index: int) -> int:
        """Send sample ``index``; see :class:`whet.load.runner.Target`."""
        answer = await self.client.call("ModelInfer", self._messages[index])
        if self._expected is not None:
            why = same(grpc_outputs(answer), self._expected[index], self._tolerance)
            if why:
                raise WrongAnswer(why)
        return self._rows[index]

    async def close(self) -> None:
        """Close the channels."""
        await self.client.close()
