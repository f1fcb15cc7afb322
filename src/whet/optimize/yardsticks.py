"""Strategies that know nothing: what any other has to beat, and what it is measured against. Pure."""

import math

import numpy as np

from whet.optimize.strategy import BLOCKS, Budget, Ranked, Round, Strategy

WITHOUT_END = Budget(math.inf)
"""For an exhaustive search that is to end when everything was measured."""


class Random(Strategy):
    """Measure candidates in random order, a few at a time beside the incumbent, until the time is spent.

    Attributes:
        blocks: of each candidate.
    """

    blocks = BLOCKS

    def _next(self, ranking: list[Ranked], left: float) -> Round | None:
        fresh = self.ledger.open
        if not fresh or left <= 0:
            return None
        order = np.random.default_rng((self.seed, self.ledger.block, len(fresh))).permutation(len(fresh))
        drawn = [fresh[place] for place in order[: self.width]]
        # Before anything is known one candidate is measured whatever it costs, so that there is an answer.
        return self._fit(ranking, drawn, left, least=0 if ranking else 1, most=self.blocks)


class Exhaustive(Random):
    """Measure everything, in random order and in more blocks each, as far as the budget reaches."""

    blocks = 3
