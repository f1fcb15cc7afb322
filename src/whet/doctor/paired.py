"""Two ways measured in turn, in random order within each pair, and what their ratio says."""

import random
from collections.abc import Callable

from whet.doctor.diagnosis import Measure, Proof
from whet.stats import Interval, paired_ratio

PAIRS = 12
BLOCK_S = 0.5

Block = Callable[[], float]
"""Measures one block: a speed, or a rate of whatever else is better when higher; 0 when nothing was answered."""


def in_turn(what: str, ill: Block, well: Block, *, pairs: int = PAIRS, measure: Measure = "throughput") -> Proof:
    """Measure both ways ``pairs`` times and return what the paired ratios say.

    Args:
        what: the change from ``ill`` to ``well``, in words.
        ill: a block with the ailment.
        well: a block without it.
        pairs: blocks on each side, at least 2; those without an answer on either side are dropped together.
        measure: what a block returns the rate of.
    """
    rng = random.Random(0)  # noqa: S311  (the order of blocks, not a secret)
    found: list[tuple[float, float]] = []
    for _ in range(pairs):
        sides = {side: block() for side, block in rng.sample([("ill", ill), ("well", well)], 2)}
        found.append((sides["well"], sides["ill"]))
    kept = [pair for pair in found if all(pair)]
    if 2 * len(kept) < max(pairs, 4):
        said = f"could not be measured: in {pairs - len(kept)} of {pairs} pairs a block had no two answers"
        return Proof(what, None, None, None, len(kept), said)
    ratio = paired_ratio([new for new, _ in kept], [old for _, old in kept])
    return Proof(what, ratio.value, ratio.low, ratio.high, len(kept), verdict(ratio), measure)


def verdict(ratio: Interval) -> str:
    """Return what the ratio of speeds, without the ailment over with it, says."""
    if not ratio.excludes(1.0):
        return "cannot tell apart"
    return "confirmed" if ratio.value > 1 else "refuted"
