"""One client, one request at a time, over a raw socket (HTTP) or a grpc stub with bytes in and out (gRPC)."""

import json
import socket
import time
from urllib.parse import urlsplit

import numpy as np


def http_p50_ms(url: str, picture: np.ndarray, count: int) -> float:
    """Median milliseconds from the first byte sent to the last byte received."""
    parts = urlsplit(url)
    size = picture.nbytes
    tensor = {"name": "x", "shape": list(picture.shape), "datatype": "UINT8", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lines = [
        "POST /v2/models/net/infer HTTP/1.1",
        f"Host: {parts.netloc}",
        f"Content-Length: {len(head) + size}",
        f"Inference-Header-Content-Length: {len(head)}",
    ]
    message = "\r\n".join(lines).encode() + b"\r\n\r\n" + head + picture.tobytes()
    taken = []
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            start = time.perf_counter()
            connection.sendall(message)
            read_answer(connection)
            taken.append(time.perf_counter() - start)
    return float(np.median(taken)) * 1e3


def read_answer(connection: socket.socket) -> None:
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += connection.recv(1 << 16)
    head = bytes(received[:end]).decode().lower()
    if " 200 " not in head.splitlines()[0]:
        raise SystemExit(f"one_client: {head.splitlines()[0]}")
    length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
    while len(received) < end + 4 + length:
        received += connection.recv(1 << 16)


def grpc_p50_ms(url: str, picture: np.ndarray, count: int) -> float:
    """Median milliseconds of one unary call."""
    import grpc
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="net")
    tensor = request.inputs.add(name="x", datatype="UINT8")
    tensor.shape.extend(picture.shape)
    request.raw_input_contents.append(picture.tobytes())
    message = request.SerializeToString()
    taken = []
    with grpc.insecure_channel(url.removeprefix("grpc://")) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(count):
            start = time.perf_counter()
            call(message)
            taken.append(time.perf_counter() - start)
    return float(np.median(taken)) * 1e3
