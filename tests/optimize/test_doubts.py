"""Compressed plans that look faster are measured on while the answer is in doubt, and no longer."""

from types import SimpleNamespace

import pytest

from whet.optimize import finals
from whet.optimize.lab import Case
from whet.plan import Plan
from whet.stats import paired_ratio

F32, SLOW, INT8, WORSE = (Case(Plan(a, streams=s), 1) for a, s in (("f", 2), ("f", 1), ("i", 2), ("w", 2)))


class Machine:
    """Holds pairs of each plan with the best f32 one, and adds one to those that are measured."""

    def __init__(self, monkeypatch, **pairs):
        self.pairs = {INT8: pairs["int8"], WORSE: pairs["worse"], F32: [1.0] * 4, SLOW: [0.5] * 4}
        self.rounds = []
        monkeypatch.setattr(finals, "_median", lambda state, case: {F32: 100.0, SLOW: 50.0}.get(case, 300.0))
        monkeypatch.setattr(
            finals, "ahead", lambda state, a, b: paired_ratio(self.pairs[a], [1.0] * len(self.pairs[a]))
        )
        monkeypatch.setattr(finals, "measured_round", self.measure)
        self.state = SimpleNamespace(
            finalists=[INT8, WORSE, F32, SLOW],
            artifact=SimpleNamespace(sha256="f"),
            variants=[],
            say=lambda *_: None,
        )

    def measure(self, state, cases, blocks):
        self.rounds.append(set(cases))
        for case in cases:
            self.pairs[case].append({INT8: 3.2, WORSE: 0.8}.get(case, 1.0))


def test_one_disturbed_block_does_not_refuse_a_plan_three_times_as_fast(monkeypatch):
    machine = Machine(monkeypatch, int8=[3.1, 3.2, 3.3, 0.7], worse=[0.9, 0.8, 0.85, 0.9])
    assert finals.ahead(None, INT8, F32).low < 1
    finals._settle_doubts(machine.state, 4)
    assert finals.ahead(None, INT8, F32).low > 1
    assert machine.rounds
    assert all(cases == {F32, INT8} for cases in machine.rounds)  # what is slower is in no doubt


@pytest.mark.parametrize("int8", [[3.1, 3.2, 3.3, 3.0], [0.8, 0.7, 0.8, 0.7]], ids=["faster", "slower"])
def test_what_is_clear_is_measured_no_further(monkeypatch, int8):
    machine = Machine(monkeypatch, int8=int8, worse=[0.9, 0.8, 0.85, 0.9])
    finals._settle_doubts(machine.state, 4)
    assert machine.rounds == []


def test_a_doubt_that_stays_ends_with_the_rounds_there_are(monkeypatch):
    machine = Machine(monkeypatch, int8=[1.3, 0.9, 1.2, 0.8], worse=[0.9, 0.8, 0.85, 0.9])
    machine.measure = lambda state, cases, blocks: machine.rounds.append(set(cases))
    monkeypatch.setattr(finals, "measured_round", machine.measure)
    finals._settle_doubts(machine.state, 3)
    assert len(machine.rounds) == 3
