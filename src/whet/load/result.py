"""What a run found: every request's times, and the statistics derived from them. Pure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.stats import PERCENTILES, Floats, Interval, Samples, bootstrap, bound_violations, minimum_count


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """The record of one run. Times are seconds after its start; arrays have one entry a request, by intended start.

    Attributes:
        kind: the scenario's.
        open_loop: arrivals did not wait for answers; else intended and sent are the same instants.
        offered_per_s: requests per second of the arrival process, or None in a closed loop.
        callers: of a closed loop, else None.
        warmup_s: requests intended before are in the arrays and in no statistic.
        window_end_s: end of the window in which throughput is counted.
        intended_s: when each request should have started.
        sent_s: when it was sent.
        done_s: when it was answered or failed.
        rows: rows answered; 0 for a failure.
        errors: failures by slug, warm-up excluded.
        wall_s: of the whole run, to the last answer.
        client_cpu_s: CPU seconds of the measuring process, or None where it did the computing itself.
    """

    kind: str
    open_loop: bool
    offered_per_s: float | None
    callers: int | None
    warmup_s: float
    window_end_s: float
    intended_s: Floats
    sent_s: Floats
    done_s: Floats
    rows: NDArray[np.int64]
    errors: dict[str, int]
    wall_s: float
    client_cpu_s: float | None

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Requests past the warm-up."""
        return self.intended_s >= self.warmup_s

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Requests past the warm-up that were answered."""
        return self.counted & (self.rows > 0)

    @property
    def failed(self) -> int:
        """How many requests past the warm-up were not answered."""
        return int((self.counted & (self.rows == 0)).sum())

    @property
    def window_s(self) -> float:
        """Seconds in which throughput is counted."""
        return max(self.window_end_s - self.warmup_s, 0.0)

    @property
    def throughput_per_s(self) -> float | None:
        """Rows answered per second within the window, whenever they were asked for; None of an empty window."""
        within = (self.done_s > self.warmup_s) & (self.done_s <= self.window_end_s)
        return float(self.rows[within].sum() / self.window_s) if self.window_s > 0 else None

    @property
    def steady_per_s(self) -> float | None:
        """Rows per second that a closed loop sustains, by Little's law; None of an open loop, or when requests failed.

        What is always in flight, over how long it stays (J. D. C. Little, 1961). Counting answers in a short window
        depends on where within a batch it ends, and a slope through them on whether lanes happen to end together;
        this depends on neither.
        """
        ok = self.ok
        if self.callers is None or self.errors or not ok.any():
            return None
        stay_s = float((self.done_s - self.intended_s)[ok].mean())
        return self.callers * float(self.rows[ok].mean()) / stay_s if stay_s > 0 else None

    @property
    def latency(self) -> Samples:
        """Milliseconds from the intended start to the answer, of answered requests."""
        return Samples((self.done_s - self.intended_s)[self.ok] * 1e3, "ms")

    @property
    def service(self) -> Samples:
        """Milliseconds from the real start to the answer: what a client that hides its own waiting would report."""
        return Samples((self.done_s - self.sent_s)[self.ok] * 1e3, "ms")

    @property
    def late(self) -> Samples:
        """Milliseconds by which requests left after their intended start: the measuring client's own fault."""
        return Samples((self.sent_s - self.intended_s)[self.counted] * 1e3, "ms")

    @property
    def client_cpu_share(self) -> float | None:
        """Cores the measuring process used on average; 1.0 is one whole core."""
        return None if self.client_cpu_s is None or not self.wall_s else self.client_cpu_s / self.wall_s

    def violations(self, bound_ms: float) -> Interval:
        """Return the share of requests that were later than ``bound_ms`` or failed, with its exact 95 % interval.

        Raises:
            DataError: no request was counted.
        """
        late = int((self.latency.values > bound_ms).sum()) + self.failed
        return bound_violations(late, int(self.counted.sum()))

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as plain values: intervals as value, low, high; null where there is not enough data."""
        return {
            "scenario": self.kind,
            "open_loop": self.open_loop,
            "offered_per_s": self.offered_per_s,
            "callers": self.callers,
            "requests": {"sent": int(self.counted.sum()), "answered": int(self.ok.sum()), "failed": self.failed},
            "rows": int(self.rows[self.ok].sum()),
            "errors": dict(sorted(self.errors.items())),
            "throughput_per_s": _throughput(self),
            "latency_ms": None if self.kind == "offline" else describe(self.latency),
            "service_ms": None if self.kind == "offline" else describe(self.service, histogram=False),
            "late_ms": describe(self.late, histogram=False) if self.open_loop else None,
            "warmup_s": self.warmup_s,
            "window_s": self.window_s,
            "wall_s": self.wall_s,
            "client_cpu_s": self.client_cpu_s,
            "client_cpu_share": self.client_cpu_share,
        }


def describe(samples: Samples, *, histogram: bool = True) -> dict[str, Any]:
    """Return count, mean, max and each percentile as an interval; null, with the count it needs, where too few."""
    found: dict[str, Any] = {"count": len(samples), "mean": samples.mean(), "max": None}
    if len(samples):
        found["max"] = float(samples.values[-1])
    found["needs"] = {}
    for q in PERCENTILES:
        estimate = samples.estimate(q)
        found[f"p{q:g}"] = None if estimate is None else as_dict(estimate)
        if estimate is None:
            found["needs"][f"p{q:g}"] = minimum_count(q)
    if histogram:
        found["histogram"] = samples.histogram()
    return found


def as_dict(interval: Interval) -> dict[str, float]:
    """Return an interval as the documents hold it."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _throughput(result: RunResult, parts: int = 10) -> dict[str, float | None] | None:
    """Return rows per second with a bootstrap over equal parts of the window; no interval where parts hold little."""
    value = result.throughput_per_s
    if value is None:
        return None
    if int(result.ok.sum()) < 10 * parts:
        return {"value": value, "low": None, "high": None}
    edges = np.linspace(result.warmup_s, result.window_end_s, parts + 1)
    rows, _ = np.histogram(result.done_s, edges, weights=result.rows)
    found = bootstrap(rows / (result.window_s / parts))
    return {"value": value, "low": min(value, found.low), "high": max(value, found.high)}
