"""Where plans are measured against each other: resident trials, and rounds of interleaved blocks in random order."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from whet.engine.environment import environment
from whet.errors import PlanRefused, RuntimeFailed, WhetError
from whet.models.artifact import Artifact
from whet.optimize.noise import Disturbance, Judge, between, snapshot
from whet.optimize.trial import Bench, Trial
from whet.optimize.trial_words import Block, Evaluate, Measured, Rate, Ready, Scored
from whet.plan import Plan


@dataclass(frozen=True, slots=True)
class Case:
    """A plan under a closed loop of its own.

    Attributes:
        plan: knobs.
        callers: requests always in flight.
        rows: samples per request.
        twin: the same case in a second process of its own: what no difference at all looks like.
    """

    plan: Plan
    callers: int
    rows: int = 1
    twin: bool = False

    @property
    def key(self) -> str:
        """Name of the case; the plan's id where the load is the plan's own."""
        own = self.callers == capacity(self.plan, self.rows).callers
        return self.seat if own else f"{self.seat}/{self.callers}x{self.rows}"

    @property
    def seat(self) -> str:
        """Name of the process that measures it: cases of one plan share one, a twin has its own."""
        return f"{self.plan.id}/twin" if self.twin else self.plan.id


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
        refused: the failure was the runtime's refusal of the plan, or of the targets.
        over: how many times the bound of a target it takes, where that is the failure; else 0.
    """

    case: Case
    blocks: list[Measured | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    counters: list[Disturbance] = field(default_factory=list)
    ready: Ready | None = None
    failure: str = ""
    refused: bool = False
    over: float = 0.0

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
        narrow: give each trial only as many cores as its plan computes on, so that fewer cores really are fewer.
        note: told of everything that happened, as (kind, document).
        pools: samples of artifacts that take others than ``pool``, by sha256.
        judge: decides which blocks count.
        records: by key.
        now: the clock that what is measured here costs time on, seconds.
        measuring_cpu_s: CPU seconds the measuring process itself used while blocks ran.
    """

    bench: Bench
    pool: Path
    artifacts: dict[str, Artifact]
    cores: int
    rng: random.Random
    most: int = 12
    narrow: bool = False
    note: Callable[[str, dict[str, Any]], None] = _unheard
    pools: dict[str, Path] = field(default_factory=dict)
    judge: Judge = field(default_factory=Judge)
    records: dict[str, Record] = field(default_factory=dict)
    now: Callable[[], float] = time.monotonic
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
        self._seat({plan.id: plan for plan in plans})

    def _seat(self, seats: Mapping[str, Plan]) -> None:
        wanted = {seat: plan for seat, plan in seats.items() if seat not in self._trials and seat not in self._failed}
        self._make_room(len(wanted), seats)
        waiting = list(wanted.items())
        for start in range(0, len(waiting), self.cores):
            started = [(seat, self._start(seat, plan)) for seat, plan in waiting[start : start + self.cores]]
            for seat, trial in started:
                self._settle(seat, trial)

    def _start(self, seat: str, plan: Plan) -> Trial | None:
        try:
            folder = self.artifacts[plan.artifact].folder
            pool = self.pools.get(plan.artifact, self.pool)
            return Trial(folder, plan, pool, self._bench(plan), environment(plan))
        except WhetError as error:
            self._fail(seat, error)
            return None

    def _bench(self, plan: Plan) -> Bench:
        if not self.narrow or plan.option("defaults"):  # a library's defaults take what they find
            return self.bench
        return replace(self.bench, cpus=self.bench.cpus[: plan.compute_threads])

    def _settle(self, seat: str, trial: Trial | None) -> None:
        if trial is None:
            return
        try:
            ready = trial.wait_ready()
        except WhetError as error:
            self._fail(seat, error)
            return
        except BaseException:
            trial.close()
            raise
        self._trials[seat] = trial
        self.note("ready", {"artifact": trial.plan.artifact, "plan": seat, "ready": ready})

    def _fail(self, seat: str, error: WhetError) -> None:
        self._failed[seat] = error
        gone = self._trials.pop(seat, None)
        if gone is not None:
            gone.close()
        self.note("failed", {"plan": seat, "slug": error.slug, "reason": str(error)})

    def _make_room(self, wanted: int, keep: Mapping[str, Plan]) -> None:
        """End the trials that were used longest ago; those of the round at hand stay."""
        spare = [seat for seat in self._trials if seat not in keep]
        for seat in spare[: max(0, len(self._trials) + wanted - self.most)]:
            self._trials.pop(seat).close()

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
        self._seat({case.seat: case.plan for case in cases})
        for case in cases:
            if case.seat in self._trials:  # used last: goes last
                self._trials[case.seat] = self._trials.pop(case.seat)
        for _ in range(blocks):
            for case in self.rng.sample(list(cases), len(cases)):
                self._measure(case, self.next_block, seconds)
            self.next_block += 1
        return {case.key: self._close_record(case) for case in cases}

    def _close_record(self, case: Case) -> Record:
        record = self.record(case)
        trial = self._trials.get(case.seat)
        if trial is not None:
            record.ready = trial.ready
        error = self._failed.get(case.seat)
        if error is not None:
            record.failure, record.refused = str(error), isinstance(error, PlanRefused)
        return record

    def _measure(self, case: Case, number: int, seconds: float) -> None:
        """Measure one block; once more where the machine was disturbed, and that one counts."""
        record = self.record(case)
        for repeat in (False, True):
            trial = self._trials.get(case.seat)
            if trial is None:
                return
            measured, happened = self._watched(case.seat, trial, Block(seconds, case.callers, case.rows))
            if measured is None:
                return
            kept = self.judge.keeps(happened, repeat=repeat)
            record.blocks.append(measured if kept else None)
            record.numbers.append(number)
            record.counters.append(happened)
            self.note(
                "block",
                {
                    "case": case.key,
                    "artifact": case.plan.artifact,
                    "plan": case.plan.id,
                    "number": number,
                    "kept": kept,
                    "measured": measured,
                    "counters": asdict(happened),
                },
            )
            if kept:
                return

    def _watched(self, seat: str, trial: Trial, command: Block | Rate) -> tuple[Measured | None, Disturbance]:
        before, cpu = snapshot(), time.process_time()
        measured = None
        try:
            measured = trial.measure(command)
            if not measured.rows:
                slugs = ", ".join(f"{slug} x{count}" for slug, count in measured.errors.items())
                raise RuntimeFailed(f"answered nothing in {command.seconds:g} s ({slugs or 'too slow'})")
        except WhetError as error:
            self._fail(seat, error)
            measured = None
        happened = between(before, snapshot(), self.cores)
        self.measuring_cpu_s += time.process_time() - cpu
        self.measuring_wall_s += happened.wall_s
        return measured, happened

    def rate(self, plan: Plan, command: Rate) -> Measured | None:
        """Drive one plan in an open loop, once more where the machine was disturbed; None when it failed."""
        self.ready([plan])
        for repeat in (False, True):
            trial = self._trials.get(plan.id)
            if trial is None:
                return None
            measured, happened = self._watched(plan.id, trial, command)
            if measured is None:
                return None
            if self.judge.keeps(happened, repeat=repeat):
                break
        self.note(
            "rate", {"artifact": plan.artifact, "plan": plan.id, "qps": command.qps, "counters": asdict(happened)}
        )
        return measured

    def evaluate(self, plan: Plan, command: Evaluate, timeout_s: float) -> Scored:
        """Compute and score a pool under one plan.

        Raises:
            WhetError: the plan cannot be opened, or the evaluation failed.
        """
        self.ready([plan])
        if plan.id in self._failed:
            raise self._failed[plan.id]
        trial = self._trials[plan.id]
        try:
            return trial.evaluate(command, timeout_s)
        except WhetError:  # the process is gone; the plan itself may be measured again
            self._trials.pop(plan.id).close()
            raise

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


Value = Callable[[Measured], float]


def throughput(block: Measured) -> float:
    """Return samples a second of a block."""
    return block.throughput_per_s


def paired(
    a: Record, b: Record, since: int | None = None, values: tuple[Value, Value] = (throughput, throughput)
) -> tuple[list[float], list[float]]:
    """Return values of two cases in the blocks both took part in, in order; from block ``since`` on.

    Args:
        a: one case.
        b: the other.
        since: number of the first block, or None for all.
        values: what to take of a block of ``a`` and of ``b``; throughput unless said otherwise.
    """
    one, two = _by_number(a, values[0]), _by_number(b, values[1])
    both = sorted(number for number in one.keys() & two.keys() if since is None or number >= since)
    return [one[number] for number in both], [two[number] for number in both]


def _by_number(record: Record, value: Value) -> Mapping[int, float]:
    pairs = zip(record.numbers, record.blocks, strict=True)
    return {number: value(block) for number, block in pairs if block is not None}
