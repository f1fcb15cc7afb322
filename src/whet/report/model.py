"""The evidence of a search as typed values: what ``evidence/result.json`` holds and what every report is made from.

Fields that are absent or null were not measured; nothing fills them in. Unknown fields are ignored, so evidence of a
later minor version can be read. Numbers with an interval are ``{"value", "low", "high"}`` at 95 %; where there is no
interval, a plain number.
"""

import math
from pathlib import Path
from typing import Any

import msgspec

from whet.errors import BundleError
from whet.models.hosts import RESULT, evidence_folder

SCHEMA = 1


class Estimate(msgspec.Struct, frozen=True):
    """A value and, where there is one, its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether it has an interval."""
        return self.low is not None and self.high is not None

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the value twice."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


Number = Estimate | float | None


def estimate(number: Number) -> Estimate | None:
    """Return a number of the evidence as an estimate; None stays None, and so does what is not finite."""
    if number is None or isinstance(number, Estimate):
        return number
    return Estimate(float(number)) if math.isfinite(number) else None


class Histogram(msgspec.Struct, frozen=True):
    """Counts between edges (milliseconds, one more than counts)."""

    edges_ms: list[float] = []
    counts: list[int] = []


class Latency(msgspec.Struct, frozen=True):
    """Latency of answered requests, milliseconds."""

    p50: Number = None
    p90: Number = None
    p95: Number = None
    p99: Number = None
    mean: float | None = None
    max: float | None = None
    count: int | None = None
    histogram: Histogram | None = None


class Accuracy(msgspec.Struct, frozen=True):
    """A candidate's metric against its f32 parent; a positive drop is worse."""

    metric: str = ""
    value: float | None = None
    parent: float | None = None
    drop: Number = None
    verdict: str = ""
    candidate: str = ""
    items: int | None = None
    needs: int | None = None
    max_drop: float | None = None
    formula: str = ""
    lost: int | None = None
    gained: int | None = None
    per_class: list[dict[str, Any]] = []
    worst: list[dict[str, Any]] = []


class Trial(msgspec.Struct, frozen=True):
    """One measured (or refused, or failed) plan."""

    label: str = ""
    plan: dict[str, Any] = {}
    plan_id: str = ""
    artifact: str = ""
    stage: str = ""
    status: str = "ok"
    reason: str | None = None
    throughput_per_s: Number = None
    ratio_to_incumbent: Number = None
    capacity_per_s: Number = None
    latency_ms: Latency | None = None
    rss_mb: Number = None
    load_ms: Number = None
    accuracy: Accuracy | None = None
    effective: dict[str, Any] | None = None
    blocks: int | None = None
    discarded: int | None = None
    counters: dict[str, Any] | None = None

    @property
    def rate(self) -> Estimate | None:
        """Throughput, or None where the trial has none."""
        return estimate(self.throughput_per_s) if self.status == "ok" else None

    @property
    def p99_ms(self) -> Estimate | None:
        """99th percentile of latency, or None where there is not enough data."""
        return estimate(self.latency_ms.p99) if self.latency_ms else None


class Baseline(msgspec.Struct, frozen=True):
    """What the model does without Whet."""

    name: str
    what: str = ""
    reason: str | None = None
    batch: int | None = None
    callers: int | None = None
    trial: Trial | None = None
    handicaps: list[str] = []


class Speedup(msgspec.Struct, frozen=True):
    """Paired ratios of throughput, by the baseline's name."""

    over: dict[str, Number] = {}


class LoadRun(msgspec.Struct, frozen=True):
    """One open-loop measurement: requests per second that arrived, samples per second that were answered."""

    qps: float
    achieved_per_s: Number = None
    failed: int | None = None
    latency_ms: Latency | None = None


class Load(msgspec.Struct, frozen=True):
    """The chosen plan in an open loop; ``highest_qps`` is the highest rate shown to hold the latency target."""

    arrivals: str = ""
    highest_qps: float | None = None
    words: str | None = None
    runs: list[LoadRun] = []

    @property
    def judged(self) -> LoadRun | None:
        """The run that speaks for the plan: at the highest rate that held, else at the lowest that was tried."""
        held = [run for run in self.runs if self.highest_qps is not None and run.qps <= self.highest_qps]
        if held:
            return max(held, key=lambda run: run.qps)
        return min(self.runs, key=lambda run: run.qps, default=None)


class Chosen(msgspec.Struct, frozen=True):
    """The plan that serves."""

    plan: dict[str, Any] = {}
    plan_id: str = ""
    label: str = ""
    words: str = ""
    trial: Trial | None = None
    speedup: Speedup | None = None
    accuracy: Accuracy | None = None
    load: Load | None = None


class Step(msgspec.Struct, frozen=True):
    """One bar of the ablation: throughput after it, and the gain over the step before (1.31 is +31 %)."""

    step: str
    level: str = ""
    throughput_per_s: Number = None
    gain: Number = None


class Point(msgspec.Struct, frozen=True):
    """One plan between throughput and latency."""

    label: str
    throughput_per_s: float
    latency_p99_ms: Number = None
    latency_p50_ms: Number = None
    accuracy: float | None = None
    chosen: bool = False


class Layer(msgspec.Struct, frozen=True):
    """Time of one executed operation, and of the f32 parent's of the same name where the plan compresses it."""

    name: str
    type: str = ""
    precision: str = ""
    time_ms: float | None = None
    share: float | None = None
    parent_ms: float | None = None
    parent_precision: str = ""


class Roof(msgspec.Struct, frozen=True):
    """One measured peak of this host."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    best: float | None = None
    how: str = ""


class Achieved(msgspec.Struct, frozen=True):
    """What a plan reached: operations per second, bytes moved per second, and operations per byte."""

    label: str
    gflops: float | None = None
    gbs: float | None = None
    intensity: float | None = None
    roof: str = ""
    share: float | None = None


class Roofline(msgspec.Struct, frozen=True):
    """Peaks in GOP/s (``gflops``) and GB/s as measured here, and where plans lie below them."""

    peaks: list[Roof] = []
    bandwidth: Roof | None = None
    achieved: list[Achieved] = []
    words: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """A combination that was never measured, or a candidate that was turned down."""

    what: str
    reason: str
    count: int = 1


class Advice(msgspec.Struct, frozen=True):
    """A sentence, with the measurement that backs it."""

    words: str
    counterfactual: dict[str, Any] | None = None


class Noise(msgspec.Struct, frozen=True):
    """The incumbent against itself, and the share of blocks discarded."""

    floor: Number = None
    discarded_share: float | None = None
    measuring_cpu_share: float | None = None


class Service(msgspec.Struct, frozen=True):
    """What kind of service this is, from a first short measurement."""

    kind: str = ""
    bound: str = ""
    words: str = ""


class ServedRun(LoadRun, frozen=True):
    """One open loop through a server: over which protocol, and the cores the client used of the same machine."""

    protocol: str = ""
    client_cpu_share: float | None = None


class Served(msgspec.Struct, frozen=True):
    """A plan behind a real server.

    ``http`` and ``grpc`` are closed loops, documents of ``RunResult.to_json``; ``loads`` are open ones; ``highest_qps``
    is the highest rate that was shown to hold the latency target over HTTP, in requests a second.
    """

    label: str = ""
    reason: str | None = None
    http: dict[str, Any] | None = None
    grpc: dict[str, Any] | None = None
    loads: list[ServedRun] = []
    highest_qps: float | None = None
    words: str | None = None
    others: list["Served"] = []


class Evidence(msgspec.Struct, frozen=True):
    """Everything one search measured."""

    schema: int
    model: dict[str, Any] = {}
    host: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    data: dict[str, Any] = {}
    service: Service | None = None
    baselines: list[Baseline] = []
    trials: list[Trial] = []
    chosen: Chosen | None = None
    accuracy: list[Accuracy] = []
    ablation: list[Step] = []
    pareto: list[Point] = []
    layers: list[Layer] = []
    roofline: Roofline | None = None
    refused: list[Refusal] = []
    advice: list[Advice] = []
    noise: Noise | None = None
    served: Served | None = None
    wall_s: float | None = None
    started: str = ""

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.model.get("name") or "model")

    @property
    def measured(self) -> list[Trial]:
        """Trials with a throughput."""
        return [trial for trial in self.trials if trial.rate is not None]


def read(result: Any) -> Evidence:
    """Check the shape of a result and return it typed. Null where a list or a table belongs counts as absent.

    Raises:
        BundleError: another schema, or a field of the wrong type; names its path.
    """
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        found = result.get("schema") if isinstance(result, dict) else type(result).__name__
        raise BundleError(f"the evidence has schema {found}, this Whet reads {SCHEMA}; optimize again")
    try:
        return msgspec.convert(_without_nulls(finite(result)), type=Evidence)
    except msgspec.ValidationError as error:
        raise BundleError(f"the evidence is damaged: {error}; optimize again") from error


def load_evidence(bundle: Path, host: str = "") -> dict[str, Any]:
    """Read a host's evidence in a bundle and check its shape.

    Args:
        bundle: its folder.
        host: fingerprint of the host; empty for the one that was optimized on last.

    Raises:
        BundleError: it is missing, unreadable, or not of this shape.
        UsageError: the bundle holds no evidence of that host.
    """
    path = evidence_folder(bundle, host) / RESULT
    try:
        result = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}; give a bundle that optimize wrote") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}; optimize again") from error
    try:
        read(result)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    found: dict[str, Any] = result
    return found


def finite(value: Any) -> Any:
    """Return plain values with every number that is none (NaN, infinite) as None, as JSON can hold them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if not _nothing(item)}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _nothing(item: Any) -> bool:
    """Tell whether this is null, or an interval of null: both say "not measured"."""
    if isinstance(item, dict) and "value" in item and item.keys() <= {"value", "low", "high"}:
        return item["value"] is None
    return item is None
