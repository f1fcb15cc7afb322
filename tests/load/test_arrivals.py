"""Arrival processes: right rates, the same under the same seed, and no clock."""

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import UsageError
from whet.load import arrivals

rates = st.floats(0.5, 5000)


def first(times, count):
    return list(itertools.islice(times, count))


@given(rates)
def test_constant_arrivals_are_evenly_spaced(qps):
    assert np.allclose(np.diff(first(arrivals.constant(qps), 50)), 1 / qps)


@given(rates, st.integers(0, 2**32))
def test_poisson_arrivals_never_go_back_and_repeat_under_a_seed(qps, seed):
    times = first(arrivals.poisson(qps, seed), 2100)  # past two chunks
    assert times == first(arrivals.poisson(qps, seed), 2100)
    assert all(later >= earlier for earlier, later in itertools.pairwise(times))
    assert times[0] > 0


@pytest.mark.parametrize("qps", [3.0, 700.0])
def test_poisson_gaps_are_exponential_with_the_right_rate(qps):
    gaps = np.diff([0.0, *first(arrivals.poisson(qps, 4), 20_000)])
    assert gaps.mean() == pytest.approx(1 / qps, rel=0.03)
    # Kolmogorov-Smirnov distance to the exponential law; 1.63 / sqrt(n) is its 99 % bound.
    cumulative = np.sort(1 - np.exp(-gaps * qps))
    steps = np.arange(1, gaps.size + 1) / gaps.size
    assert np.max(np.abs(cumulative - steps)) < 1.63 / np.sqrt(gaps.size)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


def test_another_seed_gives_other_arrivals():
    assert first(arrivals.poisson(10, 1), 5) != first(arrivals.poisson(10, 2), 5)


@given(st.floats(1, 500), st.floats(1, 500), st.floats(0.5, 20))
def test_a_ramp_has_the_integral_of_its_rate_as_count(low, high, over):
    times = np.array(first(arrivals.ramp(low, high, over), 400))
    assert (np.diff(times) > 0).all()
    inside = np.minimum(times, over)
    integral = low * inside + (high - low) * inside**2 / (2 * over) + high * (times - inside)
    assert np.allclose(integral, np.arange(400), atol=1e-6)


def test_a_trace_is_replayed_and_checked():
    assert first(arrivals.trace([0, 0.5, 0.5, 2]), 9) == [0, 0.5, 0.5, 2]
    with pytest.raises(UsageError, match=r"start 1 is 0\.1 s, before 0\.5 s"):
        list(arrivals.trace([0.5, 0.1]))
    with pytest.raises(UsageError, match="start 0"):
        list(arrivals.trace([float("nan")]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: arrivals.constant(0),
        lambda: arrivals.poisson(-1),
        lambda: arrivals.poisson(float("nan")),
        lambda: arrivals.constant(float("inf")),
        lambda: arrivals.ramp(1, 1, 0),
    ],
)
def test_impossible_rates_are_refused(make):
    with pytest.raises(UsageError, match="must be a positive number"):
        make()


def test_the_module_knows_no_clock():
    tree = ast.parse(Path(arrivals.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not names & {"time", "asyncio", "threading", "random"}
