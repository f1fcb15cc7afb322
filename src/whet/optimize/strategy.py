"""What every search strategy shares, over plain values. Pure: no clock, no process, no randomness but the seed.

A strategy is asked for a :class:`Round` (candidates to measure interleaved, in so many blocks each) and told what came
out; so the same strategy runs live, or on recorded trials (:func:`replay`). Scores are positive, higher is better.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from whet.optimize.costmodel import Features, polish

NOISE = 0.05
"""Standard deviation of one block's log score before enough blocks have told."""
LEAST_NOISE = 0.01
BLOCKS = 2
"""Blocks of a candidate when it is first measured."""
CHANCES = 2
"""Rounds a candidate gets whose every block is disturbed; then it counts as not measurable here."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something to measure.

    Attributes:
        key: its name, a plan id.
        features: its axes as plain values.
        simplicity: among equals the smallest wins (cores, memory, batch, ...).
        knee: log speed below which a latency target is missed; there the log score falls twice as fast as log speed.
    """

    key: str
    features: Features
    simplicity: tuple[float, ...] = ()
    knee: float = -math.inf


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


@dataclass(slots=True)
class Ledger:
    """What a strategy knows: candidates, log scores by block, failures, seconds spent.

    Attributes:
        candidates: by key.
        scores: log score by candidate, then by block.
        failed: candidates that cannot be measured.
        blank: rounds in which a candidate's every block was disturbed.
        block: number of the next block.
        spent_s: seconds of wall time so far.
    """

    candidates: dict[str, Candidate]
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    blank: dict[str, int] = field(default_factory=dict)
    block: int = 0
    spent_s: float = 0.0

    @property
    def open(self) -> list[str]:
        """Keys of candidates that may still be measured for the first time."""
        return [key for key in self.candidates if key not in self.scores and key not in self.failed]

    def tell(self, told: Sequence[Told], cost_s: float) -> None:
        """Record a round."""
        self.spent_s += cost_s
        for one in told:
            values = {self.block + i: math.log(score) for i, score in enumerate(one.scores) if score and score > 0}
            if not one.scores:
                self.failed.add(one.key)
                self.scores.pop(one.key, None)
            elif values:
                self.scores.setdefault(one.key, {}).update(values)
            elif one.key not in self.scores:  # disturbed blocks alone say nothing: the candidate stays open
                self.blank[one.key] = self.blank.get(one.key, 0) + 1
                if self.blank[one.key] >= CHANCES:
                    self.failed.add(one.key)
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


class Strategy(ABC):
    """A way to search; ``ask`` and ``tell`` alternate. Subclasses say what comes after the seeds.

    Args:
        candidates: the space.
        budget: what the search may cost.
        seeds: keys to measure first.
        width: new candidates per round.
        seed: of whatever it draws.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        budget: Budget,
        *,
        seeds: Sequence[str] = (),
        width: int = 4,
        seed: int = 0,
    ) -> None:
        self.ledger = Ledger({one.key: one for one in candidates})
        self.budget = budget
        self.limit_s = budget.seconds
        self.width = width
        self.seed = seed
        self._seeds = [key for key in dict.fromkeys(seeds) if key in self.ledger.candidates]
        self._must = 1
        self._start_s = 0.0
        self._asked: Round | None = None
        self._dearer = 1.0

    def extend(self, candidates: Iterable[Candidate], seconds: float, seeds: Sequence[str] = (), must: int = 1) -> None:
        """Add candidates and start a new leg that may spend ``seconds`` more; ``must`` seeds run anyhow."""
        for one in candidates:
            self.ledger.candidates.setdefault(one.key, one)
        self._seeds = [key for key in dict.fromkeys(seeds) if key in self.ledger.candidates]
        self._must = must
        self._start_s = self.ledger.spent_s
        self.limit_s = self._start_s + seconds

    def ask(self) -> Round | None:
        """Return what to measure next: the seeds, then what the strategy proposes; None when done."""
        left = self.limit_s - self.ledger.spent_s
        ranking = self.ranking()
        seeds = [key for key in self._seeds if key not in self.ledger.scores and key not in self.ledger.failed]
        self._seeds = []
        if seeds:
            self._asked = self._fit(ranking, seeds, left, least=self._must)
        else:
            self._asked = self._next(ranking, left)
        return self._asked

    def tell(self, told: Sequence[Told], cost_s: float) -> None:
        """Learn what came of the last round, and what rounds really cost on this machine, in seconds of wall time."""
        if self._asked is not None:
            fresh = sum(key not in self.ledger.scores for key in self._asked.keys)
            expected = self.budget.price(fresh, len(self._asked.keys), self._asked.blocks)
            self._dearer = 0.5 * (self._dearer + min(5.0, max(0.2, cost_s / max(expected, 1e-9))))
        self.ledger.tell(told, cost_s)

    def ranking(self) -> list[Ranked]:
        """Return what was measured, best first."""
        return self.ledger.ranking()

    @abstractmethod
    def _next(self, ranking: list[Ranked], left: float) -> Round | None:
        """Return what to measure now that the seeds are known, with ``left`` seconds to spend."""

    def _price(self, fresh: int, keys: int, blocks: int) -> float:
        return self._dearer * self.budget.price(fresh, keys, blocks)

    def _fit(
        self, ranking: list[Ranked], fresh: Sequence[str], left: float, least: int = 0, most: int = BLOCKS
    ) -> Round | None:
        """Return a round of the incumbent and as many of ``fresh`` as the time left allows, at least ``least``."""
        incumbent = [one.key for one in ranking[:1]]
        for blocks in range(most, 0, -1):
            for count in range(len(fresh), 0, -1):
                if self._price(count, count + len(incumbent), blocks) <= left:
                    return Round((*incumbent, *fresh[:count]), blocks)
        return Round((*incumbent, *fresh[:least]), 1) if least else None


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
