"""What finalists hold under load decides between them, and what was not shown is not promised."""

from types import SimpleNamespace

import pytest

from whet.optimize import capacity, finals
from whet.optimize.lab import Case, Record
from whet.optimize.trial_words import Measured
from whet.plan import Plan, Targets

FAST, STEADY = Case(Plan("f", streams=2), 4), Case(Plan("s", streams=1), 2)
CLOSED = {FAST.key: 200.0, STEADY.key: 180.0}


class Lab:
    """Answers in time up to a rate of each plan's own; beyond it everything is late."""

    def __init__(self, holds):
        self.holds, self.asked = holds, []

    def rate(self, plan, command):
        self.asked.append((plan, command))
        count = int(command.qps * command.seconds)
        slow = command.qps > self.holds[plan]
        return Measured(count, command.seconds, command.qps, [100.0 if slow else 5.0] * count, 1.0, 50.0)


def state_of(holds, targets=None, budget_s=1e6):
    records = {
        case.key: Record(case, [Measured(50, 0.5, CLOSED[case.key], [5.0], 0.5, 50.0)]) for case in (FAST, STEADY)
    }
    refused = []
    return SimpleNamespace(
        lab=Lab({FAST.plan: holds[0], STEADY.plan: holds[1]}), chosen=FAST, contenders=[FAST, STEADY], rates={},
        served=None, request=SimpleNamespace(targets=targets or Targets(p99_ms=20), seed=0),
        clock=SimpleNamespace(budget_s=budget_s), record=lambda case: records[case.key], say=lambda *_: None,
        label=lambda plan: f"{plan.streams} stream(s)", refuse=lambda what, why: refused.append((what, why)),
        refused=refused,
    )  # fmt: skip


def test_a_rival_that_holds_more_is_chosen_though_it_is_slower_in_a_closed_loop():
    state = state_of((90.0, 150.0))
    capacity.measure(state)
    assert state.chosen is STEADY
    assert state.rates[FAST.plan.id]["highest_qps"] <= 90.0
    assert 130.0 <= finals.highest_qps(state) <= 150.0
    ((what, why),) = state.refused
    assert what == "2 stream(s)"
    assert why.endswith(f"1 stream(s) holds {finals.highest_qps(state):.0f}/s")


def test_a_rival_that_cannot_hold_more_is_given_up_early():
    state = state_of((190.0, 190.0))
    capacity.measure(state)
    assert state.chosen is FAST
    assert all(plan == FAST.plan for plan, _ in state.lab.asked)  # 180/s closed cannot beat what FAST holds
    state = state_of((150.0, 150.0))
    capacity.measure(state)
    assert state.chosen is FAST
    assert all(command.qps > 130.0 for plan, command in state.lab.asked if plan == STEADY.plan)


@pytest.mark.parametrize("holds", [(0.0, 0.0), (0.5, 0.5)])
def test_what_holds_nothing_is_missed_with_its_tail(holds):
    state = state_of(holds)
    capacity.measure(state)
    assert finals.highest_qps(state) is None
    state.verdicts = {}
    (words,) = finals.missed(state)
    assert words.startswith("p99 20 ms is not held: no rate was shown to hold; not at ")


def test_time_that_does_not_suffice_to_show_a_rate_promises_none_and_says_how_far_it_came():
    state = state_of((190.0, 190.0), budget_s=20.0)
    capacity.measure(state)
    found = state.rates[FAST.plan.id]
    assert found["highest_qps"] is None
    assert found["promising_qps"] == pytest.approx(170.0)
    assert found["words"].startswith("no rate was shown to hold; not shown at 170/s (0 late of ")
    state.verdicts = {}
    assert finals.missed(state) == []


def test_without_a_latency_target_the_chosen_plans_tail_is_measured_at_a_rate_it_carries():
    state = state_of((190.0, 190.0), Targets())
    capacity.measure(state)
    ((plan, command),) = state.lab.asked
    assert (plan, command.qps) == (FAST.plan, pytest.approx(140.0))
    assert len(state.rates[FAST.plan.id]["runs"]) == 1
