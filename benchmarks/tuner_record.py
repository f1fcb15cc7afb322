"""Recorded sweeps of the tuner's benchmark: the append-only record, and a lab that measures by looking things up in it.

A record is one JSON document a line, written through to the disk before the next round begins; a line that a kill cut
short is dropped when the record is opened again, and its round is measured anew.
"""

import json
import math
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from whet.optimize.costmodel import polish
from whet.optimize.lab import Case, Record
from whet.optimize.strategy import Told
from whet.optimize.trial_words import Measured, Ready
from whet.plan import Effective


class Log:
    """An append-only file of JSON documents, one a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        known = path.read_bytes() if path.exists() else b""
        whole = known[: known.rfind(b"\n") + 1]
        if whole != known:
            os.truncate(path, len(whole))
        self.events: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def add(self, **event: Any) -> None:
        with self.path.open("ab") as stream:
            stream.write(json.dumps(event).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.events.append(event)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]


def told(event: dict[str, Any]) -> list[Told]:
    """What a strategy is told of a recorded round."""
    return [Told(key, tuple(scores)) for key, scores in event["told"].items()]


@dataclass
class Table:
    """A sweep, taken apart: what every candidate is worth, and what the machine did besides.

    Attributes:
        effect: log score by candidate, the blocks' moods taken out.
        moods: of the blocks, logarithms.
        rest: what neither explains, of every single block, logarithms.
        start_s: what starting each candidate cost, seconds.
        length_s: length of a block, seconds.
        around_s: what a block cost besides, seconds.
        rss_mb: memory by candidate.
        failed: candidates that could not be measured.
        seconds: what the whole sweep cost.
    """

    effect: dict[str, float] = field(default_factory=dict)
    moods: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    start_s: dict[str, float] = field(default_factory=dict)
    length_s: float = 1.0
    around_s: float = 0.1
    rss_mb: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    seconds: float = 0.0

    @property
    def best(self) -> list[str]:
        """Candidates, best first."""
        return sorted(self.effect, key=lambda key: -self.effect[key])

    @property
    def noise(self) -> float:
        """Standard deviation of what a block's score does on its own, robust."""
        return 1.4826 * float(np.median(np.abs(self.rest))) if self.rest else math.nan

    def regret(self, key: str) -> float:
        """How much slower a candidate is than the best of the sweep, as a share."""
        return 1.0 - math.exp(self.effect[key] - self.effect[self.best[0]])


def table(rounds: Iterable[dict[str, Any]]) -> Table:
    """Take a recorded sweep apart."""
    made, scores, block, walls, count = Table(), dict[str, dict[int, float]](), 0, 0.0, 0
    for event in rounds:
        for key, values in event["told"].items():
            kept = {block + i: math.log(value) for i, value in enumerate(values) if value}
            if kept:
                scores.setdefault(key, {}).update(kept)
            elif not values:
                made.failed.add(key)
        for key in event["fresh"]:
            made.start_s[key] = event["ready_s"] / len(event["fresh"])
        made.rss_mb |= event["rss_mb"]
        block += event["blocks"]
        walls, count = walls + event["wall_s"], count + event["blocks"] * len(event["told"])
        made.seconds += event["ready_s"] + event["wall_s"]
    made.around_s = max(0.0, walls / max(1, count) - made.length_s)
    made.effect = polish(scores)[0] if scores else {}
    by_block: dict[int, list[tuple[str, float]]] = {}
    for key, values in scores.items():
        for number, value in values.items():
            by_block.setdefault(number, []).append((key, value - made.effect[key]))
    for pairs in by_block.values():
        mood = float(np.median([value for _, value in pairs]))
        made.moods.append(mood)
        made.rest += [value - mood for _, value in pairs] if len(pairs) > 2 else []
    return made


_READY = Ready(0.0, 0.0, Effective("unknown", 0, 0), (), (), {})


def of(case: Case) -> str:
    """Name in the record of what a case measures: a plan's twin is the plan itself."""
    return replace(case, twin=False).key


class RecordedLab:
    """Stands where a lab would; a round's blocks are drawn from a table, and time passes as it was recorded.

    A block scores the candidate's effect, the mood of some recorded block (the same for all that are measured in it),
    and what some recorded block did on its own. A block shorter than the recorded ones costs less and is noisier, as
    the mean of fewer independent answers is: by the root of the ratio.
    """

    most = 1 << 20

    def __init__(self, table: Table, seed: int) -> None:
        self.table, self.records, self.next_block = table, dict[str, Record](), 0
        self._rng, self._clock_s = random.Random(seed), 0.0

    def now(self) -> float:
        return self._clock_s

    def record(self, case: Case) -> Record:
        return self.records.setdefault(case.key, Record(case))

    def ready(self, plans: Sequence[Any]) -> None:
        """Everything is ready: starts are paid for in the first round."""

    def round(self, cases: Sequence[Case], blocks: int, seconds: float) -> dict[str, Record]:
        rougher = math.sqrt(self.table.length_s / seconds)
        for case in cases:
            record, key = self.record(case), of(case)
            if record.ready is None and not record.failure:
                self._clock_s += self.table.start_s[key]
                record.ready = _READY
                record.failure = "failed when it was recorded" if key in self.table.failed else ""
        able = [self.record(case) for case in cases if not self.record(case).failure]
        for _ in range(blocks):
            mood = self._rng.choice(self.table.moods)
            for record in able:
                key = of(record.case)
                score = math.exp(self.table.effect[key] + mood + rougher * self._rng.choice(self.table.rest))
                rss = self.table.rss_mb[key]
                record.blocks.append(Measured(1, 1.0, score, [1000.0 / score], 0.0, rss))
                record.numbers.append(self.next_block)
                self._clock_s += self.table.around_s + seconds
            self.next_block += 1
        return {case.key: self.record(case) for case in cases}


class RecordedClock:
    """The time budget of a search on a recorded lab."""

    def __init__(self, lab: RecordedLab, budget_s: float) -> None:
        self._lab, self.budget_s = lab, budget_s

    @property
    def spent_s(self) -> float:
        return self._lab.now()

    @property
    def left_s(self) -> float:
        return max(0.0, self.budget_s - self.spent_s)

    def until(self, share: float) -> float:
        return max(0.0, share * self.budget_s - self.spent_s)
