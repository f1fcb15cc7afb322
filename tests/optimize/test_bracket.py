"""The search for the highest rate that holds: it ends, errs to the low side, and says what it could not show."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import UsageError
from whet.optimize.bracket import LATE, MOST_RATES, MOST_RUNS, Bracket
from whet.optimize.openloop import Bounds, Run, bounds_of, highest, seconds_of
from whet.plan import Targets
from whet.stats import bound_violations

ANSWERS = 400


def waits(rng, rate: float, count: int, lanes: int, service_s: float) -> np.ndarray:
    """Latencies of a queue with Poisson arrivals and constant service times (M/D/lanes), seconds."""
    free, found = [0.0] * lanes, np.empty(count)
    for place, arrival in enumerate(np.cumsum(rng.exponential(1 / rate, count))):
        ends = max(heapq.heappop(free), arrival) + service_s
        heapq.heappush(free, ends)
        found[place] = ends - arrival
    return found


def of_queue(rng, lanes: int, service_s: float, target_s: float) -> Bracket:
    capacity = lanes / service_s
    bracket = Bracket(0.85 * capacity, 0.98 * capacity)
    while (rate := bracket.ask()) is not None:
        late = int((waits(rng, rate, ANSWERS, lanes, service_s) > target_s).sum())
        bracket.tell([late], ANSWERS)
    return bracket


@pytest.mark.parametrize(
    ("lanes", "service_s", "target_s", "true"),  # the rate that holds, by bisection over runs of 60,000 arrivals
    [(1, 0.005, 0.03, 125.0), (2, 0.004, 0.012, 284.0), (2, 0.02, 0.1, 73.0)],
)
def test_what_is_held_in_a_queue_is_rarely_far_above_what_the_queue_holds(lanes, service_s, target_s, true):
    found = [of_queue(np.random.default_rng(seed), lanes, service_s, target_s).held for seed in range(24)]
    claimed = np.array([one for one in found if one is not None]) / true
    assert len(claimed) >= 22
    assert (claimed > 1 / 0.9).mean() <= 0.1  # what serving at 90 % of it forgives
    assert claimed.max() < 1.2
    assert 0.75 <= np.median(claimed) <= 1.1


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_is_told_it_ends_and_holds_only_what_the_counts_show(data):
    limit = data.draw(st.floats(1, 1e5))
    bracket = Bracket(limit * data.draw(st.floats(0.6, 1.0)), limit, beat=limit * data.draw(st.sampled_from([0, 0.5])))
    asked = 0
    while (rate := bracket.ask()) is not None:
        asked += 1
        assert bracket.beat < rate <= limit
        total = data.draw(st.integers(1, 500))
        bracket.tell([data.draw(st.integers(0, min(total, 12)))], total)
        assert asked <= MOST_RATES * MOST_RUNS
    if bracket.held is not None:
        tally = bracket.tallies[bracket.held]
        assert bound_violations(tally.late[0], tally.total).high <= LATE
        assert bracket.promising is not None
    assert bracket.words()


def test_nothing_held_is_said_and_a_wrong_count_is_refused():
    bracket = Bracket(85.0, 98.0)
    assert bracket.words() == "no rate was tried"
    with pytest.raises(UsageError, match="answers no question"):
        bracket.tell([0], 10)
    while bracket.ask() is not None:
        bracket.tell([100], 100)
    assert bracket.held is None
    assert bracket.promising is None
    assert bracket.words().startswith("no rate was shown to hold; not at ")
    with pytest.raises(UsageError, match="this is a bug"):
        Bracket(10.0, 5.0)


def test_bounds_count_failures_as_late_and_an_unanswered_run_as_one():
    bounds = bounds_of(Targets(p99_ms=10, p50_ms=5))
    assert bounds == Bounds((10, 5), (0.01, 0.5))
    assert bounds.late(Run(1.0, [1.0, 6.0, 11.0], 2, 1.0)) == ([3, 4], 5)
    assert bounds.late(Run(1.0, [], 0, 0.0)) == ([1, 1], 1)
    assert not bounds_of(Targets())


def test_time_that_is_spent_ends_the_search_with_what_was_seen():
    left, driven = [100.0], []

    def drive(rate):
        driven.append(rate)
        left[0] -= rate.seconds
        return Run(rate.qps, [1.0] * int(rate.qps * rate.seconds), 0, rate.qps)

    bracket, bounds = Bracket(100.0, 120.0), bounds_of(Targets(p99_ms=10))
    left[0] = 0.1
    assert len(highest(bracket, bounds, drive, lambda: left[0], seed=3)) == 1  # the first is run whatever the time
    assert (bracket.held, bracket.promising) == (None, 100.0)
    left[0] = 1000.0
    highest(bracket, bounds, drive, lambda: left[0], seed=4)
    assert bracket.held == pytest.approx(120.0, rel=0.06)
    assert len({rate.seed for rate in driven[1:]}) == len(driven) - 1
    assert seconds_of(10.0, confirming=False) == 15.0
