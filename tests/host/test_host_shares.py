import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from whet.errors import PlanRefused
from whet.host import shares

WEIGHTS = st.dictionaries(
    st.text(min_size=1, max_size=4), st.floats(1e-300, 1e300, exclude_min=True), min_size=1, max_size=12
)


@given(st.integers(1, 200), WEIGHTS)
def test_all_cores_are_given_and_never_more(cores, weights):
    assert sum(shares(cores, weights).values()) == cores


@given(st.integers(1, 200), WEIGHTS)
def test_every_model_has_a_core_while_there_are_enough(cores, weights):
    result = shares(cores, weights)
    if len(weights) <= cores:
        assert min(result.values()) >= 1
    else:
        assert sorted(set(result.values())) == [0, 1]
    assert list(result) == list(weights)


@given(st.integers(1, 200), WEIGHTS)
def test_the_heavier_never_gets_less(cores, weights):
    result = shares(cores, weights)
    for light, heavy in itertools.permutations(weights, 2):
        if weights[light] < weights[heavy]:
            assert result[light] <= result[heavy]


@given(st.integers(1, 64), st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 20), min_size=1, max_size=8))
def test_shares_are_proportional_to_within_one_core(cores, weights):
    total = sum(weights.values())
    assume(all(cores * weight >= total for weight in weights.values()))
    for name, share in shares(cores, weights).items():
        assert abs(share - cores * weights[name] / total) < 1


@given(st.integers(1, 64), st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 20), min_size=1, max_size=8))
def test_the_order_of_models_does_not_matter(cores, weights):
    backwards = dict(reversed(weights.items()))
    assert shares(cores, weights) == shares(cores, backwards)


@pytest.mark.parametrize(
    ("cores", "weights", "expected"),
    [
        (8, {"a": 1, "b": 1}, {"a": 4, "b": 4}),
        (8, {"a": 6, "b": 1, "c": 1}, {"a": 6, "b": 1, "c": 1}),
        (7, {"a": 1, "b": 1}, {"a": 4, "b": 3}),
        (4, {"a": 100, "b": 1, "c": 1}, {"a": 2, "b": 1, "c": 1}),
        (2, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 0}),
        (2, {"a": 1, "b": 1, "c": 5}, {"a": 1, "b": 0, "c": 1}),
        (1, {"only": 3}, {"only": 1}),
        (10, {"a": 5, "b": 3, "c": 2}, {"a": 5, "b": 3, "c": 2}),
        (3, {}, {}),
    ],
)
def test_shares_of(cores, weights, expected):
    assert shares(cores, weights) == expected


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_weights_must_be_positive_and_finite(weight):
    with pytest.raises(PlanRefused, match="the weight of model 'b' is"):
        shares(4, {"a": 1.0, "b": weight})


def test_no_core_cannot_be_divided():
    with pytest.raises(PlanRefused, match="a budget of 0 cores"):
        shares(0, {"a": 1.0})
