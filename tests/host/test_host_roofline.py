import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import synthetic

from whet.errors import PlanRefused
from whet.host import bound_s, memory_copy, memory_read, rate, read_host, roofline
from whet.host.roofline import peak


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=60))
def test_the_median_lies_within_its_bounds_and_the_best_is_the_largest(rates):
    one = peak(rates, "GB/s", "how")
    assert min(rates) <= one.low <= one.value <= one.high <= one.best == max(rates)
    assert one.repeats == len(rates)


def test_bounds_hold_the_median_of_the_source_at_95_percent():
    # Exact: the chance that k or more of n fall below the median, summed over both sides.
    from math import comb

    for count in range(6, 40):
        one = peak(range(count), "x", "how")
        below = int(one.low)
        outside = 2 * sum(comb(count, index) for index in range(below + 1)) / 2**count
        wider = 2 * sum(comb(count, index) for index in range(below + 2)) / 2**count
        assert outside <= 0.05 < wider, count
        assert one.high == count - 1 - one.low


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        peak([], "x", "how")


def test_a_rate_counts_every_round_but_the_first(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(clock))
    calls = []
    one = rate(lambda: calls.append(1), work=8.0, unit="GFLOP/s", how="product", seconds=0.0)
    assert len(calls) == one.repeats + 1 == 7
    assert (one.value, one.low, one.high, one.unit) == (8.0, 8.0, 8.0, "GFLOP/s")


def test_work_is_bound_by_the_slower_of_computing_and_moving():
    compute, bandwidth = peak([100.0], "GFLOP/s", "how"), peak([10.0], "GB/s", "how")
    assert bound_s(2e9, 1e6, compute, bandwidth) == pytest.approx(0.02)
    assert bound_s(2e9, 1e9, compute, bandwidth) == pytest.approx(0.1)


@pytest.mark.parametrize("measure", [memory_read, memory_copy])
def test_bandwidth_is_measured_and_says_how(measure):
    one = measure(read_host(), threads=1, seconds=0.1)
    assert 0 < one.low <= one.value <= one.high <= one.best
    assert one.unit == "GB/s"
    assert "1 threads on one core each" in one.how
    assert one.repeats == 12


def test_threads_are_spread_over_cores_before_siblings():
    assert roofline._spread(synthetic(1, 2, 2), 3) == [0, 1, 2]
    assert roofline._spread(synthetic(1, 4, 2, allowed=[1, 2, 5]), 3) == [1, 2, 5]


def test_more_threads_than_the_budget_are_refused():
    with pytest.raises(PlanRefused, match="3 threads, more than the budget of 2 cores"):
        memory_read(synthetic(1, 4, quota=2.5), threads=3)
    with pytest.raises(PlanRefused, match="threads is 0"):
        memory_read(synthetic(), threads=0)


def test_arrays_outgrow_the_caches_or_say_that_they_do_not():
    size, enough = roofline._array_bytes(synthetic(2, 4), 8)
    assert (size * 8 >= 4 * 2 * (32 << 20), enough) == (True, True)
    import dataclasses

    from whet.host.system import Memory

    small = dataclasses.replace(synthetic(2, 4), memory=Memory(64 << 20, 64 << 20))
    size, enough = roofline._array_bytes(small, 8)
    assert (size * 8 <= 16 << 20, enough) == (True, False)
