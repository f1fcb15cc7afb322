"""Measures a running service from outside: what ``whet bench`` does."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from whet.errors import UsageError, WrongAnswer
from whet.load.address import Address
from whet.load.http import HttpClient, HttpTarget, failure
from whet.load.messages import http_specs
from whet.load.rpc import GrpcClient, GrpcTarget
from whet.load.runner import Kind, Scenario, run
from whet.load.samples import from_file, synthesise
from whet.tensors import DYNAMIC, Array, TensorSpec

SCHEMA = 1
MULTI_STREAM_ROWS = 8
"""Samples of a multi-stream query, as in MLPerf."""
OFFLINE_CALLERS = 16
"""Requests that ``offline`` keeps outstanding unless told otherwise: enough to fill batches, far below queue bounds."""


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure.

    Attributes:
        scenario: arrival process; see :class:`whet.load.runner.Scenario`.
        qps: requests per second of ``server``.
        callers: of ``closed`` and ``offline``; None is 1, or 16 for ``offline``.
        rows: samples in a request; None is 1, or 8 for ``multi-stream``.
        duration_s: seconds measured.
        warmup_s: seconds before, not counted.
        min_queries: go on until so many requests were counted.
        max_requests: stop after so many.
        seed: of arrivals, of made-up inputs and of their order.
        data: ``.npz`` or ``.npy`` with samples; made up when None.
        shapes: by input name, where a made-up input has free dimensions.
        connections: at most so many; None is 256 over HTTP and 4 over gRPC.
        timeout_s: patience with one request.
    """

    scenario: Kind = "single-stream"
    qps: float | None = None
    callers: int | None = None
    rows: int | None = None
    duration_s: float = 10.0
    warmup_s: float = 1.0
    min_queries: int = 0
    max_requests: int | None = None
    seed: int = 0
    data: Path | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    connections: int | None = None
    timeout_s: float = 30.0

    def plan(self) -> Scenario:
        """Return the scenario with its defaults filled in.

        Raises:
            UsageError: options that contradict each other or the scenario.
        """
        offline = self.scenario == "offline"
        return Scenario(
            kind=self.scenario,
            qps=self.qps,
            callers=self.callers if self.callers is not None else OFFLINE_CALLERS if offline else 1,
            duration_s=self.duration_s,
            warmup_s=self.warmup_s,
            seed=self.seed,
            max_requests=self.max_requests,
            min_queries=self.min_queries,
        )

    @property
    def request_rows(self) -> int:
        """Samples in a request."""
        return self.rows if self.rows is not None else MULTI_STREAM_ROWS if self.scenario == "multi-stream" else 1


async def bench(url: str, request: BenchRequest) -> dict[str, Any]:
    """Measure the service at ``url`` and return one document of plain values.

    Args:
        url: ``http://HOST:PORT/models/NAME``, ``http://HOST:PORT/v2/models/NAME[/versions/V]`` or
            ``grpc://HOST:PORT/NAME``.
        request: what to measure.

    Raises:
        UsageError: the URL or the options are not understood.
        Unreachable: nobody answers there.
        NotFound: no such model.
        DataError: samples cannot be made up, or do not fit.
    """
    address = Address.parse(url)
    if not address.model:
        raise UsageError(f"'{url}' names no model; add it: {url.rstrip('/')}/models/NAME (grpc: /NAME)")
    if request.request_rows < 1:
        raise UsageError(f"rows is {request.request_rows}; a request holds at least 1")
    scenario = request.plan()
    metadata = await model_metadata(address, request.timeout_s)
    samples = _samples(request, http_specs(metadata))
    target = _target(address, request, samples)
    try:
        result = await run(target, scenario, len(samples))
    finally:
        await target.close()
    return {
        "schema": SCHEMA,
        "url": url,
        "protocol": address.protocol,
        "model": {key: metadata.get(key) for key in ("name", "versions", "platform", "inputs", "outputs")},
        "request": {
            "rows": request.request_rows,
            "samples": len(samples),
            "inputs": "made up" if request.data is None else str(request.data),
            "bytes": sum(array.nbytes for array in samples[0].values()),
            "seed": request.seed,
        },
        "connections_opened": target.client.opened,
        "result": result.to_json(),
        "started": (datetime.now(UTC)).isoformat(timespec="seconds"),
        "client": {"python": platform.python_version(), "machine": platform.machine()},
    }


async def model_metadata(address: Address, timeout_s: float) -> dict[str, Any]:
    """Ask the server what the model takes and gives.

    Raises:
        Unreachable: nobody answers there.
        NotFound: no such model.
        WrongAnswer: the answer is no metadata.
    """
    if address.protocol == "grpc":
        rpc = GrpcClient(address, channels=1, timeout_s=timeout_s)
        try:
            return await rpc.metadata()
        finally:
            await rpc.close()
    client = HttpClient(address, connections=1, timeout_s=timeout_s)
    try:
        reply = await client.request(client.head("GET", address.path))
    finally:
        await client.close()
    if reply.status != 200:
        raise failure(reply)
    try:
        return msgspec.json.decode(reply.body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise WrongAnswer(f"{address.url} answers no metadata: {error}; is it an Open Inference server?") from error


def _samples(request: BenchRequest, specs: tuple[TensorSpec, ...]) -> list[dict[str, Array]]:
    if not specs:
        raise WrongAnswer("the model's metadata names no input; nothing can be sent to it")
    if request.scenario == "multi-stream" and not all(spec.shape[:1] == (DYNAMIC,) for spec in specs):
        raise UsageError(
            "scenario 'multi-stream' sends several samples in a request, but the model has no batch axis; "
            "use --scenario closed --callers 8"
        )
    if request.data is not None:
        return from_file(request.data, specs, rows=request.request_rows)
    return synthesise(specs, rows=request.request_rows, seed=request.seed, shapes=request.shapes)


def _target(address: Address, request: BenchRequest, samples: list[dict[str, Array]]) -> HttpTarget | GrpcTarget:
    grpc = address.protocol == "grpc"
    return (GrpcTarget if grpc else HttpTarget)(
        address.to("").url,
        address.model,
        samples,
        version=address.version,
        connections=request.connections or (4 if grpc else 256),
        timeout_s=request.timeout_s,
    )
