"""Strategies that know nothing: what any other has to beat, and what it is measured against. Pure."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from whet.optimize.strategy import BLOCKS, Budget, Candidate, Ranked, Round, Strategy

WITHOUT_END = Budget(math.inf)


class Random(Strategy):
    """Measure candidates in random order, a few at a time beside the incumbent, until the time is spent.

    Args:
        candidates: the space.
        budget: what it may cost.
        seeds: keys to measure first.
        width: new candidates per round.
        seed: of the order.
        blocks: of each candidate.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        budget: Budget,
        *,
        seeds: Sequence[str] = (),
        width: int = 4,
        seed: int = 0,
        blocks: int = BLOCKS,
    ) -> None:
        super().__init__(candidates, budget, seeds=seeds, width=width)
        self._rng, self._blocks = np.random.default_rng(seed), blocks

    def _next(self, ranking: list[Ranked], left: float) -> Round | None:
        fresh = self.ledger.open
        if not fresh or left <= 0:
            return None
        drawn = [fresh[place] for place in self._rng.permutation(len(fresh))[: self.width]]
        # Before anything is known one candidate is measured whatever it costs, so that there is an answer.
        return self._fit(ranking, drawn, left, least=0 if ranking else 1, most=self._blocks)


class Exhaustive(Random):
    """Measure everything, in random order and in more blocks each; without end unless a budget says otherwise."""

    def __init__(
        self,
        candidates: Iterable[Candidate],
        budget: Budget = WITHOUT_END,
        *,
        seeds: Sequence[str] = (),
        width: int = 4,
        seed: int = 0,
        blocks: int = 3,
    ) -> None:
        super().__init__(candidates, budget, seeds=seeds, width=width, seed=seed, blocks=blocks)
