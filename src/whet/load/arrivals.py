"""Arrival processes: when each request ought to start. Pure: no clock, no randomness but the seed's.

An arrival process is an endless, non-decreasing iterator of intended starts, in seconds after the first possible one.
Who sends (:mod:`whet.load.runner`) sleeps until each of them and counts latency from it, however late the request
really left: a client that waits for a slow server must not hide its slowness.
"""

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from whet.errors import UsageError

_CHUNK = 1024


def constant(qps: float) -> Iterator[float]:
    """Yield arrivals exactly ``1 / qps`` seconds apart, the first at 0.

    Raises:
        UsageError: ``qps`` is not positive.
    """
    _positive("qps", qps)
    return (index / qps for index in itertools.count())


def poisson(qps: float, seed: int = 0) -> Iterator[float]:
    """Yield a Poisson process: independent exponential gaps of mean ``1 / qps`` seconds, as independent callers make.

    Raises:
        UsageError: ``qps`` is not positive.
    """
    _positive("qps", qps)
    return _poisson(qps, np.random.default_rng(seed))


def _poisson(qps: float, rng: np.random.Generator) -> Iterator[float]:
    start = 0.0
    while True:
        times = start + np.cumsum(rng.exponential(1 / qps, _CHUNK))
        yield from times.tolist()
        start = float(times[-1])


def ramp(first_qps: float, last_qps: float, over_s: float) -> Iterator[float]:
    """Yield evenly spaced arrivals whose rate goes linearly from one rate to another and then stays.

    Arrival i comes where the integral of the rate reaches i: ``first * t + (last - first) * t**2 / (2 * over) = i``.

    Raises:
        UsageError: a rate or the time is not positive.
    """
    for name, value in (("first qps", first_qps), ("last qps", last_qps), ("ramp seconds", over_s)):
        _positive(name, value)
    return _ramp(first_qps, last_qps, over_s)


def _ramp(first: float, last: float, over: float) -> Iterator[float]:
    slope = (last - first) / over
    in_ramp = (first + last) / 2 * over
    for index in itertools.count():
        if index >= in_ramp:
            yield over + (index - in_ramp) / last
        else:  # the root of the quadratic, in the form that does not cancel where the slope is small
            yield 2 * index / (first + math.sqrt(first * first + 2 * slope * index))


def trace(starts_s: Iterable[float]) -> Iterator[float]:
    """Yield recorded starts, in seconds, as they are; the only arrival process that ends.

    Raises:
        UsageError: (while iterating) a start is negative or before the one before it.
    """
    before = 0.0
    for index, start in enumerate(starts_s):
        if not start >= before:
            raise UsageError(f"trace: start {index} is {start:g} s, before {before:g} s; sort the starts")
        before = start
        yield float(start)


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{name} is {value:g}; it must be a positive number")
