"""The default strategy: a race of what a cost model hopes for. Pure, as every strategy is."""

import math

import numpy as np

from whet.optimize.costmodel import CostModel, Floats
from whet.optimize.strategy import LEAST_NOISE, Ranked, Round, Strategy

MARGIN = 0.01
"""A gain below one per cent is not worth a measurement."""
HOPE = 0.05
"""A candidate is worth measuring while the model gives it at least this chance to beat the best by the margin."""
LAST_HOPE = 0.02
"""The same once the race is decided and time is left."""
EXPLORE = 0.75
"""Share of a level's time for new candidates; the rest is for the race."""


class Racing(Strategy):
    """The default: measure what the cost model hopes for, then race the survivors, halving while they differ.

    Explores in small rounds that always hold the incumbent, so that every comparison is paired; spends what is left of
    the budget on blocks for the few that cannot be told apart yet. It draws nothing: the same measurements lead to the
    same search.
    """

    _known: tuple[CostModel, dict[str, int], Floats] | None = None

    def _next(self, ranking: list[Ranked], left: float) -> Round | None:
        """Return hopeful candidates, then the race."""
        if not ranking:
            fresh = self.ledger.open[: self.width]
            return self._fit([], fresh, left, least=1) if fresh and left > 0 else None
        leg = self.limit_s - self._start_s
        exploring = self.ledger.spent_s - self._start_s < EXPLORE * leg
        if exploring and (found := self._fit(ranking, self.hopeful(ranking, HOPE), left)) is not None:
            return found
        return self._race(ranking, left) or self._fit(ranking, self.hopeful(ranking, LAST_HOPE), left)

    def hopeful(self, ranking: list[Ranked], least: float) -> list[str]:
        """Return the next candidates worth measuring, most hopeful first, each assuming those before as predicted.

        The model is of speeds; what a speed scores follows from the candidate's knee, and back.
        """
        model, keys, knees = self._model()
        places = [keys[one.key] for one in ranking]
        scores = np.asarray([one.score for one in ranking])
        speeds = np.where(scores >= knees[places], scores, 0.5 * (scores + knees[places]))
        noise = np.asarray([one.spread for one in ranking]) / np.where(scores >= knees[places], 1.0, 2.0)
        closed = {keys[key] for key in (*self.ledger.scores, *self.ledger.failed)}
        best, picked = ranking[0].score + MARGIN, list[str]()
        names = list(keys)
        while len(closed) < len(keys) and len(picked) < self.width:
            belief = model.believe(places, speeds, noise)
            met = belief.mean >= knees
            mean = np.where(met, belief.mean, 2.0 * belief.mean - knees)
            spread = np.where(met, 1.0, 2.0) * belief.spread
            ahead = (mean - best) / spread
            gains = spread * _expected_gain(ahead)
            gains[list(closed)] = -1.0
            place = int(gains.argmax())
            if _above(float(ahead[place])) < least:
                break
            picked.append(names[place])
            closed.add(place)
            places.append(place)
            speeds = np.append(speeds, belief.mean[place])
            noise = np.append(noise, LEAST_NOISE)
        return picked

    def _model(self) -> tuple[CostModel, dict[str, int], Floats]:
        """Return the cost model of all candidates, simplest first, their places and knees; made anew with more."""
        if self._known is None or len(self._known[1]) != len(self.ledger.candidates):
            order = sorted(self.ledger.candidates.values(), key=lambda one: one.simplicity)
            places = {one.key: place for place, one in enumerate(order)}
            self._known = CostModel([one.features for one in order]), places, np.asarray([one.knee for one in order])
        return self._known

    def _race(self, ranking: list[Ranked], left: float) -> Round | None:
        best = ranking[0]
        near = [one for one in ranking if one.score + MARGIN + 2.0 * math.hypot(one.spread, best.spread) >= best.score]
        # Halving: with every round fewer may stay, so the blocks go to those that matter.
        keep = max(2, math.ceil(6 / (1 + best.blocks / 4)))
        near = near[:keep]
        if len(near) < 2 or best.blocks >= 24:
            return None
        blocks = 3
        while blocks and self._price(0, len(near), blocks) > left:
            blocks -= 1
        return Round(tuple(one.key for one in near), blocks) if blocks else None


def _above(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _expected_gain(ahead: Floats) -> Floats:
    """Return E[max(0, N(ahead, 1))], the expected improvement in units of the spread."""
    density = np.exp(-np.square(ahead) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(ahead * np.asarray([_above(float(z)) for z in ahead]) + density)
