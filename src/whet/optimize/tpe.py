"""Optuna's tree-structured Parzen estimator as a strategy, for comparison. The only file that imports Optuna.

TPE (Bergstra, Bardenet, Bengio, Kegl, *Algorithms for Hyper-Parameter Optimization*, NIPS 2011) proposes values axis by
axis, and not every combination of them is a legal plan: a proposal stands for the nearest candidate that is still
open. The first few, which TPE too draws at random, are drawn among legal plans. The study is made anew from the ledger
for every round, since what a measurement is worth changes as the blocks' common mood becomes known; so the strategy
holds no state of Optuna's, and is replayable like any other.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from whet.errors import MissingExtra
from whet.optimize.costmodel import Features
from whet.optimize.strategy import Ranked, Round, Strategy

try:
    import optuna
except ImportError as error:
    raise MissingExtra("the strategy 'tpe'", "tpe") from error

optuna.logging.set_verbosity(optuna.logging.WARNING)

STARTUP = 10
"""Candidates drawn at random before TPE has enough to model, Optuna's own default."""


class Tpe(Strategy):
    """Measure what TPE proposes, a few at a time beside the incumbent; TPE's own settings are Optuna's defaults."""

    def _next(self, ranking: list[Ranked], left: float) -> Round | None:
        fresh = self.ledger.open
        if not fresh or left <= 0:
            return None
        if len(ranking) < STARTUP:
            drawn = np.random.default_rng((self.seed, self.ledger.block)).permutation(len(fresh))[: self.width]
            picked = [fresh[place] for place in drawn]
        else:
            picked = self._proposed(ranking, fresh)
        return self._fit(ranking, picked, left, least=0 if ranking else 1)

    def _proposed(self, ranking: list[Ranked], fresh: list[str]) -> list[str]:
        """Return the next candidates by TPE's order: its proposals, each as the nearest of ``fresh`` not yet taken."""
        axes = _Axes(one.features for one in self.ledger.candidates.values())
        places = {key: axes.place(self.ledger.candidates[key].features) for key in fresh}
        study = self._study(ranking, axes)
        picked: list[str] = []
        while len(picked) < min(self.width, len(fresh)):
            proposal = study.ask(axes.distributions).params
            rest = [key for key in fresh if key not in picked]
            picked.append(min(rest, key=lambda key: axes.apart(places[key], proposal)))
        return picked

    def _study(self, ranking: list[Ranked], axes: "_Axes") -> Any:
        sampler = optuna.samplers.TPESampler(seed=1_000_003 * self.seed + self.ledger.block, n_startup_trials=STARTUP)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for one in ranking:
            place = axes.place(self.ledger.candidates[one.key].features)
            study.add_trial(optuna.create_trial(params=place, distributions=axes.distributions, value=one.score))
        return study


class _Axes:
    """The axes on which candidates differ, in Optuna's words: numbers as ordered levels, names as categories."""

    def __init__(self, features: Iterable[Features]) -> None:
        known = list(features)
        self.levels: dict[str, list[str | float]] = {}
        self.distributions: dict[str, Any] = {}
        for axis in sorted({axis for one in known for axis in one}):
            values = {one.get(axis, "") for one in known}
            if len(values) < 2:
                continue
            self.levels[axis] = sorted(values, key=lambda value: (isinstance(value, str), value))
            if all(isinstance(value, float) for value in values):
                self.distributions[axis] = optuna.distributions.IntDistribution(0, len(values) - 1)
            else:
                self.distributions[axis] = optuna.distributions.CategoricalDistribution(range(len(values)))

    def place(self, features: Features) -> dict[str, int]:
        """Return the level of a candidate on every axis."""
        return {axis: levels.index(features.get(axis, "")) for axis, levels in self.levels.items()}

    def apart(self, one: dict[str, int], other: dict[str, int]) -> float:
        """Return how far two places are apart: 1 for every other name, a share of the ladder for numbers."""
        total = 0.0
        for axis, levels in self.levels.items():
            if isinstance(self.distributions[axis], optuna.distributions.IntDistribution):
                total += abs(one[axis] - other[axis]) / (len(levels) - 1)
            else:
                total += one[axis] != other[axis]
        return total
