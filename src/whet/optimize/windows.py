"""A batch window is judged where it shows: in an open loop, at one rate, with and without it next to each other.

In a closed loop requests always wait and batches are full, so windows cannot be told apart there. What a window may
gain is fuller batches; what it costs is waiting. Without a latency target neither is asked for.
"""

import numpy as np

from whet.optimize.finals import finalists
from whet.optimize.stages import case_of
from whet.optimize.state import State
from whet.optimize.trial_words import Rate
from whet.plan import Plan
from whet.stats import Interval, paired_ratio

LOAD = 0.7
"""The rate, as a share of the capacity in the closed loop: batches form, and the queue does not grow."""
ROUNDS = 4
SHARE, LEAST_S = 0.05, 0.3
"""Share of the budget for all of it; seconds a single open loop takes at least."""


def propose(state: State) -> None:
    """Let the incumbent's plan with a window take part in the finals, where a window may help at all."""
    targets, best = state.request.targets, finalists(state)
    if not best or best[0].plan.max_batch == 1:
        return
    windowed = _windowed(state, best[0].plan)
    if not windowed:
        return  # the space says why
    if targets.p99_ms is None and targets.p50_ms is None:
        state.refuse("batch window", "it trades waiting for fuller batches, and no latency target says how much")
        return
    state.windowed = case_of(state, windowed[0])


def settle(state: State) -> None:
    """Choose the chosen plan's window: drive it with and without in an open loop, with the same arrivals in turn."""
    with_window, chosen = state.windowed, state.chosen
    if with_window is None or chosen is None or with_window.plan.with_(batch_window_ms=0.0) != chosen.plan:
        return
    speeds = [block.throughput_per_s for block in state.record(chosen).kept]
    rate, plan = LOAD * float(np.median(speeds)), with_window.plan
    said = f"{plan.batch_window_ms:g} ms against none at {rate:.0f} requests/s"
    if state.clock.left_s <= 0:
        state.refuse("batch window", f"{said}: the time was spent; raise --budget")
        return
    state.say("window", said)
    found = compare(state, plan, chosen.plan, rate)
    if found is None:
        state.refuse("batch window", f"{said}: could not be measured")
        return
    words = f"{said}: tail {found.value:.2f}x [{found.low:.2f}, {found.high:.2f}]"
    state.journal.add("window", {"words": words}, artifact=plan.artifact, plan=plan.id)
    if found.high < 1.0:
        state.chosen = with_window
    else:
        state.refuse("batch window", f"{words}, not measurably shorter")


def compare(state: State, one: Plan, other: Plan, rate: float) -> Interval | None:
    """Return the paired ratio of two plans' tails (medians under a p50 target alone); below 1 the first is faster."""
    share = 99 if state.request.targets.p99_ms is not None else 50
    seconds = max(LEAST_S, SHARE * state.clock.budget_s / (2 * ROUNDS))
    tails: dict[str, list[float]] = {one.id: [], other.id: []}
    for number in range(ROUNDS):
        pair = (one, other) if number % 2 else (other, one)
        for plan in pair:
            measured = state.lab.rate(plan, Rate(rate, seconds, state.request.seed + number))
            if measured is None or not measured.latencies_ms:
                return None
            tails[plan.id].append(float(np.percentile(measured.latencies_ms, share)))
    return paired_ratio(tails[one.id], tails[other.id], seed=state.request.seed)


def _windowed(state: State, plan: Plan) -> list[Plan]:
    """Return the legal plans that differ from ``plan`` in the window alone."""
    longer = (one for one in state.space.plans if one.batch_window_ms > plan.batch_window_ms)
    return [one for one in longer if one.with_(batch_window_ms=plan.batch_window_ms) == plan]
