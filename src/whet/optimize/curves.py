"""How the chosen plan scales: the same in other streams, batches and on fewer cores, measured beside it at the end.

The search itself measures only what may win, which leaves the report's curves nearly empty. These few plans are no
candidates any more: they show what each choice was worth.
"""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import replace

from whet.optimize import profile
from whet.optimize.space import LADDERS
from whet.optimize.stages import OVERHEAD_S, case_of, measured_round
from whet.optimize.state import State
from whet.plan import Plan

BLOCKS = 3
"""Blocks of each plan: paired intervals over three are wide, and show the shape of a curve."""
SHARE = 0.08
"""Share of the budget for all of it."""
LEAST = 3
"""Plans that are measured even when the time was spent, where the budget is one that shows layers and peaks too."""
LATE = 1.1
"""A search that took longer than so many budgets, on a disturbed machine, ends without curves."""
INTERPRETER_S = 0.4
"""A trial's start before it loads the model, about."""


def measure(state: State, later_s: float) -> None:
    """Measure the chosen plan's neighbours together with it, as many as the time left holds.

    Args:
        state: of the search, which has chosen.
        later_s: seconds of the budget to leave to those who come after.
    """
    chosen = state.chosen
    if chosen is None or state.record(chosen).failure:
        return
    budget = state.clock.budget_s
    left = state.clock.left_s - later_s
    starts = [one.ready.load_ms / 1e3 for one in state.lab.records.values() if one.ready is not None]
    start_s = INTERPRETER_S + (statistics.median(starts) if starts else 0.0)
    count = affordable(min(left, SHARE * budget), state.block_s + OVERHEAD_S, start_s)
    due = budget >= profile.FROM_BUDGET_S and state.clock.spent_s < LATE * budget
    count = max(count, LEAST if due else 0)
    batched = state.artifact.batched
    around = [case_of(state, plan) for plan in itertools.islice(neighbours(chosen.plan, batched=batched), count)]
    if not around:
        state.refuse("curves over cores and batch", "the budget was spent: give a longer --budget to see them")
        return
    cases = list({case.key: case for case in (chosen, *around)}.values())
    state.lab.most = max(state.lab.most, len(cases))
    for number in range(BLOCKS):
        state.say("curves", f"block {number + 1} of {BLOCKS}: {len(around)} plans around the chosen one")
        measured_round(state, cases, 1)
    for case in around:
        state.stage_of.setdefault(case.key, "curves")


def affordable(seconds: float, block_s: float, start_s: float) -> int:
    """Return how many neighbours can be started and measured beside the chosen plan in ``seconds``. Pure."""
    return max(0, int((seconds - BLOCKS * block_s) / (start_s + BLOCKS * block_s)))


def neighbours(plan: Plan, *, batched: bool) -> Iterator[Plan]:
    """Yield plans that differ from ``plan`` in its streams, its cores or its batch alone, what tells most first. Pure.

    Args:
        plan: the chosen one.
        batched: the model can take batches.
    """
    cores = plan.compute_threads
    shapes = [(1, cores), *_fewer(plan), (cores, 1)]
    sizes = (8, 2, 4, 1, 16) if batched else ()
    shaped = (_shaped(plan, streams, threads) for streams, threads in shapes)
    laddered = (_laddered(plan, size) for size in sizes if size != plan.max_batch)
    seen = {plan.id}
    for one in itertools.chain.from_iterable(itertools.zip_longest(shaped, laddered)):
        if one is not None and one.id not in seen:
            seen.add(one.id)
            yield one


def _fewer(plan: Plan) -> Iterator[tuple[int, int]]:
    """Yield (streams, threads) on half of the plan's cores, a quarter and so on."""
    half = plan.compute_threads // 2
    while half:
        yield (half // plan.threads, plan.threads) if half >= plan.threads else (1, half)
        half //= 2


def _shaped(plan: Plan, streams: int, threads: int) -> Plan:
    pinned = plan.pinning and streams * threads == plan.compute_threads  # pins on a part of the cores only hold back
    openmp = None if plan.openmp is None else replace(plan.openmp, threads=threads)
    return plan.with_(streams=streams, threads=threads, pinning=pinned, openmp=openmp)


def _laddered(plan: Plan, size: int) -> Plan:
    return plan.with_(batch_sizes=LADDERS[size], queue_bound=max(plan.queue_bound, 16 * size))
