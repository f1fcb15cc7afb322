"""Open loops, one after the other, until the highest rate that holds the latency targets is known or time is spent.

What drives the requests is the caller's: the engine in a trial, or a client of a real server.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from whet.optimize.bracket import LATE, MIDDLE, Bracket
from whet.optimize.trial_words import Rate
from whet.plan import Targets
from whet.stats import Samples

PROBE_S, PROBE_ANSWERS = 1.2, 150
"""A run that only brackets lasts at least so long, and until about so many answers."""
LONG_ANSWERS = 380
"""A run that is to show a rate has about so many: three of them are enough where hardly any is late."""


@dataclass(frozen=True, slots=True)
class Run:
    """One open loop.

    Attributes:
        qps: requests a second that arrived, by chance.
        latencies_ms: of the answers, from the intended starts.
        failed: requests without an answer.
        achieved_per_s: samples answered a second.
        client_cpu_share: cores the client used, or None where it computed the answers itself.
    """

    qps: float
    latencies_ms: Sequence[float]
    failed: int
    achieved_per_s: float
    client_cpu_share: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain values, latencies summed up."""
        return {
            "qps": self.qps,
            "achieved_per_s": self.achieved_per_s,
            "failed": self.failed,
            "latency_ms": Samples(self.latencies_ms, "ms").summary(),
            "client_cpu_share": self.client_cpu_share,
        }


TRIES = 4
"""Ever lower rates that are tried, whatever the time, before it is said that none holds."""
Drive = Callable[[Rate], Run | None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The latency targets as bounds: how many answers may take longer than each.

    Attributes:
        ms: the bounds.
        allowed: share of answers that may be later, for each.
    """

    ms: tuple[float, ...]
    allowed: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.ms)

    def late(self, run: Run) -> tuple[list[int], int]:
        """Return how many requests were past each bound, failures included, and how many there were.

        A run without a single request answered or failed counts as one that was late.
        """
        total = len(run.latencies_ms) + run.failed
        if not total:
            return [1] * len(self.ms), 1
        return [sum(value > bound for value in run.latencies_ms) + run.failed for bound in self.ms], total


def bounds_of(targets: Targets) -> Bounds:
    """Return what ``--p99-ms`` and ``--p50-ms`` ask for."""
    given = [(targets.p99_ms, LATE), (targets.p50_ms, MIDDLE)]
    known = [(ms, share) for ms, share in given if ms is not None]
    return Bounds(tuple(ms for ms, _ in known), tuple(share for _, share in known))


def seconds_of(rate: float, *, confirming: bool) -> float:
    """Return how long a run at ``rate`` requests a second lasts."""
    return max(PROBE_S, (LONG_ANSWERS if confirming else PROBE_ANSWERS) / rate)


def highest(bracket: Bracket, bounds: Bounds, drive: Drive, left_s: Callable[[], float], seed: int) -> list[Run]:
    """Run open loops as the bracket asks for them; return them, whatever the time until one rate promises to hold.

    Args:
        bracket: told what came of every run.
        bounds: what late means.
        drive: runs one; None ends the search.
        left_s: seconds left.
        seed: of the first run's arrivals; every run has its own.
    """
    runs: list[Run] = []
    while (rate := bracket.ask()) is not None:
        seconds = seconds_of(rate, confirming=bracket.confirming)
        known = bracket.promising is not None or len(runs) >= TRIES
        if runs and known and seconds > left_s():
            break
        run = drive(Rate(rate, seconds, seed + len(runs)))
        if run is None:
            break
        runs.append(run)
        bracket.tell(*bounds.late(run))
    return runs
