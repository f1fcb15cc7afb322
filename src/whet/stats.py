"""Samples, percentiles and intervals: what a measurement may claim. Pure; numpy only.

Raw samples keep their unit and every statistic is derived from them; percentiles are never averaged. Where the samples
are too few for a percentile the answer is ``None``: "not enough data".

Sources of the formulas: order-statistic intervals of a quantile, David and Nagaraja, *Order Statistics* (2003),
section 7.1; Clopper and Pearson, *Biometrika* 26 (1934), 404-413; minimum counts, the early-stopping rule of MLPerf
Inference; percentile bootstrap with the small-sample expansion, Hesterberg, *What Teachers Should Know about the
Bootstrap* (2014), section 5.3; Student's t, Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whet.errors import DataError

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
"""Level of every interval Whet reports, unless it says otherwise."""
EARLY_STOPPING_CONFIDENCE = 0.99
"""MLPerf's level: it gives 64 samples for a p90 and 662 for a p99."""
PERCENTILES = (50.0, 90.0, 95.0, 99.0)
_MEDIAN_PAIRS = 6  # below this no two order statistics enclose a median with 95 %: 1 - 2 * 0.5**5 < 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its interval (95 % unless said otherwise); ``low <= value <= high``."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    @property
    def half_width(self) -> float:
        """Half of the interval's length, in the value's unit."""
        return (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Tell whether ``value`` lies outside: the two can be told apart."""
        return not self.low <= value <= self.high


class Samples:
    """Raw measurements of one kind in one unit.

    Attributes:
        values: float64, ascending.
        unit: of every value, such as ``ms``.
    """

    __slots__ = ("unit", "values")

    def __init__(self, values: ArrayLike, unit: str) -> None:
        self.values: Floats = np.sort(np.asarray(values, dtype=np.float64).ravel())
        self.unit = unit
        if not np.isfinite(self.values).all():
            raise DataError("samples hold a value that is not finite; failures are counted apart, never as samples")

    def __len__(self) -> int:
        return int(self.values.size)

    def percentile(self, q: float) -> float:
        """Return the smallest sample that at least ``q`` per cent of the samples do not exceed (nearest rank).

        Args:
            q: per cent, 0 < q <= 100.

        Raises:
            DataError: there are no samples. Whether there are *enough*, :meth:`enough` tells.
        """
        if not len(self):
            raise DataError(f"a p{q:g} of no samples was asked; measure first")
        return float(self.values[_rank(len(self), q) - 1])

    def enough(self, q: float) -> bool:
        """Tell whether the samples support an estimate of the ``q``-th percentile (:func:`minimum_count`)."""
        return len(self) >= minimum_count(q)

    def estimate(self, q: float) -> Interval | None:
        """Return the percentile with its 95 % interval, or None when there is not enough data."""
        ends = percentile_interval(self.values, q) if self.enough(q) else None
        return None if ends is None else Interval(self.percentile(q), *ends)

    def mean(self) -> float | None:
        """Return the arithmetic mean, or None of no samples."""
        return float(self.values.mean()) if len(self) else None

    def merge(self, *others: "Samples") -> "Samples":
        """Pool the raw samples of several measurements.

        Raises:
            DataError: the units differ.
        """
        for other in others:
            if other.unit != self.unit:
                raise DataError(f"samples in {other.unit} cannot be pooled with samples in {self.unit}; convert first")
        return Samples(np.concatenate([self.values, *(other.values for other in others)]), self.unit)

    def histogram(self, bins: int = 40) -> dict[str, list[float] | list[int]]:
        """Return ``{"edges_<unit>": bins + 1 values, "counts": bins}``, log-spaced; every sample is counted."""
        name = f"edges_{self.unit}"
        if not len(self):
            return {name: [], "counts": []}
        low, high = float(self.values[0]), float(self.values[-1])
        if low == high:
            return {name: [low, high], "counts": [len(self)]}
        log_spaced = np.geomspace(low, high, bins + 1) if low > 0 else np.linspace(low, high, bins + 1)
        log_spaced[0], log_spaced[-1] = low, high  # rounding must not drop the extremes
        counts, edges = np.histogram(self.values, log_spaced)
        return {name: edges.tolist(), "counts": counts.tolist()}

    def summary(self) -> dict[str, Any]:
        """Return count, mean, p50, p90, p95, p99 (None where there is not enough data) and max."""
        found: dict[str, Any] = {"count": len(self), "mean": self.mean()}
        for q in PERCENTILES:
            found[f"p{q:g}"] = self.percentile(q) if self.enough(q) else None
        found["max"] = float(self.values[-1]) if len(self) else None
        return found


def _rank(count: int, q: float) -> int:
    if not 0 < q <= 100:
        raise DataError(f"percentile {q:g} is out of bounds; give more than 0 and at most 100")
    return max(1, math.ceil(round(count * q / 100, 9)))  # rounding: 0.99 * 100 must not become rank 100


@lru_cache
def minimum_count(q: float, confidence: float = EARLY_STOPPING_CONFIDENCE) -> int:
    """Return how many samples an estimate of the ``q``-th percentile needs.

    MLPerf's rule: the smallest n with which, were more than ``1 - q`` of all latencies larger, at most one larger
    sample in n would be seen with a probability of at most ``1 - confidence``: 11 for a p50, 64 (p90), 130 (p95),
    662 (p99).
    """
    tail = 1 - max(q, 100 - q) / 100
    if not 0 < tail < 1:
        raise DataError(f"percentile {q:g} has no minimum count; give more than 0 and less than 100")
    count = 2
    while (1 - tail) ** count + count * tail * (1 - tail) ** (count - 1) > 1 - confidence:
        count += 1
    return count


def percentile_interval(values: ArrayLike, q: float, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Return two order statistics that enclose the population's ``q``-th percentile; assumes no distribution.

    The number of samples below the percentile is binomial(n, q), so the l-th and u-th smallest enclose it with
    probability ``P(l <= B < u)``; each side is left at most half of ``1 - confidence``. Samples count as independent.

    Returns:
        (low, high) in the samples' unit, or None where the samples are too few for one of the ends.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    count = ordered.size
    if not count or not 0 < q < 100:
        return None
    alpha = (1 - confidence) / 2
    start, cumulative = _binomial_cumulative(count, q / 100)
    below = int(np.searchsorted(cumulative, alpha, side="right"))  # first k with P(B <= k) > alpha, less start
    above = int(np.searchsorted(cumulative, 1 - alpha, side="left"))  # first k with P(B <= k) >= 1 - alpha
    low, high = start + below, start + above + 1  # ranks from 1: the l-th has P(B <= l - 1) <= alpha
    if low < 1 or high > count:
        return None
    return float(ordered[low - 1]), float(ordered[high - 1])


def _binomial_cumulative(count: int, share: float) -> tuple[int, Floats]:
    """Return (first k, P(B <= k) from there on) over the k that carry all but some 1e-30 of the mass."""
    spread = 12 * math.sqrt(count * share * (1 - share)) + 30
    first, last = max(0, int(count * share - spread)), min(count, math.ceil(count * share + spread))
    log_first = (
        math.lgamma(count + 1)
        - math.lgamma(first + 1)
        - math.lgamma(count - first + 1)
        + first * math.log(share)
        + (count - first) * math.log1p(-share)
    )
    k = np.arange(first, last, dtype=np.float64)
    steps = np.log((count - k) / (k + 1)) + math.log(share) - math.log1p(-share)
    mass = np.exp(log_first + np.concatenate([[0.0], np.cumsum(steps)]))
    return first, np.minimum(np.cumsum(mass) / mass.sum(), 1.0)


def binomial_at_most(k: int, count: int, share: float) -> float:
    """Return P(B <= k) for B ~ binomial(count, share): the regularised incomplete beta ``I(1-share; count-k, k+1)``."""
    if k < 0:
        return 0.0
    if k >= count or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    first, cumulative = _binomial_cumulative(count, share)
    if k < first:
        return 0.0
    return float(cumulative[min(k - first, cumulative.size - 1)])


def bound_violations(violations: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the share ``violations / total`` with its exact (Clopper-Pearson) interval, by bisection on the tails.

    The interval is two-sided: each end alone holds at ``(1 + confidence) / 2``, so a one-sided 95 % bound is an end at
    ``confidence=0.9``.

    Raises:
        DataError: ``violations`` is not within 0..total, or total is 0.
    """
    if total < 1 or not 0 <= violations <= total:
        raise DataError(f"a share of {violations} in {total} is none; give 0 <= violations <= total, total >= 1")
    alpha = (1 - confidence) / 2
    low = high = violations / total
    if violations == 0:
        low = 0.0
    else:  # the share at which so many or more are just improbable
        low = _bisect(lambda share: 1 - binomial_at_most(violations - 1, total, share) < alpha, 0.0, low)
    if violations == total:
        high = 1.0
    else:  # the share at which so few or fewer are just improbable
        high = _bisect(lambda share: binomial_at_most(violations, total, share) > alpha, high, 1.0)
    return Interval(violations / total, low, high)


def _bisect(left: Callable[[float], bool], low: float, high: float) -> float:
    """Return where ``left`` turns from True to False between ``low`` and ``high``."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) else (low, middle)
    return (low + high) / 2


@lru_cache
def student_quantile(share: float, freedom: int) -> float:
    """Return t with ``P(T <= t) = share`` for Student's distribution with integer degrees of freedom; share >= 0.5."""
    if freedom > 300:
        return NormalDist().inv_cdf(share)
    high = 1.0
    while student_at_most(high, freedom) < share:
        high *= 2
    return _bisect(lambda t: student_at_most(t, freedom) < share, 0.0, high)


def student_at_most(t: float, freedom: int) -> float:
    """Return ``P(T <= t)`` for Student's distribution with integer degrees of freedom (finite series, exact)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = total = (cosine if odd else 1.0) if freedom > 1 else 0.0
    for j in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (j - 1) / j
        total += term
    within = (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
    return (1 + within) / 2


def bootstrap(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return a statistic of the samples with its percentile-bootstrap interval, widened for few samples.

    Args:
        values: at least two independent samples.
        statistic: called with ``axis=-1`` on [n] and on [resamples, n].
        seed: of the resampling; the same seed gives the same interval.
        resamples: how many.
        confidence: level.

    Raises:
        DataError: fewer than two samples.
    """
    data = np.asarray(values, dtype=np.float64).ravel()
    count = data.size
    if count < 2:
        raise DataError(f"an interval needs at least 2 samples, got {count}; measure more blocks")
    picks = np.random.default_rng(seed).integers(0, count, (resamples, count))
    found = np.asarray(statistic(data[picks], axis=-1), dtype=np.float64)
    value = float(statistic(data, axis=-1))
    # Hesterberg's expansion: plain percentiles are too narrow by sqrt((n - 1) / n) and by normal against t.
    reach = math.sqrt(count / (count - 1)) * student_quantile((1 + confidence) / 2, count - 1)
    tail = NormalDist().cdf(-reach)
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def paired_ratio(
    a: Sequence[float], b: Sequence[float], *, seed: int = 0, resamples: int = 2000, confidence: float = CONFIDENCE
) -> Interval:
    """Return the median of ``a[i] / b[i]`` with its interval; pairs were measured next to each other, so noise cancels.

    From six pairs on it is the bootstrap of the median; with two to five, where no bootstrap of a median can reach
    95 %, Student's interval of the mean log ratio, which is wide, as it should be.

    Raises:
        DataError: lengths differ, fewer than two pairs, or a value that is not positive.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or left.size < 2:
        raise DataError(f"pairs are needed: got {left.size} and {right.size} values; give at least 2 of each")
    if not (np.isfinite(left) & np.isfinite(right) & (left > 0) & (right > 0)).all():
        raise DataError("a ratio needs positive finite values on both sides; drop blocks without an answer first")
    ratios = left / right
    if ratios.size >= _MEDIAN_PAIRS:
        return bootstrap(ratios, np.median, seed=seed, resamples=resamples, confidence=confidence)
    logs = np.log(ratios)
    reach = student_quantile((1 + confidence) / 2, ratios.size - 1) * float(logs.std(ddof=1)) / math.sqrt(ratios.size)
    value, middle = float(np.median(ratios)), float(logs.mean())
    return Interval(value, min(value, math.exp(middle - reach)), max(value, math.exp(middle + reach)))
