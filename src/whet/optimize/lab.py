"""Where plans are measured against each other: resident trials, and rounds of interleaved blocks in random order."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whet.engine.environment import environment
from whet.errors import PlanRefused, RuntimeFailed, WhetError
from whet.models.artifact import Artifact
from whet.optimize.noise import Disturbance, Judge, between, snapshot
from whet.optimize.trial import Bench, Trial
from whet.optimize.trial_words import Block, Evaluate, Measured, Rate, Ready, Scored
from whet.plan import Plan

LEAST_REPEATS = 1
"""How often a discarded block is repeated before the round goes on without it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A plan under a closed loop of its own.

    Attributes:
        plan: knobs.
        callers: requests always in flight.
        rows: samples per request.
    """

    plan: Plan
    callers: int
    rows: int = 1

    @property
    def key(self) -> str:
        """Name of the case; the plan's id where the load is the plan's own."""
        return self.plan.id if self == capacity(self.plan, self.rows) else f"{self.plan.id}/{self.callers}x{self.rows}"


def capacity(plan: Plan, rows: int = 1) -> Case:
    """Return the case that shows what a plan can carry: every lane has a batch to compute and one that waits."""
    batch = max(1, plan.max_batch // rows)
    return Case(plan, callers=2 * plan.streams * batch, rows=rows)


@dataclass(slots=True)
class Record:
    """Everything measured of one case.

    Attributes:
        case: what.
        blocks: one entry a block in which it took part; None where the block was discarded.
        numbers: the blocks' numbers, the same for cases measured next to each other.
        counters: what happened on the machine meanwhile.
        ready: what the trial said when it was open, or None.
        failure: why there is no more, or empty.
        refused: the failure was the runtime's refusal of the plan.
    """

    case: Case
    blocks: list[Measured | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    counters: list[Disturbance] = field(default_factory=list)
    ready: Ready | None = None
    failure: str = ""
    refused: bool = False

    @property
    def kept(self) -> list[Measured]:
        """Blocks that count."""
        return [block for block in self.blocks if block is not None]

    @property
    def discarded(self) -> int:
        """Blocks that do not count."""
        return len(self.blocks) - len(self.kept)

    @property
    def latencies_ms(self) -> list[float]:
        """Raw latencies of the blocks that count."""
        return [value for block in self.kept for value in block.latencies_ms]


def _unheard(kind: str, document: dict[str, Any]) -> None:
    """Tell nobody."""
    del kind, document


@dataclass(slots=True)
class Lab:
    """Resident trials and what was measured.

    Attributes:
        bench: where trials run.
        pool: folder of the samples to measure with.
        artifacts: by sha256.
        cores: the cpu budget.
        rng: draws the order of blocks.
        most: trials kept resident at most.
        note: told of everything that happened, as (kind, document).
        pools: samples of artifacts that take others than ``pool``, by sha256.
        judge: decides which blocks count.
        records: by key.
        measuring_cpu_s: CPU seconds the measuring process itself used while blocks ran.
    """

    bench: Bench
    pool: Path
    artifacts: dict[str, Artifact]
    cores: int
    rng: random.Random
    most: int = 12
    note: Callable[[str, dict[str, Any]], None] = _unheard
    pools: dict[str, Path] = field(default_factory=dict)
    judge: Judge = field(default_factory=Judge)
    records: dict[str, Record] = field(default_factory=dict)
    measuring_cpu_s: float = 0.0
    measuring_wall_s: float = 0.0
    _trials: dict[str, Trial] = field(default_factory=dict)
    _failed: dict[str, WhetError] = field(default_factory=dict)
    next_block: int = 0

    def record(self, case: Case) -> Record:
        """Return the record of a case, an empty one at first."""
        return self.records.setdefault(case.key, Record(case))

    def ready(self, plans: Sequence[Plan]) -> None:
        """Start the trials of ``plans`` that are not running, as many at once as there are cores.

        A plan that cannot be opened is a recorded failure, no error.
        """
        wanted = [plan for plan in {plan.id: plan for plan in plans}.values() if not self._known(plan)]
        self._make_room(len(wanted), {plan.id for plan in plans})
        for start in range(0, len(wanted), self.cores):
            group = wanted[start : start + self.cores]
            started = [(plan, self._start(plan)) for plan in group]
            for plan, trial in started:
                self._settle(plan, trial)

    def _known(self, plan: Plan) -> bool:
        return plan.id in self._trials or plan.id in self._failed

    def _start(self, plan: Plan) -> Trial | None:
        try:
            folder = self.artifacts[plan.artifact].folder
            pool = self.pools.get(plan.artifact, self.pool)
            return Trial(folder, plan, pool, self.bench, environment(plan))
        except WhetError as error:
            self._fail(plan, error)
            return None

    def _settle(self, plan: Plan, trial: Trial | None) -> None:
        if trial is None:
            return
        try:
            ready = trial.wait_ready()
        except WhetError as error:
            self._fail(plan, error)
            return
        except BaseException:
            trial.close()
            raise
        self._trials[plan.id] = trial
        self.note("ready", {"plan": plan.id, "load_ms": ready.load_ms, "rss_mb": ready.rss_mb})

    def _fail(self, plan: Plan, error: WhetError) -> None:
        self._failed[plan.id] = error
        gone = self._trials.pop(plan.id, None)
        if gone is not None:
            gone.close()
        self.note("failed", {"plan": plan.id, "slug": error.slug, "reason": str(error)})

    def _make_room(self, wanted: int, keep: set[str]) -> None:
        """End the trials that were used longest ago; those of the round at hand stay."""
        spare = [key for key in self._trials if key not in keep]
        for key in spare[: max(0, len(self._trials) + wanted - self.most)]:
            self._trials.pop(key).close()

    def retire(self, keep: Sequence[Plan]) -> None:
        """End every trial but those of ``keep``."""
        kept = {plan.id for plan in keep}
        for key in [key for key in self._trials if key not in kept]:
            self._trials.pop(key).close()

    def round(self, cases: Sequence[Case], blocks: int, seconds: float) -> dict[str, Record]:
        """Measure ``cases`` in ``blocks`` blocks each, next to each other, in random order.

        Returns:
            The records of the cases; those that failed say why.
        """
        self.ready([case.plan for case in cases])
        for case in cases:
            if case.plan.id in self._trials:  # used last: goes last
                self._trials[case.plan.id] = self._trials.pop(case.plan.id)
        for _ in range(blocks):
            for case in self.rng.sample(list(cases), len(cases)):
                self._measure(case, self.next_block, seconds)
            self.next_block += 1
        return {case.key: self._close_record(case) for case in cases}

    def _close_record(self, case: Case) -> Record:
        record = self.record(case)
        trial = self._trials.get(case.plan.id)
        if trial is not None:
            record.ready = trial.ready
        error = self._failed.get(case.plan.id)
        if error is not None:
            record.failure, record.refused = str(error), isinstance(error, PlanRefused)
        return record

    def _measure(self, case: Case, number: int, seconds: float) -> None:
        record = self.record(case)
        for _ in range(1 + LEAST_REPEATS):
            trial = self._trials.get(case.plan.id)
            if trial is None:
                return
            measured, happened = self._watched(trial, Block(seconds, case.callers, case.rows))
            if measured is None:
                return
            kept = self.judge.keeps(happened)
            record.blocks.append(measured if kept else None)
            record.numbers.append(number)
            record.counters.append(happened)
            self.note(
                "block",
                {
                    "case": case.key,
                    "plan": case.plan.id,
                    "number": number,
                    "kept": kept,
                    "measured": measured,
                    "counters": asdict(happened),
                },
            )
            if kept:
                return

    def _watched(self, trial: Trial, command: Block | Rate) -> tuple[Measured | None, Disturbance]:
        before, cpu = snapshot(), time.process_time()
        measured = None
        try:
            measured = trial.measure(command)
            if not measured.rows:
                slugs = ", ".join(f"{slug} x{count}" for slug, count in measured.errors.items())
                raise RuntimeFailed(f"answered nothing in {command.seconds:g} s ({slugs or 'too slow'})")
        except WhetError as error:
            self._fail(trial.plan, error)
            measured = None
        happened = between(before, snapshot(), self.cores)
        self.measuring_cpu_s += time.process_time() - cpu
        self.measuring_wall_s += happened.wall_s
        return measured, happened

    def rate(self, plan: Plan, command: Rate) -> Measured | None:
        """Drive one plan in an open loop; None when it failed, or the block was disturbed twice."""
        self.ready([plan])
        for _ in range(1 + LEAST_REPEATS):
            trial = self._trials.get(plan.id)
            if trial is None:
                return None
            measured, happened = self._watched(trial, command)
            if measured is None:
                return None
            if self.judge.keeps(happened):
                break
        self.note("rate", {"plan": plan.id, "qps": command.qps, "counters": asdict(happened)})
        return measured

    def evaluate(self, plan: Plan, command: Evaluate, timeout_s: float) -> Scored:
        """Compute and score a pool under one plan.

        Raises:
            WhetError: the plan cannot be opened, or the evaluation failed.
        """
        self.ready([plan])
        if plan.id in self._failed:
            raise self._failed[plan.id]
        return self._trials[plan.id].evaluate(command, timeout_s)

    def outputs(self, plan: Plan) -> Ready | None:
        """Return what a resident trial said when it was ready."""
        trial = self._trials.get(plan.id)
        return trial.ready if trial is not None else None

    def failure(self, plan: Plan) -> str:
        """Return why a plan cannot be measured, or the empty string."""
        error = self._failed.get(plan.id)
        return str(error) if error is not None else ""

    def close(self) -> None:
        """End every trial."""
        for trial in self._trials.values():
            with suppress(Exception):
                trial.close()
        self._trials.clear()


def paired(a: Record, b: Record, since: int | None = None) -> tuple[list[float], list[float]]:
    """Return throughputs of two cases in the blocks both took part in, in order; from block ``since`` on."""
    one, two = _by_number(a), _by_number(b)
    both = sorted(number for number in one.keys() & two.keys() if since is None or number >= since)
    return [one[number] for number in both], [two[number] for number in both]


def _by_number(record: Record) -> Mapping[int, float]:
    return {
        number: block.throughput_per_s
        for number, block in zip(record.numbers, record.blocks, strict=True)
        if block is not None
    }
