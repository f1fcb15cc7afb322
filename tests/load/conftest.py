"""A small server of the Open Inference Protocol, written apart from the client it tests.

HTTP by asyncio's streams and the json module, gRPC by the protobuf classes that tritonclient generates.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

import numpy as np
import pytest

NUMPY = {"FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64, "BOOL": np.bool_}
METADATA = {
    "name": "double",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
}


@dataclass
class Behaviour:
    """What the server does wrong, and what it saw."""

    delay_s: float = 0.0
    status: int = 200
    body: bytes | None = None
    close_after_each: bool = False
    close_idle: bool = False
    json_outputs: bool = False
    factor: float = 2.0
    metadata: dict = field(default_factory=lambda: dict(METADATA))
    url: str = ""
    requests: int = 0
    connections: int = 0
    most_at_once: int = 0
    at_once: int = 0
    rows: list[int] = field(default_factory=list)
    inputs: set[bytes] = field(default_factory=set)

    def answer(self, head, raw):
        """Outputs of one request; checks what the client wrote."""
        outputs, at = [], 0
        for tensor in head["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            array = np.frombuffer(raw[at : at + size], NUMPY[tensor["datatype"]]).reshape(tensor["shape"])
            at += size
            self.rows.append(array.shape[0])
            self.inputs.add(array.tobytes())
            outputs.append((array * self.factor).astype(array.dtype))
        assert at == len(raw)
        return outputs


async def _serve_one(behaviour, reader, writer):
    line = await reader.readline()
    if not line:
        return False
    method, path, _ = line.decode().split()
    headers = {}
    while (header := await reader.readline()).strip():
        name, _, value = header.decode().partition(":")
        headers[name.lower()] = value.strip()
    assert headers["host"] in behaviour.url
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    status, extra, answer = behaviour.status, "", b""
    if method == "GET":
        found = path.startswith("/v2/models/double")
        status, answer = (
            (200, json.dumps(behaviour.metadata).encode()) if found else (404, b'{"error":"no such model"}')
        )
    elif status == 200:
        behaviour.requests += 1
        behaviour.at_once += 1
        behaviour.most_at_once = max(behaviour.most_at_once, behaviour.at_once)
        await asyncio.sleep(behaviour.delay_s)
        behaviour.at_once -= 1
        length = int(headers["inference-header-content-length"])
        arrays = behaviour.answer(json.loads(body[:length]), body[length:])
        outputs = [{"name": "y", "datatype": "FP32", "shape": list(array.shape)} for array in arrays]
        for output, array in zip(outputs, arrays, strict=True):
            if behaviour.json_outputs:
                output["data"] = array.ravel().tolist()
            else:
                output["parameters"] = {"binary_data_size": array.nbytes}
        answer = json.dumps({"model_name": "double", "outputs": outputs}).encode()
        if not behaviour.json_outputs:
            extra = f"Inference-Header-Content-Length: {len(answer)}\r\n"
            answer += b"".join(array.tobytes() for array in arrays)
    else:
        answer = b'{"error":"refused by the test"}'
    answer = answer if behaviour.body is None or method == "GET" else behaviour.body
    extra += "connection: close\r\n" if behaviour.close_after_each else ""
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\n{extra}\r\n".encode() + answer)
    await writer.drain()
    return not behaviour.close_after_each and not behaviour.close_idle


@contextlib.asynccontextmanager
async def _http(behaviour):
    writers = set()

    async def serve(reader, writer):
        behaviour.connections += 1
        writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await _serve_one(behaviour, reader, writer):
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    behaviour.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield behaviour
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _grpc(behaviour):
    import grpc
    from tritonclient.grpc import service_pb2 as pb

    async def infer(request, context):
        behaviour.requests += 1
        if behaviour.status != 200:
            await context.abort(grpc.StatusCode(_code(grpc, behaviour.status)), "refused by the test")
        await asyncio.sleep(behaviour.delay_s)
        tensors = [
            {"datatype": t.datatype, "shape": list(t.shape), "parameters": {"binary_data_size": len(raw)}}
            for t, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        ]
        arrays = behaviour.answer({"inputs": tensors}, b"".join(request.raw_input_contents))
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version)
        for array in arrays:
            answer.outputs.add(name="y", datatype="FP32", shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer

    async def metadata(request, context):
        if request.name != "double":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        said = behaviour.metadata
        tensors = {k: [pb.ModelMetadataResponse.TensorMetadata(**t) for t in said[k]] for k in ("inputs", "outputs")}
        return pb.ModelMetadataResponse(
            name=said["name"], versions=said["versions"], platform=said["platform"], **tensors
        )

    methods = {
        "ModelInfer": (infer, pb.ModelInferRequest),
        "ModelMetadata": (metadata, pb.ModelMetadataRequest),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(call, kind.FromString, lambda answer: answer.SerializeToString())
        for name, (call, kind) in methods.items()
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    behaviour.url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield behaviour
    finally:
        await server.stop(0)


def _code(grpc, status):
    codes = {429: "RESOURCE_EXHAUSTED", 400: "INVALID_ARGUMENT", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
    return grpc.StatusCode[codes[status]]


@pytest.fixture
def http_server():
    """``async with http_server(delay_s=...) as behaviour``: an HTTP server that doubles FP32 tensors."""
    return lambda **options: _http(Behaviour(**options))


@pytest.fixture
def grpc_server():
    """The same over gRPC."""
    return lambda **options: _grpc(Behaviour(**options))
