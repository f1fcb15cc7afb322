"""What is counted while serving: tallies of one worker, and snapshots of them that add up over workers.

A request costs three additions to histograms; everything else is read when somebody asks. Durations fall into the
buckets of :data:`whet.engine.request.EDGES_NS`, the same in every worker, so that histograms of workers add up.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from whet.engine.request import EDGES_NS, EngineStats, Timing

K = TypeVar("K", str, int)
STAMP_NS = 100_000_000
"""How often the time of the last answer is written down: reading the calendar costs more than the rest."""
OK = "ok"
"""The code of an answered request; the others are slugs of errors."""


class Durations(msgspec.Struct):
    """A histogram of durations.

    Attributes:
        counts: per bucket of ``EDGES_NS`` and one past the last.
        sum_ns: of all durations.
    """

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(EDGES_NS) + 1))
    sum_ns: int = 0

    def add(self, ns: int) -> None:
        """Count one duration, nanoseconds; an edge belongs to the bucket below it."""
        self.counts[bisect_left(EDGES_NS, ns)] += 1
        self.sum_ns += ns

    def merge(self, other: "Durations") -> None:
        """Add another histogram to this one."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_ns += other.sum_ns

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)


class ModelNumbers(msgspec.Struct):
    """Everything counted about one version of a model; of one worker, or of several added up.

    Attributes:
        name: of the model; empty for requests to models that do not exist.
        version: of the model.
        requests: transport -> code (:data:`OK` or an error's slug) -> how many.
        total: transport -> time from a whole request to its written answer, answered requests.
        failed_ns: the same time, summed over requests that were not answered.
        stages: ``decode``, ``queue``, ``compute``, ``encode`` -> its time, answered requests.
        rows: samples in answered requests.
        last_ms: when a request was last answered, milliseconds since 1970; 0 is never.
        workers: how many workers serve it now.
        refused: slug -> requests the engine refused.
        batches: rows -> batches computed.
        padded_rows: rows computed for nothing.
        queued: rows waiting now.
        in_flight: batches prepared or computing now.
        lanes: batches that can be computed at the same time.
        lane_busy_ns: time lanes spent computing, summed.
    """

    name: str
    version: str
    requests: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    total: dict[str, Durations] = msgspec.field(default_factory=dict)
    failed_ns: int = 0
    stages: dict[str, Durations] = msgspec.field(default_factory=dict)
    rows: int = 0
    last_ms: int = 0
    workers: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    batches: dict[int, int] = msgspec.field(default_factory=dict)
    padded_rows: int = 0
    queued: int = 0
    in_flight: int = 0
    lanes: int = 0
    lane_busy_ns: int = 0

    def answered(self) -> int:
        """Return how many requests were answered."""
        return sum(codes.get(OK, 0) for codes in self.requests.values())

    def failed(self) -> int:
        """Return how many requests were not answered."""
        return sum(sum(codes.values()) for codes in self.requests.values()) - self.answered()

    def merge(self, other: "ModelNumbers") -> None:
        """Add the numbers of another worker."""
        for transport, codes in other.requests.items():
            self.requests[transport] = _sum(self.requests.get(transport, {}), codes)
        for mine, theirs in ((self.total, other.total), (self.stages, other.stages)):
            for key, durations in theirs.items():
                mine.setdefault(key, Durations()).merge(durations)
        self.refused = _sum(self.refused, other.refused)
        self.batches = _sum(self.batches, other.batches)
        self.last_ms = max(self.last_ms, other.last_ms)
        for field in ("failed_ns", "rows", "workers", "padded_rows", "queued", "in_flight", "lanes", "lane_busy_ns"):
            setattr(self, field, getattr(self, field) + getattr(other, field))


class WorkerNumbers(msgspec.Struct):
    """Everything counted about one worker process.

    Attributes:
        index: of the worker, from 0.
        pid: of its process.
        rss_bytes: resident memory, or None where the kernel does not tell; likewise the next two.
        pss_bytes: the same with shared pages divided among those who share them.
        uss_bytes: pages nobody else has.
        cpu_s: CPU seconds used.
        connections: open HTTP connections.
        models: by name and version.
    """

    index: int
    pid: int
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    uss_bytes: int | None = None
    cpu_s: float | None = None
    connections: int = 0
    models: list[ModelNumbers] = msgspec.field(default_factory=list)


class Meter:
    """The tally of one version of a model in one worker. All on the loop's thread.

    It outlives engines: what a closed engine counted is kept, so counters never go back.
    """

    __slots__ = ("_decode", "_encode", "_numbers", "_stamped_ns")

    def __init__(self, name: str, version: str) -> None:
        self._decode, self._encode = Durations(), Durations()
        self._stamped_ns = -STAMP_NS
        stages = {"decode": self._decode, "queue": Durations(), "compute": Durations(), "encode": self._encode}
        self._numbers = ModelNumbers(name, version, stages=stages)

    def answered(self, transport: str, timing: Timing, rows: int, began_ns: int) -> None:
        """Count a request answered now; queue and compute times come from the engine's own histograms.

        Args:
            transport: which it came by.
            timing: of its stages.
            rows: samples in it.
            began_ns: when the whole request was there, by ``time.perf_counter_ns``.
        """
        now = time.perf_counter_ns()
        numbers = self._numbers
        codes = numbers.requests.get(transport)
        if codes is None:
            codes = numbers.requests[transport] = {OK: 0}
            numbers.total[transport] = Durations()
        elif OK not in codes:
            codes[OK] = 0
            numbers.total[transport] = Durations()
        codes[OK] += 1
        numbers.total[transport].add(now - began_ns)
        numbers.rows += rows
        self._decode.add(timing.decode_ns)
        self._encode.add(timing.encode_ns)
        if now - self._stamped_ns >= STAMP_NS:
            self._stamped_ns = now
            numbers.last_ms = int(datetime.now(UTC).timestamp() * 1000)

    def failed(self, transport: str, slug: str, began_ns: int) -> None:
        """Count a request that got an error now."""
        codes = self._numbers.requests.setdefault(transport, {})
        codes[slug] = codes.get(slug, 0) + 1
        self._numbers.failed_ns += time.perf_counter_ns() - began_ns

    def absorb(self, stats: EngineStats) -> None:
        """Keep what an engine counted that is now closed."""
        self._numbers.merge(_of_engine(stats, living=False))

    def snapshot(self, stats: EngineStats | None) -> ModelNumbers:
        """Return a copy of the tally, with the counters of the engine that serves now."""
        copy = ModelNumbers(self._numbers.name, self._numbers.version)
        copy.merge(self._numbers)
        if stats is not None:
            copy.merge(_of_engine(stats, living=True))
        return copy


def merge(workers: Iterable[WorkerNumbers]) -> list[ModelNumbers]:
    """Return the numbers of each model, added up over workers, by name and version."""
    merged: dict[tuple[str, str], ModelNumbers] = {}
    for worker in workers:
        for model in worker.models:
            merged.setdefault((model.name, model.version), ModelNumbers(model.name, model.version)).merge(model)
    return [merged[key] for key in sorted(merged)]


def _of_engine(stats: EngineStats, *, living: bool) -> ModelNumbers:
    return ModelNumbers(
        "",
        "",
        stages={
            "queue": Durations(list(stats.queue_histogram), stats.queue_ns_sum),
            "compute": Durations(list(stats.compute_histogram), stats.compute_ns_sum),
        },
        refused=dict(stats.refused),
        batches=dict(stats.batches),
        padded_rows=stats.padded_rows,
        lane_busy_ns=stats.lane_busy_ns,
        workers=int(living),
        queued=stats.queued if living else 0,
        in_flight=stats.in_flight if living else 0,
        lanes=stats.lanes if living else 0,
    )


def _sum(one: dict[K, int], two: dict[K, int]) -> dict[K, int]:
    return dict(Counter(one) + Counter(two))
