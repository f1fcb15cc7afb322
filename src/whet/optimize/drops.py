"""The drop between two nets' scores on the same items: its interval, and how many items it takes to bound it. Pure."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.stats import Interval, bootstrap

Scores = NDArray[np.float64]
Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
MOST_ITEMS = 1 << 30
"""More items than this are none that anybody has."""
DROP = (
    "drop = mean over items of (parent - candidate), absolute, positive is worse; relative drop = drop / parent, "
    "0 where neither scores, none where only the candidate does"
)
"""The drop's formula and direction, as it stands in every verdict."""


def paired_drop(parent: Scores, candidate: Scores, *, seed: int = 0) -> Interval:
    """Return mean(parent - candidate) over the same items with its 95 % interval.

    A percentile bootstrap over items. Where every score is 0 or 1 the bootstrap knows nothing of losses it has not
    seen, so the interval is widened to Tango's score interval of a paired difference of proportions (Tango 1998,
    Statistics in Medicine 17:891-908), which stays honest with no discordant item at all.
    """
    difference = np.asarray(parent, dtype=np.float64) - np.asarray(candidate, dtype=np.float64)
    interval = bootstrap(difference, np.mean, seed=seed)
    if not binary(difference):
        return interval
    low, high = tango(int((difference > 0).sum()), int((difference < 0).sum()), len(difference))
    return Interval(interval.value, min(interval.low, low), max(interval.high, high))


def tango(lost: float, gained: float, items: int) -> tuple[float, float]:
    """Return Tango's 95 % score interval of (lost - gained) / items, found by bisection."""
    estimate = (lost - gained) / items

    def statistic(delta: float) -> float:
        # The maximum-likelihood share of gained items when the true difference is delta, then the score statistic.
        a, b, c = 2.0 * items, -lost - gained + (2.0 * items - lost + gained) * delta, -gained * delta * (1.0 - delta)
        share = (math.sqrt(max(0.0, b * b - 4.0 * a * c)) - b) / (2.0 * a)
        variance = items * (2.0 * share + delta * (1.0 - delta))
        return (lost - gained - items * delta) / math.sqrt(variance) if variance > 0 else 0.0

    return (_bisect(statistic, -1.0, estimate, Z95), _bisect(statistic, estimate, 1.0, -Z95))


def _bisect(statistic: Any, low: float, high: float, wanted: float) -> float:
    """Find where the falling function ``statistic`` crosses ``wanted`` between ``low`` and ``high``."""
    for _ in range(60):
        middle = (low + high) / 2.0
        if statistic(middle) > wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def relative_drop(parent: float, value: float) -> float | None:
    """Return (parent - value) / parent; 0 where both are 0, None where only the parent is: no number is right there."""
    if parent == 0:
        return 0.0 if value == 0 else None
    return (parent - value) / parent


def binary(difference: Scores) -> bool:
    """Tell whether every item was lost, gained or neither: its scores are 0 or 1."""
    return bool(np.isin(difference, (-1.0, 0.0, 1.0)).all())


def items_needed(difference: Scores, max_drop: float) -> int | None:
    """Return how many items like these would bring the interval's upper end to ``max_drop``, or None if none would.

    Args:
        difference: float64[items], parent - candidate.
        max_drop: the floor.

    Where items are lost or gained whole, the smallest n at which Tango's upper end, with as many lost and gained per
    item as were seen, is within the floor; else ``drop + z * spread / sqrt(n) <= max_drop``.
    """
    drop, items = float(difference.mean()), len(difference)
    if drop >= max_drop:
        return None
    if not binary(difference):
        needed = math.ceil((Z95 * float(difference.std()) / (max_drop - drop)) ** 2)
        return needed if needed <= MOST_ITEMS else None
    lost, gained = float((difference > 0).mean()), float((difference < 0).mean())

    def promised(count: int) -> bool:
        return tango(lost * count, gained * count, count)[1] <= max_drop

    high = max(2, items)
    while not promised(high):
        if high > MOST_ITEMS:
            return None
        high *= 2
    low = 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if promised(middle) else (middle, high)
    return high
