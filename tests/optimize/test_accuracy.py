import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import DataError, UsageError
from whet.optimize.accuracy import (
    Metric,
    choose_metric,
    decibel,
    item_scores,
    judge,
    noise_to_signal,
)
from whet.optimize.drops import items_needed, paired_drop, tango
from whet.tensors import TensorSpec

CLASSES = TensorSpec("probabilities", "FP32", (-1, 10))
BOXES = TensorSpec("boxes", "FP32", (-1, 100, 4))
POOLED = TensorSpec("pool_final", "FP32", (-1, 1000, 1, 1))
QUALITY = TensorSpec("quality", "FP32", (-1, 1))


@pytest.mark.parametrize(
    ("wanted", "outputs", "labelled", "name", "output"),
    [
        pytest.param("", [CLASSES], True, "top1", "probabilities", id="labels and classes: top-1"),
        pytest.param("", [CLASSES], False, "agreement", "probabilities", id="no labels: agreement with the parent"),
        pytest.param("", [BOXES], True, "snr", "", id="no classes: signal to noise"),
        pytest.param("", [POOLED], True, "top1", "pool_final", id="axes of one that pooling left do not count"),
        pytest.param("", [QUALITY, CLASSES], True, "top1", "probabilities", id="the output with classes is found"),
        pytest.param("snr", [CLASSES], True, "snr", "", id="asked for"),
        pytest.param("mod:fn", [BOXES], False, "mod:fn", "", id="a metric of the user's"),
    ],
)
def test_metric_is_the_strongest_the_data_allow(wanted, outputs, labelled, name, output):
    metric = choose_metric(wanted, outputs, labelled=labelled)
    assert (metric.name, metric.output) == (name, output)
    assert "higher is better" in metric.formula


@pytest.mark.parametrize(
    ("wanted", "outputs", "labelled", "says"),
    [
        pytest.param("f1", [CLASSES], True, "f1", id="unknown"),
        pytest.param("top1", [CLASSES], False, "labels.tsv", id="labels missing"),
        pytest.param("top5", [BOXES], True, "snr", id="no classes"),
    ],
)
def test_metric_that_cannot_be_carried_is_refused(wanted, outputs, labelled, says):
    with pytest.raises(UsageError, match=says):
        choose_metric(wanted, outputs, labelled=labelled)


def test_top1_top5_and_agreement_of_a_table():
    scores = np.array([[0.1, 0.9, 0, 0, 0, 0], [0.5, 0.1, 0.1, 0.1, 0.1, 0.0], [0, 0, 0, 0, 0.4, 0.6]])
    labels = np.array([1, 5, 4])
    one = item_scores(Metric("top1", "y"), {"y": scores}, labels)
    five = item_scores(Metric("top5", "y"), {"y": scores}, labels)
    parent = item_scores(Metric("agreement", "y"), {"y": scores}, {"y": scores[::-1]})
    assert one.tolist() == [1, 0, 0]
    assert five.tolist() == [1, 0, 1]
    assert parent.tolist() == [0, 1, 0]


def test_labels_outside_the_classes_are_named():
    with pytest.raises(DataError, match=r"0\.\.7.*0\.\.2"):
        item_scores(Metric("top1", "y"), {"y": np.zeros((2, 3))}, np.array([0, 7]))


def test_noise_is_defined_at_zero():
    zero, one = np.zeros((1, 4)), np.ones((1, 4))
    assert noise_to_signal(zero, zero).tolist() == [0.0]
    assert noise_to_signal(one, zero).tolist() == [1.0]
    assert noise_to_signal(one * 1.1, one) == pytest.approx([0.01])
    assert decibel(0.01) == pytest.approx(20.0)
    assert decibel(0.0) is None


def test_nan_counts_as_noise_alone():
    scores = item_scores(Metric("snr"), {"y": np.array([[np.nan, 1.0]])}, {"y": np.ones((1, 2))})
    assert scores.tolist() == [0.0]


@given(st.integers(2, 400), st.data())
def test_drop_interval_holds_the_drop_and_is_never_narrower_than_what_was_not_seen(items, data):
    lost = data.draw(st.integers(0, items))
    gained = data.draw(st.integers(0, items - lost))
    parent, scores = np.zeros(items), np.zeros(items)
    parent[:lost] = 1
    scores[lost : lost + gained] = 1
    drop = paired_drop(parent, scores)
    low, high = tango(lost, gained, items)
    assert drop.value == pytest.approx((lost - gained) / items)
    assert drop.low <= drop.value <= drop.high
    assert drop.low <= low + 1e-9
    assert drop.high >= high - 1e-9


def test_tango_without_discordance_is_the_closed_form():
    for items in (10, 100, 1200):
        low, high = tango(0, 0, items)
        z2 = 1.959963984540054**2
        assert high == pytest.approx(z2 / (items + z2), rel=1e-6)
        assert low == pytest.approx(-high, rel=1e-6)


@pytest.mark.parametrize(("lost", "gained", "items"), [(9, 1, 75), (3, 0, 50), (0, 5, 1000), (40, 38, 1200)])
def test_tango_ends_are_where_the_score_statistic_of_the_likelihood_reaches_the_quantile(lost, gained, items):
    for delta, wanted in zip(tango(lost, gained, items), (1.959964, -1.959964), strict=True):
        share = np.linspace(max(0.0, -delta), (1 - delta) / 2, 400_001)[1:-1]
        with np.errstate(divide="ignore"):
            likelihood = np.where(lost, lost * np.log(share + delta), 0) + np.where(gained, gained * np.log(share), 0)
            likelihood = likelihood + (items - lost - gained) * np.log(1 - 2 * share - delta)
        best = share[np.nanargmax(likelihood)]
        statistic = (lost - gained - items * delta) / np.sqrt(items * (2 * best + delta * (1 - delta)))
        assert statistic == pytest.approx(wanted, abs=5e-3)


@pytest.mark.parametrize(
    ("lost", "gained", "items", "floor", "verdict"),
    [
        pytest.param(0, 0, 1200, 0.01, "within the floor", id="nothing lost over many items"),
        pytest.param(0, 0, 200, 0.01, "not enough data", id="nothing lost over few items promises little"),
        pytest.param(6, 4, 1200, 0.01, "within the floor", id="a few either way"),
        pytest.param(60, 0, 1200, 0.01, "past the floor", id="one in twenty lost"),
        pytest.param(10, 4, 1200, 0.01, "not enough data", id="the estimate holds, its interval does not"),
        pytest.param(0, 30, 1200, 0.0, "within the floor", id="better than the parent, floor zero"),
        pytest.param(2, 5, 100, 0.0, "not enough data", id="better by a little, floor zero"),
        pytest.param(0, 0, 1200, 0.0, "not enough data", id="no item could ever promise a floor of zero"),
        pytest.param(5, 5, 1200, 0.0, "not enough data", id="as many gained as lost, floor zero"),
    ],
)
def test_verdicts(lost, gained, items, floor, verdict):
    parent, scores = np.zeros(items), np.zeros(items)
    parent[:lost] = 1
    scores[lost : lost + gained] = 1
    found = judge("int8", Metric("top1", "y"), parent, scores, max_drop=floor)
    assert found.verdict == verdict, found
    assert (found.lost, found.gained) == (lost, gained)
    assert found.passes == (verdict == "within the floor")
    if verdict == "not enough data":
        assert found.needs is None or found.needs > items
        assert (found.needs is None) == (found.drop.value == floor)
    else:
        assert found.needs is None


@given(st.integers(0, 8), st.integers(0, 8), st.integers(20, 400), st.sampled_from([0.0, 0.005, 0.01, 0.05]))
def test_the_number_of_items_asked_for_is_enough_and_no_more(lost, gained, items, floor):
    difference = np.zeros(items)
    difference[:lost] = 1
    difference[lost : lost + gained] = -1
    needs = items_needed(difference, floor)
    if needs is None:
        assert difference.mean() >= floor
        return
    assert tango(lost / items * needs, gained / items * needs, needs)[1] <= floor + 1e-9
    assert tango(lost / items * (needs - 1), gained / items * (needs - 1), needs - 1)[1] > floor - 1e-9


def test_items_needed_of_scores_that_are_no_hits_follow_their_spread():
    difference = np.array([0.0, 0.02] * 50)  # mean 0.01, standard deviation 0.01
    assert items_needed(difference, 0.015) == 16  # (1.96 * 0.01 / 0.005) ** 2
    assert items_needed(difference, 0.01) is None


def test_too_few_items_to_promise_anything_are_told_from_a_candidate_that_loses():
    few = judge("x", Metric("top1", "y"), np.ones(100), np.ones(100), max_drop=0.01)
    assert few.hopeless
    many, scores = np.ones(1000), np.ones(1000)
    scores[:9] = 0
    lossy = judge("x", Metric("top1", "y"), many, scores, max_drop=0.01)
    assert (lossy.verdict, lossy.hopeless) == ("not enough data", False)


@pytest.mark.parametrize(
    ("parent", "value", "relative"),
    [
        pytest.param(0.8, 0.6, 0.25, id="a quarter lost"),
        pytest.param(0.5, 0.6, -0.2, id="gained"),
        pytest.param(0.0, 0.0, 0.0, id="neither scores"),
        pytest.param(0.0, 0.3, None, id="only the candidate scores: no number says how much more"),
    ],
)
def test_drops_are_defined_at_zero(parent, value, relative):
    items = 1000
    before, after = np.zeros(items), np.zeros(items)
    before[: round(parent * items)] = 1
    after[: round(value * items)] = 1
    found = judge("x", Metric("top1", "y"), before, after, max_drop=0.01)
    assert found.drop.value == pytest.approx(parent - value)
    assert found.relative == (None if relative is None else pytest.approx(relative))
    assert found.passes == (value >= parent)
    assert "positive is worse" in found.drop_formula


def test_without_labels_agreement_noise_by_output_and_the_worst_sample_are_told():
    rng = np.random.default_rng(0)
    parent = {"y": rng.normal(size=(500, 5)), "z": rng.normal(size=(500, 3))}
    candidate = {name: value + 1e-3 * rng.normal(size=value.shape) for name, value in parent.items()}
    candidate["y"][7] = -parent["y"][7]
    noise = {name: noise_to_signal(candidate[name], parent[name]) for name in parent}
    scores = item_scores(Metric("agreement", "y"), candidate, parent)
    found = judge("x", Metric("agreement", "y"), np.ones(500), scores, max_drop=0.05, noise=noise)
    assert found.verdict == "within the floor"
    assert found.worst[0]["index"] == 7
    assert found.snr_db["y"] < found.snr_db["z"]
    assert 50 < found.snr_db["z"] < 65  # noise of a thousandth: 60 dB, less what items of small signal weigh
    assert found.per_class == ()


def test_worst_classes_and_samples_are_named():
    labels = np.array([0, 0, 1, 1, 2, 2])
    parent, scores = np.ones(6), np.array([1, 1, 0, 0, 1, 0])
    noise = {"y": np.array([0, 0, 0.5, 0.9, 0, 0.2])}
    found = judge("x", Metric("top1", "y"), parent, scores, max_drop=0.01, labels=labels, noise=noise)
    assert found.per_class[0] == {"label": 1, "items": 2, "parent": 1.0, "value": 0.0, "drop": 1.0}
    assert [row["index"] for row in found.worst] == [3, 2, 5]
    assert found.snr_db["y"] == pytest.approx(decibel(1.6 / 6))


@pytest.mark.parametrize("scores", [[], [np.nan, 1.0]])
def test_scores_that_cannot_be_judged_are_refused(scores):
    with pytest.raises(DataError):
        judge("x", Metric("top1", "y"), np.ones(len(scores)), np.array(scores, dtype=float), max_drop=0.01)
