"""The plans around the chosen one: what they are, how many the time holds, and what advice says of them."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.optimize import curves
from whet.optimize.advice import advice
from whet.optimize.lab import Record, capacity
from whet.optimize.state import Clock
from whet.optimize.trial_words import Measured
from whet.plan import Plan

CHOSEN = Plan("0" * 64, streams=4, threads=1)
LATER_S = 2.0


def shape(plan):
    return plan.streams, plan.threads, plan.max_batch


def test_the_same_cores_in_one_stream_and_a_batch_come_first_then_fewer_cores():
    around = [shape(plan) for plan in curves.neighbours(CHOSEN, batched=True)]
    assert around == [(1, 4, 1), (4, 1, 8), (2, 1, 1), (4, 1, 2), (1, 1, 1), (4, 1, 4), (4, 1, 16)]
    wide = [shape(plan) for plan in curves.neighbours(CHOSEN.with_(streams=1, threads=4), batched=False)]
    assert wide == [(1, 2, 1), (1, 1, 1), (4, 1, 1)]
    assert list(curves.neighbours(CHOSEN.with_(streams=1), batched=False)) == []


@given(
    streams=st.integers(1, 64), threads=st.integers(1, 64), size=st.sampled_from([(1,), (1, 4), (1, 2, 8), (32,)]),
    pinning=st.booleans(),
)  # fmt: skip
def test_every_neighbour_is_a_legal_plan_on_no_more_cores_and_differs_in_one_thing(streams, threads, size, pinning):
    plan = Plan("0" * 64, streams=streams, threads=threads, batch_sizes=size, queue_bound=512, pinning=pinning)
    around = list(curves.neighbours(plan, batched=True))
    assert len({each.id for each in around} | {plan.id}) == len(around) + 1
    for each in around:
        assert each.compute_threads <= plan.compute_threads
        assert (each.batch_sizes == plan.batch_sizes) != ((each.streams, each.threads) == (streams, threads))


def test_time_decides_how_many_are_measured():
    assert curves.affordable(10.0, block_s=0.5, start_s=1.0) == 3
    assert curves.affordable(0.5, block_s=0.5, start_s=1.0) == curves.affordable(-5.0, block_s=0.5, start_s=1.0) == 0


class Lab:
    """Remembers what was measured together; one stream of many threads is half as fast."""

    def __init__(self, chosen):
        self.records, self.most, self.rounds = {chosen.key: Record(chosen)}, 1, []


@pytest.fixture
def state(monkeypatch):
    chosen = capacity(CHOSEN)
    lab = Lab(chosen)

    def measured_round(state, cases, blocks):
        number = len(lab.rounds)
        lab.rounds.append([case.key for case in cases])
        for case in cases:
            speed = 100.0 if case.plan.streams > 1 else 50.0 + number
            record = lab.records.setdefault(case.key, Record(case))
            record.blocks.append(Measured(50, 0.5, speed, [1.0], 0.5, 50.0))
            record.numbers.append(number)

    monkeypatch.setattr(curves, "measured_round", measured_round)
    refused = []
    return SimpleNamespace(
        refused=refused, refuse=lambda what, _: refused.append(what),
        request=SimpleNamespace(
            seed=0, service="online", targets=SimpleNamespace(objective="throughput")
        ),
        chosen=chosen, lab=lab, clock=Clock(30.0), block_s=0.2, artifact=SimpleNamespace(batched=True),
        stage_of={}, record=lambda case: lab.records[case.key], say=lambda *_: None,
        label=lambda plan: f"{plan.streams}x{plan.threads} b{plan.max_batch}",
        strategy=SimpleNamespace(ranking=list),
    )  # fmt: skip


def test_neighbours_are_measured_in_the_same_blocks_as_the_chosen_plan_and_advice_tells_the_paired_ratio(state):
    curves.measure(state, LATER_S)
    assert len(state.lab.rounds) == curves.BLOCKS
    assert all(together[0] == state.chosen.key and len(together) >= 2 for together in state.lab.rounds)
    assert set(state.stage_of.values()) == {"curves"}
    streams = next(one for one in advice(state) if one["words"].startswith("streams x threads"))
    assert streams["words"] == "streams x threads: 4x1 b1 instead of 1x4 b1: +96 %"
    assert streams["counterfactual"]["paired"]["low"] > 1.5


def test_a_spent_budget_measures_nothing_more_unless_it_was_one_that_shows_layers(state, monkeypatch):
    monkeypatch.setattr(Clock, "left_s", property(lambda _: 0.0))
    curves.measure(state, LATER_S)
    assert state.lab.rounds == []
    assert state.refused == ["curves over cores and batch"]
    state.clock = Clock(60.0)
    with monkeypatch.context() as late:
        late.setattr(Clock, "spent_s", property(lambda _: 70.0))
        curves.measure(state, LATER_S)
    assert state.lab.rounds == []
    curves.measure(state, LATER_S)
    assert [len(together) for together in state.lab.rounds] == [1 + curves.LEAST] * curves.BLOCKS
