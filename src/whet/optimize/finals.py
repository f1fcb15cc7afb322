"""The end of a search: finalists, levels and baselines measured together, the choice, and what it holds under load."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from whet.optimize import capacity, reference, served
from whet.optimize.lab import Case, Record, paired
from whet.optimize.space import simplicity
from whet.optimize.stages import measured_round, score
from whet.optimize.state import State
from whet.plan import Plan
from whet.stats import Interval, paired_ratio

FINALISTS = 3
LEAST_BLOCKS = 4
MOST_BLOCKS = 12
SAME = 0.02
"""Two plans whose ratio's interval holds 1, and whose ratio is this near to 1, are the same to us: the simpler wins."""
ENOUGH_PAIRS = 8
"""Pairs in which one disturbed block no longer decides whether a compressed plan is faster."""


def hold(state: State) -> None:
    """Measure baselines, the best of each level and the finalists together, interleaved; then choose."""
    lab = state.lab
    state.finalists = finalists(state)
    cases: dict[str, Case] = {}
    for baseline in state.baselines:
        if baseline.best is not None:
            cases.setdefault(baseline.best.key, baseline.best)
    for case in (*state.levels.values(), *state.finalists):
        cases.setdefault(case.key, case)
    if not state.finalists:
        return
    twin = replace(state.finalists[0], twin=True)  # the incumbent against itself
    extra = [one for one in (twin, state.windowed) if one is not None]
    for case in extra:
        cases.setdefault(case.key, case)
    lab.most = max(lab.most, len(cases))
    state.finals_from = lab.next_block
    budget_s = state.clock.budget_s
    reserve = capacity.SHARE * budget_s + reference.reserve_s(budget_s) + served.reserve_s(budget_s)
    blocks, together = 0, list(cases.values())
    lab.ready([case.plan for case in together])
    while blocks < MOST_BLOCKS and (blocks < LEAST_BLOCKS or state.clock.left_s > reserve):
        state.say("finals", f"block {blocks + 1} of {len(cases)} plans measured together")
        measured_round(state, together, 1)
        blocks += 1
    _settle_doubts(state, ENOUGH_PAIRS - blocks)
    state.finalists = list({case.key: case for case in (*state.finalists, *state.levels.values())}.values())
    state.contenders = shippable(state, state.finalists)
    state.chosen = choose(state, state.contenders)


def _settle_doubts(state: State, rounds: int) -> None:
    """Measure compressed plans that look faster on, beside the best unrounded one alone, while they are in doubt.

    An interval over a few pairs is as wide as its worst pair: one disturbed block would refuse a plan three times as
    fast. These few rounds are taken whatever the time, since all before them was for this answer.
    """
    exact = max(
        (case for case in state.finalists if _exact(state, case.plan)), key=partial(_median, state), default=None
    )
    for number in range(rounds if exact is not None else 0):
        assert exact is not None
        rounded = [case for case in state.finalists if not _exact(state, case.plan)]
        doubtful = [case for case in rounded if _in_doubt(ahead(state, case, exact))]
        if not doubtful:
            return
        state.say("finals", f"{len(doubtful)} compressed in doubt, block {number + 1} of {rounds} more at most")
        measured_round(state, [exact, *doubtful], 1)


def _in_doubt(ratio: Interval | None) -> bool:
    return ratio is not None and ratio.low <= 1.0 < ratio.value


def finalists(state: State) -> list[Case]:
    """Return the best few of the search, and the best unrounded one: a compressed plan has to beat it here."""
    ranking = state.strategy.ranking()
    cases = [state.lab.records[one.key].case for one in ranking]
    exact = next((case for case in cases if _exact(state, case.plan)), None)
    best = cases[:FINALISTS]
    return best + ([exact] if exact is not None and exact not in best else [])


def _exact(state: State, plan: Plan) -> bool:
    """Tell whether a plan computes the user's own net in f32: as imported, or by the framework that made it."""
    own = {state.artifact.sha256, *(one.artifact for one in state.variants if one.native)}
    return plan.artifact in own and plan.precision == "f32"


def shippable(state: State, cases: Sequence[Case]) -> list[Case]:
    """Return the finalists that may be chosen, best first.

    A compressed plan that is not measurably faster than the best unrounded one is refused here.
    """
    able = [case for case in cases if _usable(state, case)]
    middle = {case.key: _median(state, case) for case in able}
    able.sort(key=lambda case: -middle[case.key])
    exact = next((case for case in able if _exact(state, case.plan)), None)
    if exact is not None:
        for case in [one for one in able if not _exact(state, one.plan)]:
            ratio = ahead(state, case, exact)
            if ratio is not None and ratio.low <= 1.0:
                said = f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
                state.refuse(state.label(case.plan), f"not measurably faster than the best f32 plan: {said}")
                able.remove(case)
    return able


def choose(state: State, able: Sequence[Case]) -> Case | None:
    """Return the best of what may be chosen, best first; among those that cannot be told from it, the simplest."""
    if not able:
        return None
    best = able[0]
    for case in sorted(able, key=lambda one: (_rss(state, one) > 1.1 * _rss(state, best), simplicity(one.plan))):
        if case is best:
            return best
        ratio = ahead(state, case, best)
        if ratio is not None and ratio.value >= 1 - SAME and not ratio.excludes(1.0):
            state.refuse(
                state.label(best.plan), f"cannot be told apart from {state.label(case.plan)} here; the simpler wins"
            )
            return case
    return best


def best_so_far(state: State) -> Case | None:
    """Return the best case of an unfinished search that may ship: no finals were held, so the ranking decides."""
    for one in state.strategy.ranking():
        record = state.lab.records[one.key]
        if (
            record.kept
            and not record.failure
            and (record.case.plan.artifact, record.case.plan.precision) in state.allowed
        ):
            return record.case
    return None


def _usable(state: State, case: Case) -> bool:
    record = state.record(case)
    return bool(not record.failure and _numbers(record, state.finals_from) and _median(state, case) > 0)


def _numbers(record: Record, since: int | None) -> list[int]:
    return [
        number
        for number, block in zip(record.numbers, record.blocks, strict=True)
        if block is not None and (since is None or number >= since)
    ]


def _median(state: State, case: Case) -> float:
    record = state.record(case)
    values = [
        score(state, case.plan, block)
        for number, block in zip(record.numbers, record.blocks, strict=True)
        if block is not None and (state.finals_from is None or number >= state.finals_from)
    ]
    return float(np.median(values)) if values else 0.0


def _rss(state: State, case: Case) -> float:
    return max((block.rss_mb for block in state.record(case).kept), default=0.0)


def compare(state: State, a: Case, b: Case) -> Interval | None:
    """Return the paired ratio of throughputs of two cases in the finals, or None with fewer than two pairs."""
    one, two = paired(state.record(a), state.record(b), since=state.finals_from)
    return paired_ratio(one, two, seed=state.request.seed) if len(one) >= 2 else None


def ahead(state: State, a: Case, b: Case) -> Interval | None:
    """Return the same of their scores: of two that carry the load, the one on fewer cores is ahead, say."""
    values = partial(score, state, a.plan), partial(score, state, b.plan)
    one, two = paired(state.record(a), state.record(b), since=state.finals_from, values=values)
    if len(one) < 2 or not all(one) or not all(two):
        return None
    return paired_ratio(one, two, seed=state.request.seed)


def under_load(state: State) -> dict[str, Any]:
    """Return what is known of the chosen plan under load: over HTTP where that was measured, else in process.

    ``highest_qps`` is the highest rate that was shown to hold the latency target, ``promising_qps`` the highest that
    looked like it, in requests/s; absent without a target, None where there was no such rate.
    """
    if state.chosen is None:
        return {}
    over_http = state.served if state.served is not None and "promising_qps" in state.served else None
    return over_http or state.rates.get(state.chosen.plan.id, {})


def highest_qps(state: State) -> float | None:
    """Return the highest rate the chosen plan was shown to hold, in requests/s."""
    found: float | None = under_load(state).get("highest_qps")
    return found


def missed(state: State) -> list[str]:
    """Return what the chosen plan misses of the targets, each in words with what would have to give."""
    case, targets = state.chosen, state.request.targets
    if case is None:
        return ["no plan could be measured"]
    record, found = state.record(case), list[str]()
    load = under_load(state)
    closed = float(np.median([block.throughput_per_s for block in record.kept]))
    carried = load.get("highest_qps") or load.get("promising_qps") or closed
    if "promising_qps" in load and load["promising_qps"] is None:
        wanted = f"p99 {targets.p99_ms:g} ms" if targets.p99_ms is not None else f"p50 {targets.p50_ms:g} ms"
        found.append(f"{wanted} is not held: {load['words']}")
    if targets.min_qps is not None and carried < targets.min_qps:
        factor = targets.min_qps / carried
        found.append(
            f"carries {carried:.0f}/s of {targets.min_qps:g}/s wanted; {factor:.1f}x the cores would be needed"
        )
    if record.over:
        found.append(f"{record.failure}; no plan takes less")
    if targets.min_accuracy is not None:
        own = state.verdicts.get((case.plan.artifact, case.plan.precision))
        parent = next(iter(state.verdicts.values()), None)
        value = own.value if own is not None else parent.parent if parent is not None else None
        if value is None or value < targets.min_accuracy:
            said = "unknown without data" if value is None else f"{value:.4f}"
            found.append(
                f"accuracy is {said}, --min-accuracy is {targets.min_accuracy:g}; the model would have to be better"
            )
    return found
