"""What finalists hold under load: the highest Poisson rate that meets the latency targets, through the real batcher.

Without a latency target there is nothing to hold; then the chosen plan's tail is measured at a rate it carries.
"""

import time

import numpy as np

from whet.optimize.bracket import RESOLUTION, Bracket
from whet.optimize.lab import Case
from whet.optimize.openloop import Bounds, Run, bounds_of, highest
from whet.optimize.state import State
from whet.optimize.trial_words import Rate
from whet.plan import Plan

SHARE = 0.1
"""Share of the budget for all of it."""
OWN = 0.6
"""Of that, the chosen plan's; its rivals share the rest."""
FIRST, LIMIT = 0.85, 0.98
"""Of the closed loop's rate: where a search begins, and what no open loop can carry for long."""
LOAD = 0.7
"""The same for the tail where no target was given."""
RIVALS = 2
"""Finalists besides the chosen plan."""


def measure(state: State) -> None:
    """Find what the chosen plan and its nearest rivals hold; a rival that holds measurably more is chosen instead."""
    case, bounds = state.chosen, bounds_of(state.request.targets)
    if case is None:
        return
    budget_s = SHARE * state.clock.budget_s
    if not bounds:
        rate = Rate(LOAD * _closed(state, case), max(1.5, min(10.0, budget_s / 2)), state.request.seed)
        state.say("load", f"{rate.qps:.0f} requests/s")
        run = _drive(state, case.plan, rate)
        state.rates[case.plan.id] = {"runs": [run] if run is not None else []}
        return
    best = _bounded(state, case, bounds, 0.0, OWN * budget_s)
    rivals = [one for one in state.contenders if one.plan != case.plan][:RIVALS]
    for one in rivals:
        beat = RESOLUTION * (best or 0.0)
        found = _bounded(state, one, bounds, beat, (1 - OWN) * budget_s / len(rivals))
        if found is not None and found > beat:
            said = f"holds {best:.0f}/s" if best else "was shown to hold no rate"
            state.refuse(
                state.label(state.chosen.plan if state.chosen else case.plan),
                f"{said} within the target, {state.label(one.plan)} holds {found:.0f}/s",
            )
            state.chosen, best = one, found


def _bounded(state: State, case: Case, bounds: Bounds, beat: float, seconds: float) -> float | None:
    """Return the highest rate that ``case`` was shown to hold, requests/s, or None; write down how it was found."""
    closed = _closed(state, case)
    limit = LIMIT * closed
    if limit <= beat:
        return None
    end = time.monotonic() + seconds

    def drive(rate: Rate) -> Run | None:
        state.say("load", f"{state.label(case.plan)} at {rate.qps:.0f} requests/s")
        return _drive(state, case.plan, rate)

    bracket = Bracket(min(limit, max(FIRST * closed, beat)), limit, bounds.allowed, beat)
    runs = highest(bracket, bounds, drive, lambda: end - time.monotonic(), state.request.seed)
    state.rates[case.plan.id] = {
        "runs": runs,
        "highest_qps": bracket.held,
        "promising_qps": bracket.promising,
        "words": bracket.words(),
    }
    return bracket.held


def _closed(state: State, case: Case) -> float:
    return float(np.median([block.throughput_per_s for block in state.record(case).kept]))


def _drive(state: State, plan: Plan, rate: Rate) -> Run | None:
    measured = state.lab.rate(plan, rate)
    if measured is None:
        return None
    return Run(rate.qps, measured.latencies_ms, sum(measured.errors.values()), measured.throughput_per_s)
