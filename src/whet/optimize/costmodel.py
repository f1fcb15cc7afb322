"""A small model of how fast a plan is: proposes what to measure next and prunes what cannot win. Pure; numpy only.

The logarithm of a plan's score is taken as a sum of effects of its axes, effects of some pairs of axes, and a residue
of its own, each a Gaussian of a known size: kriging with an additive kernel (Duvenaud, Nickisch, Rasmussen, *Additive
Gaussian Processes*, NIPS 2011). Sizes are standard deviations of a log score: 0.1 is about ten per cent. They are
priors, wide enough that a handful of measurements overrules them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = Mapping[str, str | float]

MAIN: dict[str, float] = {
    "runtime": 0.4,
    "variant": 0.4,
    "precision": 0.25,
    "streams": 0.2,
    "threads": 0.2,
    "batch": 0.25,
    "isa": 0.3,
    "dynamic": 0.05,
    "pinning": 0.07,
    "fused": 0.07,
    "window": 0.02,
    "allocator": 0.05,
    "CPU_DENORMALS_OPTIMIZATION": 0.02,
    "ENABLE_CPU_RESERVATION": 0.02,
    "denormals_as_zero": 0.02,
}
OTHER = 0.08
"""An axis that is not listed: a switch of some runtime."""
PAIRS: dict[tuple[str, str], float] = {
    ("runtime", "variant"): 0.3,
    ("runtime", "precision"): 0.2,
    ("runtime", "streams"): 0.12,
    ("runtime", "batch"): 0.12,
    ("variant", "precision"): 0.12,
    ("variant", "streams"): 0.08,
    ("variant", "batch"): 0.08,
    ("streams", "batch"): 0.1,
    ("threads", "batch"): 0.1,
    ("dynamic", "batch"): 0.05,
}
RESIDUE = 0.03
REACH = 2.0
"""Doublings over which two numbers of one axis become unlike (e-fold)."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What the model thinks of each candidate.

    Attributes:
        mean: log score.
        spread: standard deviation of that.
    """

    mean: Floats
    spread: Floats


class CostModel:
    """The model over a fixed list of candidates.

    Args:
        features: of every candidate. Numbers are compared by ratio, names by equality.
    """

    def __init__(self, features: Sequence[Features]) -> None:
        self.size = len(features)
        axes = sorted({axis for one in features for axis in one})
        self._axes = {axis: _encode([one.get(axis) for one in features]) for axis in axes}
        self._pairs = {pair: size for pair, size in PAIRS.items() if pair[0] in self._axes and pair[1] in self._axes}
        # Every axis is like itself, so the prior variance is the same everywhere.
        main = sum(MAIN.get(axis, OTHER) ** 2 for axis in axes)
        self.prior = main + sum(size**2 for size in self._pairs.values()) + RESIDUE**2
        self._columns: dict[int, Floats] = {}

    def likeness(self, place: int) -> Floats:
        """Return the prior covariance of the log score of candidate ``place`` with that of every candidate, [size]."""
        if place not in self._columns:
            same = {axis: _same(values, values[place]) for axis, values in self._axes.items()}
            total, own = np.zeros(self.size), np.ones(self.size)
            for axis, like in same.items():
                total += MAIN.get(axis, OTHER) ** 2 * like
                own *= like == 1.0
            for (one, two), size in self._pairs.items():
                total += size**2 * same[one] * same[two]
            self._columns[place] = total + RESIDUE**2 * own
        return self._columns[place]

    def believe(self, places: Sequence[int], scores: Floats, noise: Floats) -> Belief:
        """Return what measurements say about every candidate.

        Args:
            places: candidates that were measured, at least one.
            scores: log score of each.
            noise: standard deviation of each score.
        """
        cross = np.stack([self.likeness(place) for place in places])
        known = cross[:, list(places)] + np.diag(np.square(noise) + 1e-9)
        factor = np.linalg.cholesky(known)
        weights = np.linalg.solve(factor, cross)
        centre = float(scores.mean())
        mean = centre + weights.T @ np.linalg.solve(factor, scores - centre)
        return Belief(mean, np.sqrt(np.maximum(self.prior - np.square(weights).sum(axis=0), 1e-12)))


def _encode(values: Sequence[str | float | None]) -> NDArray[Any]:
    """Return numbers as logarithms (floats), names as codes (integers)."""
    if all(isinstance(value, float) for value in values):
        return np.asarray(np.log2(np.asarray(values, dtype=np.float64)))
    codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
    return np.asarray([codes[value] for value in values], dtype=np.int64)


def _same(values: NDArray[Any], one: Any) -> Floats:
    if values.dtype == np.int64:
        return np.asarray(values == one, dtype=np.float64)
    return np.asarray(np.exp(-np.abs(values - one) / REACH))


def polish(values: Mapping[str, Mapping[int, float]], rounds: int = 20) -> tuple[dict[str, float], float]:
    """Split log scores into an effect of the candidate and one of the block (Tukey's median polish).

    Blocks measured next to each other share the machine's mood; taking it out is what pairing means when more than two
    are compared.

    Args:
        values: log score by candidate, then by block.
        rounds: sweeps.

    Returns:
        Effect of each candidate, and the residual standard deviation of one block (robust, from the median deviation).
    """
    keys = list(values)
    blocks = sorted({block for of in values.values() for block in of})
    table = np.full((len(keys), len(blocks)), np.nan)
    column = {block: place for place, block in enumerate(blocks)}
    for row, key in enumerate(keys):
        for block, value in values[key].items():
            table[row, column[block]] = value
    effect = np.nanmedian(table, axis=1)
    for _ in range(rounds):
        mood = np.nanmedian(table - effect[:, None], axis=0)
        moved = np.nanmedian(table - mood[None, :], axis=1)
        done = np.abs(moved - effect).max() < 1e-6
        effect = moved
        if done:
            break
    rest = (table - effect[:, None] - np.nanmedian(table - effect[:, None], axis=0)[None, :]).ravel()
    rest = rest[np.isfinite(rest)]
    spread = 1.4826 * float(np.median(np.abs(rest))) if rest.size else 0.0
    return dict(zip(keys, map(float, effect), strict=True)), spread
