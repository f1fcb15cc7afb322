"""Statistics: known values from tables, and properties that hold for any samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet import stats
from whet.errors import DataError
from whet.stats import Samples

latencies = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300)


@pytest.mark.parametrize(("q", "count"), [(50, 11), (90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_minimum_counts_are_those_of_mlperf_early_stopping(q, count):
    assert stats.minimum_count(q) == count
    assert not Samples(np.ones(count - 1), "ms").enough(q)
    assert Samples(np.ones(count), "ms").enough(q)


@pytest.mark.parametrize("q", [0, 100, -1])
def test_a_percentile_without_a_minimum_count_is_refused(q):
    with pytest.raises(DataError, match="no minimum count"):
        stats.minimum_count(q)


def test_percentile_is_the_nearest_rank():
    samples = Samples(np.arange(100, 0, -1), "ms")
    assert [samples.percentile(q) for q in (50, 90, 99, 100, 0.5)] == [50, 90, 99, 100, 1]
    with pytest.raises(DataError, match="no samples"):
        Samples([], "ms").percentile(50)


@given(latencies, st.floats(0.1, 100))
def test_at_least_q_per_cent_of_the_samples_do_not_exceed_the_percentile(values, q):
    samples = Samples(values, "ms")
    found = samples.percentile(q)
    assert found in values
    assert np.mean(samples.values <= found) >= q / 100 - 1e-9
    assert np.mean(samples.values < found) < q / 100 + 1e-9


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (50, 18, 33), (100, 40, 61)])
def test_median_intervals_match_published_ranks(count, low, high):
    """Ranks of the 95 % sign-test interval of a median, as tabulated for the sign test."""
    assert stats.percentile_interval(np.arange(1, count + 1), 50) == (low, high)


def test_no_interval_where_no_order_statistic_bounds_the_percentile():
    assert stats.percentile_interval(np.arange(5), 50) is None  # 1 - 2 / 32 < 95 %
    assert stats.percentile_interval(np.arange(367), 99) is None  # 0.99 ** 367 = 0.025003
    assert stats.percentile_interval(np.arange(368), 99) is not None
    assert stats.percentile_interval([], 50) is None


@pytest.mark.parametrize(("q", "count"), [(50, 40), (90, 100), (99, 700)])
def test_intervals_cover_the_true_percentile_as_often_as_they_say(q, count):
    rng = np.random.default_rng(5)
    truth = -math.log(1 - q / 100)  # of the standard exponential
    ends = [stats.percentile_interval(rng.exponential(size=count), q) for _ in range(1500)]
    covered = np.mean([low <= truth <= high for low, high in ends])
    assert 0.935 <= covered <= 0.99  # discrete ranks overcover; 1500 draws leave +- 1.1 %


def test_an_interval_of_a_million_samples_is_quick_and_tight():
    low, high = stats.percentile_interval(np.arange(1_000_000), 99)
    assert 989_700 < low < 990_000 < high < 990_300


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 10, 0.0, 0.3084971), (5, 10, 0.1870860, 0.8129140), (10, 10, 0.6915029, 1.0), (10, 1000, 0.0048055, 0.0183132),
     (1, 100, 0.0002531, 0.0544594), (0, 1, 0.0, 0.975)],
)  # fmt: skip
def test_clopper_pearson_matches_known_values(count, total, low, high):
    """Quantiles of the beta distribution: beta.ppf(0.025, k, n-k+1) and beta.ppf(0.975, k+1, n-k) of scipy."""
    found = stats.bound_violations(count, total)
    assert found.value == count / total
    assert (found.low, found.high) == (pytest.approx(low, abs=2e-7), pytest.approx(high, abs=2e-7))


def test_a_p99_bound_without_a_miss_needs_459_samples():
    assert stats.bound_violations(0, 459, confidence=0.98).high <= 0.01 < stats.bound_violations(0, 458, 0.98).high


@pytest.mark.parametrize(("count", "total"), [(1, 0), (-1, 5), (6, 5)])
def test_a_share_out_of_bounds_is_refused(count, total):
    with pytest.raises(DataError, match="0 <= violations <= total"):
        stats.bound_violations(count, total)


@given(st.integers(1, 60), st.floats(0.001, 0.999), st.integers(-1, 61))
def test_binomial_tail_is_the_sum_of_its_terms(count, share, k):
    exact = sum(math.comb(count, i) * share**i * (1 - share) ** (count - i) for i in range(min(k, count) + 1))
    assert stats.binomial_at_most(k, count, share) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (10, 2.22814), (30, 2.04227), (120, 1.97993)],
)
def test_student_quantiles_match_the_table(freedom, t):
    assert stats.student_quantile(0.975, freedom) == pytest.approx(t, rel=1e-5)
    assert stats.student_at_most(0.0, freedom) == 0.5


@pytest.mark.parametrize("pairs", [2, 3, 5, 6, 12, 40])
def test_paired_ratio_covers_the_truth_although_the_raw_figures_wander(pairs):
    """Both sides share a noise of 30 % per pair; the ratio 1.3 is found all the same, at nearly the stated rate."""
    rng = np.random.default_rng(11)
    hits = []
    for seed in range(300):
        shared = rng.lognormal(0, 0.3, pairs)
        a, b = 1.3 * shared * rng.lognormal(0, 0.04, pairs), shared * rng.lognormal(0, 0.04, pairs)
        found = stats.paired_ratio(a, b, seed=seed, resamples=400)
        hits.append(found.low <= 1.3 <= found.high)
        assert found.low <= found.value <= found.high
    assert np.mean(hits) >= 0.90


def test_paired_ratio_is_repeatable_and_inverts():
    rng = np.random.default_rng(1)
    a, b = rng.uniform(1, 2, 9), rng.uniform(1, 2, 9)
    found, turned = stats.paired_ratio(a, b, seed=3), stats.paired_ratio(b, a, seed=3)
    assert found == stats.paired_ratio(a, b, seed=3)
    assert turned.value == pytest.approx(1 / found.value)
    assert turned.low == pytest.approx(1 / found.high, rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([1.0], [1.0], "at least 2"),
        ([1, 2], [1, 2, 3], "pairs"),
        ([1, 0], [1, 1], "positive"),
        ([1, 1], [1, math.inf], "finite"),
    ],
)
def test_paired_ratio_refuses_what_is_no_pair(a, b, words):
    with pytest.raises(DataError, match=words):
        stats.paired_ratio(a, b)


@pytest.mark.parametrize("count", [3, 5, 20])
def test_bootstrap_of_a_mean_covers_it_even_with_few_samples(count):
    rng = np.random.default_rng(2)
    found = [stats.bootstrap(rng.normal(10, 2, count), seed=seed, resamples=500) for seed in range(300)]
    # Three points bound the mean by their extremes at the very best: 75 %.
    assert np.mean([interval.low <= 10 <= interval.high for interval in found]) >= (0.70 if count == 3 else 0.90)


def test_bootstrap_of_one_sample_is_refused():
    with pytest.raises(DataError, match="at least 2"):
        stats.bootstrap([1.0])


@given(st.lists(latencies, min_size=1, max_size=4))
def test_merging_pools_the_raw_samples(parts):
    first, *rest = (Samples(part, "ms") for part in parts)
    assert first.merge(*rest).values.tolist() == sorted(value for part in parts for value in part)


def test_merging_units_is_refused():
    with pytest.raises(DataError, match="ms"):
        Samples([1], "ms").merge(Samples([1], "s"))


def test_a_failure_is_never_a_sample():
    with pytest.raises(DataError, match="not finite"):
        Samples([1.0, math.nan], "ms")


@given(st.lists(st.floats(0, 1e6), max_size=300))
def test_every_sample_is_in_the_histogram(values):
    found = Samples(values, "ms").histogram(12)
    assert sum(found["counts"]) == len(values)
    if values:
        assert len(found["edges_ms"]) == len(found["counts"]) + 1
        assert (found["edges_ms"][0], found["edges_ms"][-1]) == (min(values), max(values))


def test_summary_says_none_where_there_is_not_enough_data():
    found = Samples(np.arange(1, 101), "ms").summary()
    assert found == {"count": 100, "mean": 50.5, "p50": 50, "p90": 90, "p95": None, "p99": None, "max": 100}
    assert Samples([], "ms").summary()["mean"] is None


def test_an_estimate_carries_its_interval_or_is_none():
    samples = Samples(np.arange(1, 1001), "ms")
    assert samples.estimate(99).value == 990
    assert samples.estimate(99).low < 990 < samples.estimate(99).high
    assert samples.estimate(99.9) is None
    assert samples.estimate(99).excludes(2)
    assert not samples.estimate(99).excludes(990)
