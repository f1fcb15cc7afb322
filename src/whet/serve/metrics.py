"""Numbers as Prometheus text and as the protocol's statistics. Pure; every name stands in the table below.

The supervisor renders for all workers at once, so a scrape shows the same whichever worker it reaches.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from whet.engine.request import EDGES_NS
from whet.serve.meters import Durations, ModelNumbers, WorkerNumbers, merge

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
EDGES_S = tuple(edge / 1e9 for edge in EDGES_NS)
BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family.

    Attributes:
        name: as scraped.
        kind: Prometheus type.
        help: one sentence.
        labels: names of its labels.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_MODEL = ("model", "version")
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("whet_info", "gauge", "Always 1; its label is the version of Whet.", ("whet",)),
        Metric("whet_ready", "gauge", "1 when every configured model is served, by at least one worker."),
        Metric("whet_degraded", "gauge", "1 when ready, but with a worker or a model missing somewhere."),
        Metric("whet_workers", "gauge", "Worker processes that serve."),
        Metric("whet_workers_wanted", "gauge", "Worker processes that should serve."),
        Metric("whet_worker_restarts_total", "counter", "Workers started again after they died."),
        Metric(
            "whet_requests_total",
            "counter",
            "Inference requests; code is ok or an error's slug, model is empty where there is none of that name.",
            (*_MODEL, "transport", "code"),
        ),
        Metric("whet_refused_total", "counter", "Requests the engine refused or dropped.", (*_MODEL, "reason")),
        Metric("whet_samples_total", "counter", "Samples in answered requests.", _MODEL),
        Metric(
            "whet_request_seconds",
            "histogram",
            "From a whole request to its written answer, answered requests.",
            (*_MODEL, "transport"),
        ),
        Metric("whet_decode_seconds", "histogram", "Bytes to tensors, answered requests.", _MODEL),
        Metric("whet_queue_seconds", "histogram", "Waiting for a lane, answered requests.", _MODEL),
        Metric("whet_compute_seconds", "histogram", "Computing in the runtime, answered requests.", _MODEL),
        Metric("whet_encode_seconds", "histogram", "Tensors to bytes, answered requests.", _MODEL),
        Metric("whet_batch_rows", "histogram", "Samples computed together, without padding.", _MODEL),
        Metric("whet_padded_rows_total", "counter", "Samples of padding, computed for nothing.", _MODEL),
        Metric("whet_queue_depth", "gauge", "Samples waiting now.", _MODEL),
        Metric("whet_in_flight", "gauge", "Batches prepared or computing now.", _MODEL),
        Metric("whet_lanes", "gauge", "Batches that can be computed at the same time.", _MODEL),
        Metric(
            "whet_lane_busy_seconds_total",
            "counter",
            "Time lanes spent computing; its rate over whet_lanes is their utilisation.",
            _MODEL,
        ),
        Metric("whet_model_workers", "gauge", "Workers that serve this model now.", _MODEL),
        Metric("whet_process_rss_bytes", "gauge", "Resident memory of a worker.", ("worker",)),
        Metric("whet_process_pss_bytes", "gauge", "The same, shared pages divided among their users.", ("worker",)),
        Metric("whet_process_uss_bytes", "gauge", "Memory of a worker that nobody shares.", ("worker",)),
        Metric("whet_process_cpu_seconds_total", "counter", "CPU time of a worker.", ("worker",)),
        Metric("whet_http_connections", "gauge", "Open HTTP connections of a worker.", ("worker",)),
        Metric(
            "whet_cpu_throttled_seconds_total",
            "counter",
            "Time the CPUs of the most throttled control group stood still because its quota was used up.",
        ),
        Metric("whet_cpu_throttled_periods_total", "counter", "Periods of that group that ended throttled."),
        Metric("whet_cpu_periods_total", "counter", "Periods of that group."),
    )
}


class Fleet(msgspec.Struct):
    """What the supervisor knows beside its workers' numbers.

    Attributes:
        whet: version of Whet.
        ready: every configured model is served.
        degraded: ready, with something missing somewhere.
        ready_once: every worker once served every model.
        workers: that serve.
        wanted: that should.
        restarts: of workers that died.
        throttled_ns: of the most throttled control group, or None without a quota; likewise the next two.
        throttled: periods that ended throttled.
        periods: periods in all.
    """

    whet: str = ""
    ready: bool = False
    degraded: bool = False
    ready_once: bool = False
    workers: int = 0
    wanted: int = 0
    restarts: int = 0
    throttled_ns: int | None = None
    throttled: int | None = None
    periods: int | None = None


def render(workers: Iterable[WorkerNumbers], fleet: Fleet) -> bytes:
    """Return everything as Prometheus text."""
    workers = list(workers)
    samples: dict[str, list[str]] = {name: [] for name in METRICS}
    for name, labels, value in (*_of_fleet(fleet), *_of_workers(workers), *_of_models(merge(workers))):
        if isinstance(value, Durations):
            samples[name] += _histogram(
                name, labels, [edge / 1e9 for edge in EDGES_NS], value.counts, value.sum_ns / 1e9
            )
        elif isinstance(value, dict):
            samples[name] += _histogram(name, labels, BATCH_EDGES, *_batches(value))
        elif value is not None:
            samples[name].append(f"{name}{_labels(labels)} {float(value):.17g}")
    lines = []
    for metric in METRICS.values():
        if samples[metric.name]:
            lines += [
                f"# HELP {metric.name} {metric.help}",
                f"# TYPE {metric.name} {metric.kind}",
                *samples[metric.name],
            ]
    return ("\n".join(lines) + "\n").encode()


def statistics(models: Iterable[ModelNumbers]) -> dict[str, Any]:
    """Return the numbers as the protocol's statistics document.

    ``compute_input`` is the time to decode, ``compute_output`` to encode; there is no cache, so its counts are 0.
    """
    return {"model_stats": [_statistics(model) for model in models]}


def _statistics(model: ModelNumbers) -> dict[str, Any]:
    stages = {name: {"count": one.count, "ns": one.sum_ns} for name, one in model.stages.items()}
    none = {"count": 0, "ns": 0}
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": model.last_ms,
        "inference_count": model.rows,
        "execution_count": sum(model.batches.values()),
        "inference_stats": {
            "success": {"count": model.answered(), "ns": sum(one.sum_ns for one in model.total.values())},
            "fail": {"count": model.failed(), "ns": model.failed_ns},
            "queue": stages.get("queue", none),
            "compute_input": stages.get("decode", none),
            "compute_infer": stages.get("compute", none),
            "compute_output": stages.get("encode", none),
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": {"count": count}} for size, count in sorted(model.batches.items())
        ],
        "memory_usage": [],
    }


Sample = tuple[str, Labels, Any]


def _of_fleet(fleet: Fleet) -> Iterator[Sample]:
    yield "whet_info", (("whet", fleet.whet),), 1
    yield "whet_ready", (), fleet.ready
    yield "whet_degraded", (), fleet.degraded
    yield "whet_workers", (), fleet.workers
    yield "whet_workers_wanted", (), fleet.wanted
    yield "whet_worker_restarts_total", (), fleet.restarts
    yield "whet_cpu_throttled_seconds_total", (), None if fleet.throttled_ns is None else fleet.throttled_ns / 1e9
    yield "whet_cpu_throttled_periods_total", (), fleet.throttled
    yield "whet_cpu_periods_total", (), fleet.periods


def _of_workers(workers: Iterable[WorkerNumbers]) -> Iterator[Sample]:
    for worker in workers:
        if worker.index < 0:
            continue  # the counts of workers that are gone; there is no process behind them
        labels = (("worker", str(worker.index)),)
        yield "whet_process_rss_bytes", labels, worker.rss_bytes
        yield "whet_process_pss_bytes", labels, worker.pss_bytes
        yield "whet_process_uss_bytes", labels, worker.uss_bytes
        yield "whet_process_cpu_seconds_total", labels, worker.cpu_s
        yield "whet_http_connections", labels, worker.connections


def _of_models(models: Iterable[ModelNumbers]) -> Iterator[Sample]:
    for model in models:
        labels = (("model", model.name), ("version", model.version))
        for transport, codes in model.requests.items():
            for code, count in codes.items():
                yield "whet_requests_total", (*labels, ("transport", transport), ("code", code)), count
        for transport, durations in model.total.items():
            yield "whet_request_seconds", (*labels, ("transport", transport)), durations
        if not model.name:
            continue  # requests to models that do not exist: counted, and nothing more is known of them
        for reason, count in model.refused.items():
            yield "whet_refused_total", (*labels, ("reason", reason)), count
        for stage, durations in model.stages.items():
            yield f"whet_{stage}_seconds", labels, durations
        yield "whet_samples_total", labels, model.rows
        yield "whet_batch_rows", labels, model.batches
        yield "whet_padded_rows_total", labels, model.padded_rows
        yield "whet_queue_depth", labels, model.queued
        yield "whet_in_flight", labels, model.in_flight
        yield "whet_lanes", labels, model.lanes
        yield "whet_lane_busy_seconds_total", labels, model.lane_busy_ns / 1e9
        yield "whet_model_workers", labels, model.workers


def _batches(batches: dict[int, int]) -> tuple[list[int], float]:
    counts = [0] * (len(BATCH_EDGES) + 1)
    for size, count in batches.items():
        counts[next((place for place, edge in enumerate(BATCH_EDGES) if size <= edge), -1)] += count
    return counts, float(sum(size * count for size, count in batches.items()))


def _histogram(name: str, labels: Labels, edges: Iterable[float], counts: list[int], total: float) -> list[str]:
    lines, seen = [], 0
    for edge, count in zip([*edges, float("inf")], counts, strict=True):
        seen += count
        text = "+Inf" if edge == float("inf") else f"{edge:.10g}"
        lines.append(f"{name}_bucket{_labels((*labels, ('le', text)))} {seen}")
    return [*lines, f"{name}_sum{_labels(labels)} {total:.17g}", f"{name}_count{_labels(labels)} {seen}"]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = ((name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels)
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
