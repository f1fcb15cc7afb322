"""Strategies: which plans to measure next, over plain values. Pure: no clock, no process, no randomness but the seed.

A strategy is asked for a :class:`Round` (candidates to measure interleaved, in so many blocks each) and told what came
out; so the same strategy runs live, or on recorded trials (:func:`replay`). Scores are positive, higher is better.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from whet.optimize.costmodel import CostModel, Features, Floats, polish

NOISE = 0.05
"""Standard deviation of one block's log score before enough blocks have told."""
LEAST_NOISE = 0.01
MARGIN = 0.01
"""A gain below one per cent is not worth a measurement."""
HOPE = 0.05
"""A candidate is worth measuring while the model gives it at least this chance to beat the best by the margin."""
LAST_HOPE = 0.02
"""The same once the race is decided and time is left."""
BLOCKS = 2
"""Blocks of a candidate when it is first measured."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something to measure.

    Attributes:
        key: its name, a plan id.
        features: its axes as plain values.
        simplicity: among equals the smallest wins (cores, memory, batch, ...).
    """

    key: str
    features: Features
    simplicity: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """What to measure next.

    Attributes:
        keys: candidates; each block measures all of them, in random order, next to each other.
        blocks: how many blocks.
    """

    keys: tuple[str, ...]
    blocks: int


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one candidate of a round.

    Attributes:
        key: the candidate.
        scores: one positive score per block, None where the block was discarded; empty when the candidate failed.
    """

    key: str
    scores: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A measured candidate: its log score relative to the others, the standard deviation of that, and its blocks."""

    key: str
    score: float
    spread: float
    blocks: int


class Strategy(Protocol):
    """A way to search. ``ask`` and ``tell`` alternate."""

    def ask(self) -> Round | None:
        """Return what to measure next, or None when done."""
        ...

    def tell(self, told: Sequence[Told], cost_s: float) -> None:
        """Learn what came of the last round, and what it cost in seconds of wall time."""
        ...

    def ranking(self) -> list[Ranked]:
        """Return what was measured, best first."""
        ...


@dataclass(slots=True)
class Ledger:
    """What a strategy knows: candidates, log scores by block, failures, seconds spent."""

    candidates: dict[str, Candidate]
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    block: int = 0
    spent_s: float = 0.0

    def tell(self, told: Sequence[Told], cost_s: float) -> None:
        """Record a round."""
        self.spent_s += cost_s
        for one in told:
            values = {self.block + i: math.log(score) for i, score in enumerate(one.scores) if score and score > 0}
            if not one.scores:  # disturbed blocks alone say nothing: the candidate stays open
                self.failed.add(one.key)
                self.scores.pop(one.key, None)
            elif values:
                self.scores.setdefault(one.key, {}).update(values)
        self.block += max((len(one.scores) for one in told), default=0)

    def ranking(self) -> list[Ranked]:
        """Return measured candidates, best first; the blocks' common mood is taken out."""
        if not self.scores:
            return []
        effects, noise = polish(self.scores)
        count = sum(map(len, self.scores.values()))
        # Few residuals say little about the noise: lean on what is usual until there are a dozen.
        weight = min(1.0, max(0, count - len(self.scores) - self.block) / 12)
        spread = max(LEAST_NOISE, weight * noise + (1 - weight) * NOISE)
        found = [
            Ranked(key, effect, spread / math.sqrt(len(self.scores[key])), len(self.scores[key]))
            for key, effect in effects.items()
        ]
        return sorted(found, key=lambda one: -one.score)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may cost.

    Attributes:
        seconds: wall time, starts of processes included.
        start_s: what starting one candidate costs.
        block_s: what one block of one candidate costs.
    """

    seconds: float
    start_s: float = 1.5
    block_s: float = 0.4

    def price(self, fresh: int, keys: int, blocks: int) -> float:
        """Return the expected cost of a round."""
        return fresh * self.start_s + keys * blocks * self.block_s


class Racing:
    """The default: measure what the cost model hopes for, then race the survivors, halving while they differ.

    Explores in small rounds that always hold the incumbent, so that every comparison is paired; spends what is left of
    the budget on blocks for the few that cannot be told apart yet.

    Args:
        candidates: the space.
        budget: what it may cost.
        seeds: keys to measure first.
        width: new candidates per round.
        explore: share of the budget for new candidates.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        budget: Budget,
        *,
        seeds: Sequence[str] = (),
        width: int = 4,
        explore: float = 0.75,
    ) -> None:
        self.ledger = Ledger({one.key: one for one in candidates})
        self.budget = budget
        self.limit_s = budget.seconds
        self.width = width
        self.explore = explore
        self._seeds = [key for key in dict.fromkeys(seeds) if key in self.ledger.candidates]
        self._start_s = 0.0
        self._must = 1
        self._asked: Round | None = None
        self._dearer = 1.0
        self._known: tuple[CostModel, dict[str, int]] | None = None

    def extend(self, candidates: Iterable[Candidate], seconds: float, seeds: Sequence[str] = (), must: int = 1) -> None:
        """Add candidates and start a new leg of the race that may spend ``seconds`` more; ``must`` seeds run anyhow."""
        for one in candidates:
            self.ledger.candidates.setdefault(one.key, one)
        self._seeds = [key for key in dict.fromkeys(seeds) if key in self.ledger.candidates]
        self._must = must
        self._start_s = self.ledger.spent_s
        self.limit_s = self._start_s + seconds

    def tell(self, told: Sequence[Told], cost_s: float) -> None:
        """Learn what came of the last round, and what rounds really cost on this machine."""
        if self._asked is not None:
            fresh = sum(key not in self.ledger.scores for key in self._asked.keys)
            expected = self.budget.price(fresh, len(self._asked.keys), self._asked.blocks)
            self._dearer = 0.5 * (self._dearer + min(5.0, max(0.2, cost_s / max(expected, 1e-9))))
        self.ledger.tell(told, cost_s)

    def ranking(self) -> list[Ranked]:
        """Return what was measured, best first."""
        return self.ledger.ranking()

    def ask(self) -> Round | None:
        """Return seeds first, then hopeful candidates, then the race."""
        self._asked = self._next()
        return self._asked

    def _price(self, fresh: int, keys: int, blocks: int) -> float:
        return self._dearer * self.budget.price(fresh, keys, blocks)

    def _next(self) -> Round | None:
        left = self.limit_s - self.ledger.spent_s
        ranking = self.ranking()
        incumbent = [ranking[0].key] if ranking else []
        seeds = [key for key in self._seeds if key not in self.ledger.scores and key not in self.ledger.failed]
        self._seeds = []
        if seeds:
            return self._fit(incumbent, seeds, left, least=self._must)
        if not ranking:
            fresh = [key for key in self.ledger.candidates if key not in self.ledger.failed]
            return self._fit([], fresh[: self.width], left, least=1) if fresh and left > 0 else None
        leg = self.limit_s - self._start_s
        exploring = self.ledger.spent_s - self._start_s < self.explore * leg
        if exploring and (found := self._fit(incumbent, self.hopeful(ranking, HOPE), left)) is not None:
            return found
        return self._race(ranking, left) or self._fit(incumbent, self.hopeful(ranking, LAST_HOPE), left)

    def _fit(self, incumbent: list[str], fresh: list[str], left: float, least: int = 0) -> Round | None:
        """Return a round with as many of ``fresh`` as the time left allows, at least ``least``."""
        for blocks in (BLOCKS, 1):
            for count in range(len(fresh), 0, -1):
                if self._price(count, count + len(incumbent), blocks) <= left:
                    return Round((*incumbent, *fresh[:count]), blocks)
        return Round((*incumbent, *fresh[:least]), 1) if least else None

    def hopeful(self, ranking: list[Ranked], least: float) -> list[str]:
        """Return the next candidates worth measuring, most hopeful first, each assuming those before as predicted."""
        model, keys = self._model()
        places = [keys[one.key] for one in ranking]
        scores = np.asarray([one.score for one in ranking])
        noise = np.asarray([one.spread for one in ranking])
        closed = {keys[key] for key in (*self.ledger.scores, *self.ledger.failed)}
        best, picked = ranking[0].score + MARGIN, list[str]()
        names = list(keys)
        while len(closed) < len(keys) and len(picked) < self.width:
            belief = model.believe(places, scores, noise)
            ahead = (belief.mean - best) / belief.spread
            gains = belief.spread * _expected_gain(ahead)
            gains[list(closed)] = -1.0
            place = int(gains.argmax())
            if _above(float(ahead[place])) < least:
                break
            picked.append(names[place])
            closed.add(place)
            places.append(place)
            scores = np.append(scores, belief.mean[place])
            noise = np.append(noise, LEAST_NOISE)
        return picked

    def _model(self) -> tuple[CostModel, dict[str, int]]:
        """Return the cost model of all candidates, simplest first, and their places; made anew when there are more."""
        if self._known is None or len(self._known[1]) != len(self.ledger.candidates):
            order = sorted(self.ledger.candidates.values(), key=lambda one: one.simplicity)
            self._known = CostModel([one.features for one in order]), {one.key: i for i, one in enumerate(order)}
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


class Exhaustive:
    """Measure everything, ``blocks`` each, ``width`` next to each other. The yardstick for the others."""

    def __init__(self, candidates: Iterable[Candidate], *, blocks: int = 3, width: int = 4, seed: int = 0) -> None:
        self.ledger = Ledger({one.key: one for one in candidates})
        order = list(self.ledger.candidates)
        np.random.default_rng(seed).shuffle(order)
        self._order, self._blocks, self._width = order, blocks, width

    def ask(self) -> Round | None:
        """Return the next few, with the incumbent as the common reference."""
        if not self._order:
            return None
        now, self._order = self._order[: self._width], self._order[self._width :]
        return Round((*(one.key for one in self.ranking()[:1]), *now), self._blocks)

    def tell(self, told: Sequence[Told], cost_s: float) -> None:
        """Record."""
        self.ledger.tell(told, cost_s)

    def ranking(self) -> list[Ranked]:
        """Return what was measured, best first."""
        return self.ledger.ranking()


class Random(Exhaustive):
    """Measure at random until the budget is spent: what any strategy has to beat."""

    def __init__(self, candidates: Iterable[Candidate], budget: Budget, *, blocks: int = 2, seed: int = 0) -> None:
        super().__init__(candidates, blocks=blocks, seed=seed)
        self._budget = budget

    def ask(self) -> Round | None:
        """Return the next few while there is time."""
        left = self._budget.seconds - self.ledger.spent_s
        if self._budget.price(self._width, self._width + 1, self._blocks) > left:
            return None
        return super().ask()


def replay(strategy: Strategy, score: Callable[[str, int], float | None], costs: Budget) -> tuple[str, float]:
    """Run ``strategy`` on recorded trials.

    Args:
        strategy: to run; told the cost that ``costs`` gives.
        score: recorded score of a candidate in the n-th block of the run, or None where it failed.
        costs: prices of a start and a block.

    Returns:
        The key it would choose, and the seconds it would have spent.
    """
    started, block, spent = set[str](), 0, 0.0
    while (asked := strategy.ask()) is not None:
        fresh = [key for key in asked.keys if key not in started]
        cost = costs.price(len(fresh), len(asked.keys), asked.blocks)
        started.update(fresh)
        told = []
        for key in asked.keys:
            values = [score(key, block + i) for i in range(asked.blocks)]
            told.append(Told(key, () if all(value is None for value in values) else tuple(values)))
        block += asked.blocks
        spent += cost
        strategy.tell(told, cost)
    ranking = strategy.ranking()
    return (ranking[0].key if ranking else ""), spent
