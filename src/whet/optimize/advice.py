"""What each choice was worth: the chosen plan against measured plans that differ from it in one axis."""

import math
from collections.abc import Iterator
from typing import Any

from whet.optimize.lab import Case, Record, paired
from whet.optimize.state import State
from whet.optimize.values import ends
from whet.stats import Interval, paired_ratio

AXES = (
    ("streams x threads", lambda plan: (plan.streams, plan.threads), ("streams", "threads", "pinning", "openmp")),
    ("batch", lambda plan: plan.max_batch, ("batch_sizes", "queue_bound")),
    ("runtime", lambda plan: plan.runtime, ("runtime", "options")),
    ("weights and precision", lambda plan: (plan.artifact, plan.precision), ("artifact", "precision")),
    ("pinning", lambda plan: plan.pinning, ("pinning",)),
    ("preprocessing in the graph", lambda plan: plan.fused_preprocessing, ("fused_preprocessing",)),
    ("instruction set", lambda plan: plan.isa_ceiling, ("isa_ceiling",)),
    ("one dynamic compilation", lambda plan: plan.dynamic_batch, ("dynamic_batch",)),
)
PAIRS = 2
"""Pairs from which on a paired interval exists."""


def advice(state: State) -> list[dict[str, Any]]:
    """Return what each choice was worth: the chosen plan against the best measured plan that differs in this one axis.

    The words tell the paired ratio where the two were measured in the same blocks, else that of the search's model.
    """
    if state.chosen is None:
        return []
    found = []
    for name, value, fields in AXES:
        rivals = list(_rivals(state, value, fields))
        direct = [(one, pairs) for one in rivals if (pairs := _direct(state, one)) is not None]
        if direct:
            record, interval = min(direct, key=lambda each: each[1].value)
            found.append(_row(state, name, record.case, interval.value, interval))
        elif scored := [(one, ratio) for one in rivals if (ratio := _scored(state, one)) is not None]:
            record, estimate = min(scored, key=lambda each: each[1])
            found.append(_row(state, name, record.case, estimate, None))
    return found


def _rivals(state: State, value: Any, fields: tuple[str, ...]) -> Iterator[Record]:
    """Yield records of plans that differ from the chosen one in one axis, under the load it is measured in."""
    assert state.chosen is not None
    chosen = state.chosen.plan
    for key, record in state.lab.records.items():
        plan = record.case.plan
        searched = key in state.stage_of and not record.case.twin and record.kept and not record.failure
        if not searched or value(plan) == value(chosen):
            continue
        if chosen.with_(**{field: getattr(plan, field) for field in fields}) == plan:
            yield record


def _direct(state: State, record: Record) -> Interval | None:
    assert state.chosen is not None
    one, two = paired(state.record(state.chosen), record)
    return paired_ratio(one, two, seed=state.request.seed) if len(one) >= PAIRS else None


def _scored(state: State, record: Record) -> float | None:
    """Return the ratio of the search's own estimates, or None where it ranked only one of them."""
    assert state.chosen is not None
    ranking = {one.key: one.score for one in state.strategy.ranking()}
    if state.chosen.key not in ranking or record.case.key not in ranking:
        return None
    return math.exp(ranking[state.chosen.key] - ranking[record.case.key])


def _row(state: State, name: str, rival: Case, ratio: float, direct: Interval | None) -> dict[str, Any]:
    assert state.chosen is not None
    gain = f"{100 * (ratio - 1):+.0f} %" if ratio < 2 else f"{ratio:.1f}x"
    return {
        "words": f"{name}: {state.label(state.chosen.plan)} instead of {state.label(rival.plan)}: {gain}",
        "counterfactual": {
            "plan_id": rival.plan.id,
            "label": state.label(rival.plan),
            "ratio": ratio,
            "paired": ends(direct),
        },
    }
