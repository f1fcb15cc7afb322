"""What each choice was worth: the chosen plan against measured plans that differ from it in one axis."""

import math
from typing import Any

from whet.optimize.lab import Case, paired
from whet.optimize.state import State
from whet.stats import paired_ratio

AXES = (
    ("streams x threads", lambda plan: (plan.streams, plan.threads), ("streams", "threads")),
    ("batch", lambda plan: plan.max_batch, ("batch_sizes", "queue_bound")),
    ("runtime", lambda plan: plan.runtime, ("runtime", "options")),
    ("weights and precision", lambda plan: (plan.artifact, plan.precision), ("artifact", "precision")),
    ("pinning", lambda plan: plan.pinning, ("pinning",)),
    ("preprocessing in the graph", lambda plan: plan.fused_preprocessing, ("fused_preprocessing",)),
    ("instruction set", lambda plan: plan.isa_ceiling, ("isa_ceiling",)),
    ("one dynamic compilation", lambda plan: plan.dynamic_batch, ("dynamic_batch",)),
)


def advice(state: State) -> list[dict[str, Any]]:
    """Return what each choice was worth: the chosen plan against measured plans that differ in this one axis."""
    if state.chosen is None:
        return []
    chosen, ranking = state.chosen.plan, {one.key: one for one in state.strategy.ranking()}
    found = []
    for name, value, fields in AXES:
        best: tuple[float, Case] | None = None
        for key, ranked in ranking.items():
            case = state.lab.records[key].case
            changes = {field: getattr(case.plan, field) for field in fields}
            if value(case.plan) == value(chosen) or chosen.with_(**changes) != case.plan or chosen.id not in ranking:
                continue
            ratio = math.exp(ranking[chosen.id].score - ranked.score)
            if best is None or ratio < best[0]:
                best = (ratio, case)
        if best is not None:
            ratio, case = best
            words = f"{name}: {state.label(chosen)} instead of {state.label(case.plan)}: {100 * (ratio - 1):+.0f} %"
            one, two = paired(state.record(state.chosen), state.record(case))
            direct = paired_ratio(one, two, seed=state.request.seed) if len(one) >= 2 else None
            found.append(
                {
                    "words": words,
                    "counterfactual": {
                        "plan_id": case.plan.id,
                        "label": state.label(case.plan),
                        "ratio": ratio,
                        "paired": None
                        if direct is None
                        else {"value": direct.value, "low": direct.low, "high": direct.high},
                    },
                }
            )
    return found
