"""Does a candidate win? Its blocks measured next to the best float plan's, until the paired interval decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from whet.optimize.lab import Case, paired
from whet.optimize.stages import case_of, measured_round
from whet.optimize.state import State
from whet.plan import Plan
from whet.stats import Interval, paired_ratio

Outcome = Literal["faster", "slower", "open", "failed"]
FIRST, LEAST, MOST = 2, 4, 10
"""Blocks in which every shape of a candidate takes part; blocks before an interval may decide; blocks at most."""
SHARE = 0.1
"""Share of the budget one race may take, once it has its least blocks."""
SAME = 0.02
"""Gains below this that cannot be told from none are none; so are differences to what rounds less."""


@dataclass(frozen=True, slots=True)
class Race:
    """How a candidate fared against the best float plan.

    Attributes:
        best: the candidate's fastest plan of those raced, or None when none could be measured.
        gain: its throughput over that of the best float plan, paired; above 1 it is faster.
        bf16: throughput of the uncompressed net in bf16 over the candidate's, where both were raced.
        failure: why no plan of the candidate runs, or empty.
    """

    best: Plan | None
    gain: Interval | None
    bf16: Interval | None = None
    failure: str = ""

    @property
    def bf16_suffices(self) -> bool:
        """Whether bf16 without compression is faster, or cannot be told from the candidate: it rounds less."""
        return self.bf16 is not None and self.bf16.value >= 1.0 - SAME and self.bf16.high > 1.0

    @property
    def outcome(self) -> Outcome:
        """What the gain says, see :func:`outcome`; ``open`` too where every block was disturbed by others."""
        return outcome(self.gain) if self.gain is not None or self.failure else "open"

    def __str__(self) -> str:
        if self.gain is None:
            return self.failure or "every block was disturbed by others on the machine"
        return f"{self.gain.value:.2f}x [{self.gain.low:.2f}, {self.gain.high:.2f}] the best float plan"


def outcome(gain: Interval | None) -> Outcome:
    """Return ``faster`` when the whole interval is above 1, ``slower`` when it is not and the gain is next to nothing.

    ``open`` lies between: it seems faster, and the finals, with more blocks, will tell.
    """
    if gain is None:
        return "failed"
    if gain.low > 1.0:
        return "faster"
    return "open" if gain.value >= 1.0 + SAME and gain.high > 1.0 else "slower"


def shapes(plan: Plan, cores: int) -> tuple[Plan, ...]:
    """Return the plan, and the one with the other way to use its cores: a stream a core, or one stream on all."""
    streams = cores if plan.streams == 1 else 1
    other = plan.with_(streams=streams, threads=max(1, plan.compute_threads // streams))
    return tuple({one.id: one for one in (plan, other)}.values())


def race(state: State, reference: Plan, candidates: Sequence[Plan], rival: Plan | None = None) -> Race:
    """Measure ``candidates`` (one product, under several plans) beside ``reference``; only their best goes on.

    Args:
        state: of the search.
        reference: the best float plan.
        candidates: plans of what is judged.
        rival: the uncompressed net in bf16, where that is another way to go.
    """
    start, until = state.lab.next_block, state.clock.spent_s + SHARE * state.clock.budget_s
    base, others = case_of(state, reference), [case_of(state, plan) for plan in candidates]
    beside = [base, *([case_of(state, rival)] if rival is not None else [])]
    for case in (*beside, *others):
        state.stage_of.setdefault(case.key, "algorithm")
    able: list[Case] = []
    for block in range(MOST):  # disturbed blocks do not count: more are measured in their place
        if block >= FIRST and (able or state.clock.spent_s > until):
            break
        measured_round(state, [*beside, *others], 1)
        others = [case for case in others if not state.record(case).failure]
        able = [case for case in others if _pairs(state, case, base, start)]
    if not able:
        failures = [state.record(case_of(state, plan)).failure for plan in candidates]
        return Race(candidates[0], None, failure="" if others else next(iter(filter(None, failures)), ""))
    best = max(able, key=lambda case: _ratio(state, case, base, start).value)
    for block in range(FIRST, MOST):
        if block >= LEAST and (_ratio(state, best, base, start).excludes(1.0) or state.clock.spent_s > until):
            break
        measured_round(state, [*beside, best], 1)
    bf16 = None
    if len(beside) > 1 and _pairs(state, beside[1], best, start):
        bf16 = _ratio(state, beside[1], best, start)
    return Race(best.plan, _ratio(state, best, base, start), bf16)


def _pairs(state: State, a: Case, b: Case, start: int) -> bool:
    return len(paired(state.record(a), state.record(b), since=start)[0]) >= FIRST


def _ratio(state: State, a: Case, b: Case, start: int) -> Interval:
    one, two = paired(state.record(a), state.record(b), since=start)
    return paired_ratio(one, two, seed=state.request.seed)
