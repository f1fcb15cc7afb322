"""A batch window is taken only when it measurably shortens the tail, and left out with its numbers otherwise."""

from types import SimpleNamespace

import pytest
from speed_surface import F32, space

from whet.optimize import windows
from whet.optimize.lab import Record, capacity
from whet.optimize.state import Clock
from whet.optimize.trial_words import Measured
from whet.plan import Targets


class Lab:
    """Answers open loops with a tail of its own for every window."""

    def __init__(self, tails: dict[float, float]) -> None:
        self.tails, self.driven = tails, []

    def rate(self, plan, command):
        self.driven.append((plan.batch_window_ms, command.qps, command.seed))
        tail = self.tails[plan.batch_window_ms] * (1 + 0.01 * (command.seed % 3))
        return Measured(100, 1.0, 100.0, [1.0] * 90 + [tail] * 10, 1.0, 50.0)


def state_of(tails: dict[float, float], targets: Targets):
    found, refused = space(2), []
    best = next(p for p in found.plans if p.max_batch == 8 and p.artifact == F32.artifact and not p.batch_window_ms)
    case = capacity(best)
    blocks: list[Measured | None] = [Measured(50, 0.5, 100.0, [1.0], 0.5, 50.0)]
    state = SimpleNamespace(
        request=SimpleNamespace(targets=targets, seed=0, service="online"),
        space=found,
        windowed=None,
        chosen=case,
        lab=Lab(tails),
        clock=Clock(20.0),
        record=lambda _: Record(case, blocks),
        say=lambda *_: None,
        refuse=lambda what, reason: refused.append((what, reason)),
        journal=SimpleNamespace(add=lambda *_, **__: None),
    )
    return state, refused


@pytest.fixture(autouse=True)
def _incumbent(monkeypatch):
    monkeypatch.setattr(windows, "finalists", lambda state: [state.chosen])


def test_a_window_that_shortens_the_tail_is_chosen():
    state, refused = state_of({0.0: 20.0, 2.0: 12.0}, Targets(p99_ms=30))
    windows.propose(state)
    windows.settle(state)
    assert state.chosen.plan.batch_window_ms == 2.0
    assert not refused
    rates = {rate for _, rate, _ in state.lab.driven}
    assert rates == {70.0}
    by_window = {w: sorted(seed for window, _, seed in state.lab.driven if window == w) for w in (0.0, 2.0)}
    assert by_window[0.0] == by_window[2.0]  # the same arrivals for both


def test_one_that_does_not_is_refused_with_its_numbers():
    state, refused = state_of({0.0: 12.0, 2.0: 14.0}, Targets(p99_ms=30))
    windows.propose(state)
    windows.settle(state)
    assert state.chosen.plan.batch_window_ms == 0.0
    assert refused[0][0] == "batch window"
    assert "1.17x" in refused[0][1]


def test_without_a_latency_target_there_is_nothing_to_judge_by():
    state, refused = state_of({}, Targets())
    windows.propose(state)
    windows.settle(state)
    assert not state.lab.driven
    assert "no latency target" in refused[0][1]


def test_when_the_time_is_spent_the_window_is_left_out_and_that_is_said():
    state, refused = state_of({0.0: 20.0, 2.0: 12.0}, Targets(p99_ms=30))
    state.clock = Clock(0.0)
    windows.propose(state)
    windows.settle(state)
    assert not state.lab.driven
    assert "raise --budget" in refused[0][1]
