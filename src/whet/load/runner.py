"""Puts load on a target and writes down, for every request, when it should have started, when it did and when it ended.

In an open loop (``server``) requests start when the arrival process says, whether or not earlier ones have been
answered, and latency counts from the *intended* start; in the closed ones a caller starts its next request when the
last is answered. Both readings are kept: latency (from the intended start) and service (from the real one). Failures
are data: counted by kind, shown beside the latencies, never dropped and never averaged in.
"""

import asyncio
import itertools
import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from whet.errors import UsageError, WhetError
from whet.load import arrivals
from whet.load.alarm import Alarm
from whet.load.result import RunResult

Kind = Literal["single-stream", "multi-stream", "server", "offline", "closed"]
KINDS: tuple[Kind, ...] = ("single-stream", "multi-stream", "server", "offline", "closed")
_AFTER_FAILURE_S = 0.01  # a caller that was refused at once must not ask a million times a second


class Target(Protocol):
    """What is put under load. Attributes: ``in_process`` is True where it computes in this very process."""

    in_process: bool

    async def __call__(self, index: int) -> int:
        """Send sample ``index`` and return the rows answered; raises :class:`WhetError` where there is no answer."""
        ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """An arrival process and when to stop; the names are MLPerf's, except ``closed``.

    Attributes:
        kind: ``single-stream`` (one caller), ``multi-stream`` (one caller whose requests hold several rows),
            ``server`` (Poisson arrivals), ``offline`` (``callers`` requests always outstanding; only throughput
            counts), ``closed`` (``callers`` callers).
        qps: requests per second of ``server``.
        callers: of ``closed`` and ``offline``.
        duration_s: seconds measured, after the warm-up.
        warmup_s: seconds at the beginning that are driven alike and not counted.
        seed: of arrivals and of the order of samples.
        max_requests: stop after so many, warm-up included.
        min_queries: go on past ``duration_s`` until so many counted requests were sent.
        max_outstanding: requests in flight past which an open loop waits; latency still counts from the intended start.
    """

    kind: Kind = "closed"
    qps: float | None = None
    callers: int = 1
    duration_s: float = 10.0
    warmup_s: float = 1.0
    seed: int = 0
    max_requests: int | None = None
    min_queries: int = 0
    max_outstanding: int = 4096

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"scenario '{self.kind}' is unknown; choose one of {', '.join(KINDS)}")
        if self.open_loop and not (self.qps and self.qps > 0):
            raise UsageError(f"scenario 'server' needs a positive rate, got qps={self.qps}; give --qps")
        if not self.open_loop and self.qps is not None:
            raise UsageError(f"scenario '{self.kind}' takes no rate: its callers wait for answers; leave --qps out")
        if self.kind in ("single-stream", "multi-stream") and self.callers != 1:
            raise UsageError(f"scenario '{self.kind}' has one caller, got {self.callers}; use 'closed'")
        for name, value, least in (("callers", self.callers, 1), ("max_outstanding", self.max_outstanding, 1)):
            if value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}")
        if self.duration_s <= 0 or self.warmup_s < 0:
            raise UsageError(
                f"duration is {self.duration_s:g} s after a warm-up of {self.warmup_s:g} s; give a positive duration"
            )

    @property
    def open_loop(self) -> bool:
        """Whether arrivals do not wait for answers."""
        return self.kind == "server"

    @property
    def end_s(self) -> float:
        """Seconds after the start at which the measured window ends."""
        return self.warmup_s + self.duration_s


class _Log:
    """What happened, request by request, in seconds after the start."""

    def __init__(self, scenario: Scenario, target: Target, samples: int) -> None:
        self.scenario = scenario
        self.target = target
        self.start = time.monotonic()
        self.indices = _order(samples, scenario.seed)
        self.issued = 0
        self.counted = 0
        self.rows: list[tuple[float, float, float, int]] = []
        self.errors: Counter[str] = Counter()

    def now(self) -> float:
        return time.monotonic() - self.start

    def over(self, intended: float) -> bool:
        """Tell whether a request that would start at ``intended`` is one too many."""
        scenario = self.scenario
        if scenario.max_requests is not None and self.issued >= scenario.max_requests:
            return True
        return intended >= scenario.end_s and self.counted >= scenario.min_queries

    def take(self, intended: float) -> int:
        """Count a request in and return the sample it sends."""
        self.issued += 1
        self.counted += intended >= self.scenario.warmup_s
        return next(self.indices)

    async def one(self, intended: float, index: int) -> bool:
        """Send one request and write down what happened; True if it was answered."""
        sent, rows = self.now(), 0
        try:
            rows = await self.target(index)
        except WhetError as error:
            if intended >= self.scenario.warmup_s:
                self.errors[error.slug] += 1
        self.rows.append((intended, sent, self.now(), rows))
        return rows > 0

    def result(self, cpu_s: float | None) -> RunResult:
        columns = np.array(self.rows, dtype=np.float64).reshape(-1, 4)
        columns = columns[np.argsort(columns[:, 0], kind="stable")]
        done = float(columns[:, 2].max(initial=0.0))
        limited = self.scenario.max_requests is not None and self.issued >= self.scenario.max_requests
        last = float(columns[:, 0].max(initial=0.0))
        return RunResult(
            kind=self.scenario.kind,
            open_loop=self.scenario.open_loop,
            offered_per_s=self.scenario.qps,
            callers=None if self.scenario.open_loop else self.scenario.callers,
            warmup_s=self.scenario.warmup_s,
            window_end_s=done if limited else max(self.scenario.end_s, last),
            intended_s=columns[:, 0],
            sent_s=columns[:, 1],
            done_s=columns[:, 2],
            rows=columns[:, 3].astype(np.int64),
            errors=dict(self.errors),
            wall_s=self.now(),
            client_cpu_s=cpu_s,
        )


async def run(target: Target, scenario: Scenario, samples: int = 1, starts: Iterator[float] | None = None) -> RunResult:
    """Drive ``target`` through ``scenario`` and return the record of every request.

    Args:
        target: called with sample indices on the running loop.
        scenario: arrivals, warm-up and end.
        samples: how many distinct samples the target knows; each request draws one by the scenario's seed.
        starts: another arrival process of :mod:`whet.load.arrivals` for an open loop; Poisson at ``qps`` when None.

    Raises:
        UsageError: ``samples`` is not positive.
    """
    if samples < 1:
        raise UsageError(f"a run needs at least 1 sample, got {samples}")
    cpu_before = _cpu_s()
    log = _Log(scenario, target, samples)
    async with asyncio.TaskGroup() as group:
        if scenario.open_loop:
            assert scenario.qps is not None
            await _send_openly(log, group, starts or arrivals.poisson(scenario.qps, scenario.seed))
        else:
            for _ in range(scenario.callers):
                group.create_task(_call_repeatedly(log))
    in_process = getattr(target, "in_process", False)
    return log.result(None if in_process else _cpu_s() - cpu_before)


async def _call_repeatedly(log: _Log) -> None:
    while not log.over(intended := log.now()):
        if not await log.one(intended, log.take(intended)):
            await asyncio.sleep(_AFTER_FAILURE_S)


async def _send_openly(log: _Log, group: asyncio.TaskGroup, starts: Iterator[float]) -> None:
    alarm = Alarm()
    room = asyncio.Semaphore(log.scenario.max_outstanding)

    async def send(intended: float, index: int) -> None:
        try:
            await log.one(intended, index)
        finally:
            room.release()

    try:
        for intended in starts:
            if log.over(intended):
                break
            await alarm.until(log.start + intended)
            await room.acquire()
            group.create_task(send(intended, log.take(intended)))
            await asyncio.sleep(0)  # a sender that is behind must let answers in
    finally:
        alarm.close()


def _order(samples: int, seed: int) -> Iterator[int]:
    """Yield sample indices drawn with replacement, as MLPerf's load generator does."""
    rng = np.random.default_rng(seed)
    return itertools.chain.from_iterable(rng.integers(0, samples, 1024).tolist() for _ in itertools.count())


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
