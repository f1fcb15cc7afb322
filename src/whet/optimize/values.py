"""Numbers of a search as the evidence holds them: JSON-able, missing is null, intervals with their ends. Pure."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from whet.stats import Interval, bootstrap


def plain(value: Any) -> Any:
    """Return ``value`` as JSON-able values; numbers that are none become null."""
    return _finite(msgspec.to_builtins(value, enc_hook=str, str_keys=True))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def interval(values: Sequence[float], seed: int = 0) -> dict[str, float | None] | None:
    """Return the median of block values with its 95 % interval; no ends with a single block, null with none."""
    if not values:
        return None
    if len(values) < 2:
        return {"value": float(values[0]), "low": None, "high": None}
    found = bootstrap(values, np.median, seed=seed)
    return {"value": found.value, "low": found.low, "high": found.high}


def ends(found: Interval | None) -> dict[str, float] | None:
    """Return an interval as the evidence holds it."""
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}
