"""The plain f32 plan beside the chosen one: what a bundle carries so that another host, or another day, can compare.

Absolute figures do not travel. What does is a ratio measured in one run: the chosen plan over the plan that
`whet serve` gives a model nobody tuned. Both go into the bundle, with the f32 net.
"""

from dataclasses import dataclass
from functools import partial

from whet.engine.unmeasured import plain_plan
from whet.errors import OutputError, WhetError
from whet.optimize import profile
from whet.optimize.answers import Answers, compare_answers, seeded
from whet.optimize.lab import Case, paired
from whet.optimize.stages import case_of, measured_round, score
from whet.optimize.state import State
from whet.stats import Interval, paired_ratio

LEAST, MOST, QUICK = 6, 8, 3
"""Rounds of the two plans next to each other: from six pairs on one disturbed block no longer decides. A search too
short to look into its plan takes fewer, if its time is spent."""
SHARE, MOST_S = 0.08, 8.0
"""Share of the budget, and seconds at most, that are kept for it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The plain plan as it was measured beside the chosen one.

    Attributes:
        case: plain f32, one stream a core.
        since: the first block of their rounds.
        ratio: how much better the chosen plan is, in the search's own score (for throughput: samples a second).
        answers: how the chosen plan's answers lie to the plain plan's, or None where they cannot be compared.
    """

    case: Case
    since: int
    ratio: Interval | None
    answers: Answers | None


def reserve_s(budget_s: float) -> float:
    """Return the seconds of a budget that are kept for it."""
    return min(MOST_S, SHARE * budget_s)


def refer(state: State, until_s: float) -> Reference | None:
    """Measure the plain plan beside the chosen one; what cannot be told goes to the refusals, with its reason.

    Args:
        state: of the search, which has chosen.
        until_s: seconds of the budget to leave to those who come after.
    """
    chosen = state.chosen
    plan, _ = plain_plan(state.artifact, min(state.host.budget.physical, state.host.budget.cores), state.runtimes)
    if chosen is None or plan.runtime not in state.runtimes:
        return None
    case, since = case_of(state, plan), state.lab.next_block
    if plan == chosen.plan:
        return Reference(case, since, None, None)
    rounds, least = 0, LEAST if state.clock.budget_s >= profile.FROM_BUDGET_S else QUICK
    while rounds < MOST and (rounds < least or state.clock.left_s > until_s):
        state.say("reference", f"beside the plain f32 plan, block {rounds + 1}")
        measured_round(state, [chosen, case], 1)
        rounds += 1
    values = partial(score, state, chosen.plan), partial(score, state, plan)
    one, two = paired(state.record(chosen), state.record(case), since=since, values=values)
    sound = len(one) >= 2 and all(one) and all(two)
    ratio = paired_ratio(one, two, seed=state.request.seed) if sound else None
    return Reference(case, since, ratio, _answers(state, case, chosen))


def _answers(state: State, case: Case, chosen: Case) -> Answers | None:
    try:
        shapes = {name: tuple(array.shape) for name, array in state.data.measure.rows(0, 1).items()}
        pool = seeded(state.artifact, shapes, state.work / "seeded")
        return compare_answers(state.lab, case.plan, chosen.plan, pool, state.work)
    except OutputError:
        raise
    except WhetError as error:
        state.refuse("answers on seeded inputs", f"not recorded, so another host needs --data to revalidate: {error}")
        return None
