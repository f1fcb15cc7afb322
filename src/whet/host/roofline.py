"""What this host reaches at best, measured briefly under the current mask: the roof that a model's speed is judged by.

The roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009): a piece of work that moves ``bytes`` and computes
``flops`` takes at least ``max(flops / compute peak, bytes / memory bandwidth)``. Memory bandwidth is measured here with
numpy, on all cores. The compute peak belongs to a runtime's kernels and is measured by whoever holds a runtime, through
:func:`together`: large nets in each precision, run the way plans run them (:mod:`whet.engine.peaks`).
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from whet.errors import EnvironmentLacks, PlanRefused
from whet.host.apply import set_affinity
from whet.host.topology import Host

Kind = Literal["read", "copy"]

_LEAST_ROUNDS = 6
"""Fewest rounds whose extremes bound the median at 95 % (1 - 2 * 0.5**6 = 0.969)."""

_SLICES = 12
_MOST_BYTES = 4 << 30

_LEAST_BYTES = 32 << 20
"""Per thread: passes of a few milliseconds, so that the interpreter between them does not count."""


@dataclass(frozen=True, slots=True)
class Peak:
    """A rate as measured. Higher is better.

    Attributes:
        value: median over the rounds.
        low: lower bound of the median at 95 %.
        high: upper bound of it.
        best: fastest round; on a shared machine the nearest to what the hardware can do.
        unit: of all four, such as ``GB/s`` (10**9 bytes) or ``GFLOP/s``.
        repeats: rounds, or slices of the time, measured.
        how: what was run, on how many cores and how much data, in words.
    """

    value: float
    low: float
    high: float
    best: float
    unit: str
    repeats: int
    how: str


def peak(rates: Sequence[float], unit: str, how: str) -> Peak:
    """Return median, best and the distribution-free 95 % interval of the median (order statistics, binomial).

    With fewer than six rates the interval is their range, which then holds the median with less than 95 %.

    Raises:
        ValueError: ``rates`` is empty.
    """
    ordered = sorted(rates)
    count = len(ordered)
    if not count:
        raise ValueError("peak needs at least one rate")
    # The largest k with P(fewer than k of count fall below the median) <= 2.5 % on each side.
    below, k = 0.0, 0
    while (below := below + math.comb(count, k) * 0.5**count) <= 0.025:
        k += 1
    k = max(k, 1)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return Peak(middle, ordered[k - 1], ordered[count - k], ordered[-1], unit, count, how)


def rate(run: Callable[[], object], work: float, unit: str, how: str, *, seconds: float = 1.0) -> Peak:
    """Call ``run`` again and again for about ``seconds``, at least six times, and return ``work`` per second.

    Args:
        run: one round; the first call warms up and does not count.
        work: what a round does, in ``unit`` times seconds (GFLOP for ``GFLOP/s``).
        unit: unit of the result.
        how: what a round is, in words.
        seconds: time to spend, warm-up not included.
    """
    run()
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < _LEAST_ROUNDS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        rates.append(work / (time.perf_counter() - start))
    return peak(rates, unit, how)


def together(runs: Sequence[Callable[[], object]], work: float, unit: str, how: str, *, seconds: float = 1.0) -> Peak:
    """Call all of ``runs`` at the same time, each again and again for about ``seconds``, and return their common rate.

    The rate is counted in equal slices of the time in which all of them ran, warm-up not included.

    Args:
        runs: one a thread; they have to release the GIL.
        work: what one call does, in ``unit`` times seconds (GFLOP for ``GFLOP/s``).
        unit: unit of the result.
        how: what is called, in words.
        seconds: time to measure; two calls each at least.

    Raises:
        Exception: what a call raised.
    """
    return peak(_Crew([partial(_itself, run) for run in runs], seconds).rates(work), unit, how)


def _itself(run: Callable[[], object]) -> Callable[[], object]:
    return run


def bound_s(flops: float, moved_bytes: float, compute: Peak, bandwidth: Peak) -> float:
    """Return the least seconds a piece of work can take: the slower of computing and moving. Lower is faster.

    The best rounds count, since a bound is not to be beaten.

    Args:
        flops: floating-point operations, a multiply-add counting 2.
        moved_bytes: bytes that cross the memory bus.
        compute: in GFLOP/s.
        bandwidth: in GB/s.
    """
    return max(flops / (compute.best * 1e9), moved_bytes / (bandwidth.best * 1e9))


def memory_read(host: Host, *, threads: int | None = None, seconds: float = 0.5) -> Peak:
    """Measure how fast ``threads`` cores together read memory: the bound of nets that stream their weights.

    Each thread reduces an array of its own with numpy's vectorised integer maximum, which releases the GIL.

    Args:
        host: its budget gives the CPUs, one physical core each, and its L3 the size of the arrays.
        threads: cores that read at the same time; all physical ones of the budget when None.
        seconds: time to measure; filling the arrays comes on top (0.1 to 0.5 s).

    Raises:
        PlanRefused: more threads than the budget has cores, or fewer than one.
        EnvironmentLacks: no memory for the arrays.
    """
    return _bandwidth(host, "read", threads, seconds)


def memory_copy(host: Host, *, threads: int | None = None, seconds: float = 0.5) -> Peak:
    """Measure how fast ``threads`` cores together copy memory, counted as STREAM does: bytes read plus bytes written.

    Ordinary stores also fetch the line they overwrite, so the bus may carry up to half as much again. Arguments as for
    :func:`memory_read`.
    """
    return _bandwidth(host, "copy", threads, seconds)


def _bandwidth(host: Host, kind: Kind, threads: int | None, seconds: float) -> Peak:
    if threads is not None and threads < 1:
        raise PlanRefused(f"roofline: threads is {threads}; it must be at least 1")
    cpus = _spread(host, threads or host.budget.physical)
    size, enough = _array_bytes(host, len(cpus))
    crew = _Crew([partial(_streaming, cpu, kind, size) for cpu in cpus], seconds)
    try:
        rates = crew.rates(size / 1e9)
    except (MemoryError, threading.BrokenBarrierError):
        raise EnvironmentLacks(
            f"roofline: measuring memory bandwidth needs {size * len(cpus) >> 20} MiB and could not have them; "
            "free memory, or raise the memory limit"
        ) from None
    least = "" if enough else ", less than 4 x L3, so caches may help"
    how = f"numpy {kind}, {len(cpus)} threads on one core each, {len(cpus) * size >> 20} MiB in all{least}"
    return peak(rates, "GB/s", how)


def _spread(host: Host, threads: int) -> list[int]:
    """Return one allowed CPU for each of ``threads`` threads, distinct physical cores first.

    Raises:
        PlanRefused: more threads than the budget has cores.
    """
    budget = host.budget
    if threads > budget.cores:
        raise PlanRefused(
            f"roofline: {threads} threads, more than the budget of {budget.cores} cores ({budget.reason})"
        )
    allowed = set(budget.cpus)
    per_core = [[cpu for cpu in core.cpus if cpu in allowed] for core in host.allowed_cores()]
    order = [cpus[turn] for turn in range(host.threads_per_core) for cpus in per_core if turn < len(cpus)]
    return order[:threads]


def _array_bytes(host: Host, threads: int) -> tuple[int, bool]:
    """Return bytes per thread, and whether all together are the 4 x L3 that STREAM asks for."""
    wanted = max(4 * sum(cache.bytes or 0 for cache in host.caches_of(3)), threads * _LEAST_BYTES)
    spare = host.memory.available_bytes or _MOST_BYTES
    limit = min(_MOST_BYTES, spare // 4, (host.memory_bytes or spare) // 4)
    return max(min(wanted, limit) // threads, 1 << 20) & ~63, wanted <= limit


class _Crew:
    """Threads that each do the same work again and again for a while and note when every pass ended.

    Args:
        prepare: one a thread, called on it; returns the pass.
        seconds: how long.
    """

    def __init__(self, prepare: Sequence[Callable[[], Callable[[], object]]], seconds: float) -> None:
        self.seconds = seconds
        self.ready = threading.Barrier(len(prepare))
        self.ends: list[list[float]] = [[] for _ in prepare]
        self.failures: list[Exception] = []
        self.threads = [
            threading.Thread(target=self._guarded, args=(one, ends), name=f"roofline-{place}", daemon=True)
            for place, (one, ends) in enumerate(zip(prepare, self.ends, strict=True))
        ]

    def rates(self, work: float) -> list[float]:
        """Run, and return ``work`` per second over all threads, in each of equal slices of the time in which all ran.

        Raises:
            Exception: what a pass raised first.
        """
        import numpy as np

        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise self.failures[0]
        start, end = max(ends[0] for ends in self.ends), min(ends[-1] for ends in self.ends)
        edges = np.linspace(start, end, _SLICES + 1)
        passes = np.sum([np.interp(edges, ends, np.arange(len(ends))) for ends in self.ends], axis=0)
        return [float(one) for one in np.diff(passes) * work / np.diff(edges)]

    def _guarded(self, prepare: Callable[[], Callable[[], object]], ends: list[float]) -> None:
        try:
            self._work(prepare(), ends)
        except Exception as error:  # noqa: BLE001  (it is raised again by whoever waits for the rates)
            self.failures.append(error)
            self.ready.abort()

    def _work(self, run: Callable[[], object], ends: list[float]) -> None:
        self.ready.wait()
        run()
        ends.append(time.perf_counter())
        finish = ends[0] + self.seconds
        # Two passes at least, however slow, so that there is an interval.
        while len(ends) < 3 or ends[-1] < finish:
            run()
            ends.append(time.perf_counter())


def _streaming(cpu: int, kind: Kind, size: int) -> Callable[[], object]:
    """Move the calling thread to ``cpu`` and return one pass over arrays of its own."""
    set_affinity([cpu])  # a refusal leaves the thread where the scheduler puts it, which is then what is measured
    return _kernel(kind, size)


def _kernel(kind: Kind, size: int) -> Callable[[], object]:
    """Return one pass over ``size`` bytes; the calling thread fills the arrays, so they lie on its NUMA node."""
    import numpy as np

    if kind == "read":
        source = np.ones(size // 8, dtype=np.int64)
        return source.max
    half = size // 16
    source, target = np.ones(half, dtype=np.int64), np.zeros(half, dtype=np.int64)
    target.fill(2)
    return lambda: np.copyto(target, source)
