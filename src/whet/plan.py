"""The frozen knobs under which an artifact runs, and the targets a service must reach. Plain values; no I/O.

A knob is either honoured by a runtime or declared unsupported in its capabilities, so the search never proposes it.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from whet.errors import PlanRefused

PRECISIONS = ("f32", "bf16", "f16")
"""Precisions in which a runtime may execute a net's float layers. Whether weights are int8 belongs to the artifact."""


@dataclass(frozen=True, slots=True)
class OpenMP:
    """Environment of the OpenMP runtimes (PyTorch, some TensorFlow builds); set before a worker's interpreter starts.

    Attributes:
        threads: OMP_NUM_THREADS; the cores of the lane.
        intel: preload libiomp5; the KMP knobs below are legal only when it is really mapped.
        blocktime_ms: KMP_BLOCKTIME, milliseconds a thread spins before it sleeps.
        affinity: KMP_AFFINITY, or empty to leave it unset.
    """

    threads: int
    intel: bool = False
    blocktime_ms: int | None = None
    affinity: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one artifact runs on one kind of host. ``id`` names it in journals, metrics and reports.

    Attributes:
        artifact: sha256 of the artifact.
        runtime: ``openvino``, ``onnxruntime``, ``torch``, ``tensorflow`` or ``fake``.
        device: the runtime's device.
        precision: precision of the float layers, one of :data:`PRECISIONS`; always explicit.
        streams: batches computed at the same time in a worker.
        threads: compute threads per stream.
        batch_sizes: sizes a batch may have, ascending; a smaller batch is padded up to the next one.
        dynamic_batch: one compilation with a free batch axis instead of one per batch size.
        batch_window_ms: how long an idle lane may wait for more samples; 0 never waits.
        queue_bound: samples that may wait; one more is refused.
        deadline_ms: default deadline of a request, or None.
        workers: worker processes.
        pinning: the runtime pins its threads; the worker's mask is the only pinning otherwise.
        allocator: ``default``, ``jemalloc`` or ``tcmalloc``, preloaded.
        openmp: environment of OpenMP runtimes, or None to leave it alone.
        layout: layout in which image inputs reach the net, ``native``, ``NCHW`` or ``NHWC``.
        fused_preprocessing: preprocessing runs inside the runtime's graph instead of numpy.
        isa_ceiling: highest instruction set oneDNN may use (``AVX2``, ``AVX512_CORE``, ...), or None.
        options: further switches of the runtime, as (name, value) pairs, sorted.
    """

    artifact: str
    runtime: str = "openvino"
    device: str = "CPU"
    precision: str = "f32"
    streams: int = 1
    threads: int = 1
    batch_sizes: tuple[int, ...] = (1,)
    dynamic_batch: bool = False
    batch_window_ms: float = 0.0
    queue_bound: int = 256
    deadline_ms: float | None = None
    workers: int = 1
    pinning: bool = False
    allocator: str = "default"
    openmp: OpenMP | None = None
    layout: str = "native"
    fused_preprocessing: bool = True
    isa_ceiling: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        positive = {"streams": self.streams, "threads": self.threads, "workers": self.workers}
        for name, value in positive.items():
            if value < 1:
                raise PlanRefused(f"plan: {name} is {value}; it must be at least 1")
        if not self.batch_sizes or list(self.batch_sizes) != sorted(set(self.batch_sizes)) or self.batch_sizes[0] < 1:
            raise PlanRefused(f"plan: batch_sizes is {self.batch_sizes}; give ascending positive sizes, such as (1, 8)")
        if self.precision not in PRECISIONS:
            raise PlanRefused(f"plan: precision is '{self.precision}'; it must be one of {', '.join(PRECISIONS)}")
        if self.queue_bound < self.max_batch:
            raise PlanRefused(
                f"plan: queue_bound is {self.queue_bound}, below the largest batch {self.max_batch}; raise it"
            )

    @property
    def id(self) -> str:
        """Twelve hex digits of the sha256 over every knob."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]

    @property
    def max_batch(self) -> int:
        """The largest batch a lane computes at once."""
        return self.batch_sizes[-1]

    @property
    def compute_threads(self) -> int:
        """Threads that compute at the same time in one worker."""
        return self.streams * self.threads

    def option(self, name: str, default: str = "") -> str:
        """Return the runtime switch ``name``, or ``default``."""
        return dict(self.options).get(name, default)

    def with_(self, **changes: Any) -> "Plan":
        """Return a copy with some knobs changed."""
        return replace(self, **changes)

    def __str__(self) -> str:
        batch = "/".join(map(str, self.batch_sizes))
        parts = [self.runtime, self.precision, f"{self.streams}x{self.threads} streams x threads", f"batch {batch}"]
        if self.dynamic_batch:
            parts.append("dynamic batch")
        if self.batch_window_ms:
            parts.append(f"window {self.batch_window_ms:g} ms")
        if self.workers > 1:
            parts.append(f"{self.workers} workers")
        if self.isa_ceiling:
            parts.append(f"ISA <= {self.isa_ceiling}")
        parts.extend(f"{name}={value}" for name, value in self.options)
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Targets:
    """What the service must reach. ``None`` means not asked for.

    Attributes:
        p99_ms: 99th percentile of latency, milliseconds, at most.
        p50_ms: median latency, milliseconds, at most.
        min_qps: samples per second, at least.
        max_drop: largest drop of the metric against the f32 parent, absolute, in the metric's own unit.
        min_accuracy: the metric itself, at least.
        metric: ``top1``, ``top5``, ``agreement``, ``snr`` or ``module:function``.
        max_cores: cores the plan may use.
        max_rss_mb: resident memory of a worker, MB, at most.
        max_load_ms: time from exec to ready, milliseconds, at most.
        objective: ``throughput`` (most samples per second within the latency targets), ``latency`` (lowest p50), or
            ``cores`` (fewest cores that carry ``min_qps``).
    """

    p99_ms: float | None = None
    p50_ms: float | None = None
    min_qps: float | None = None
    max_drop: float | None = None
    min_accuracy: float | None = None
    metric: str = ""
    max_cores: int | None = None
    max_rss_mb: float | None = None
    max_load_ms: float | None = None
    objective: Literal["throughput", "latency", "cores"] = "throughput"


@dataclass(frozen=True, slots=True)
class Effective:
    """What the runtime says it really does, read back after compiling; never copied from the request.

    Attributes:
        precision: precision of the float layers, or ``unknown`` where the runtime cannot say.
        streams: parallel streams.
        threads: compute threads in all.
        raw: the runtime's own property names and values, for the record.
    """

    precision: str
    streams: int
    threads: int
    raw: dict[str, str] = field(default_factory=dict)
