"""Numbers in words, scales and fronts: the pure parts under the report."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.report import words
from whet.report.bars import wrap
from whet.report.charts import pareto_front
from whet.report.model import Estimate
from whet.report.svg import Scale, linear, logarithmic, tick_text

positive = st.floats(1e-6, 1e9)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (1234.5, "1 234"), (12.34, "12.3"), (9.996, "10.0"), (0.012345, "0.0123"), (-0.5, "\u22120.500"),
     (999.6, "1 000"), (1e6, "1 000 000"), (99.95, "100")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value, said):
    assert words.number(value).replace("\u2009", " ") == said


@given(positive, st.integers(2, 6))
def test_rounding_never_loses_more_than_half_a_digit(value, digits):
    said = float(words.number(value, digits).replace("\u2009", ""))
    assert abs(said - value) <= 0.5000001 * 10 ** (math.floor(math.log10(value)) - digits + 1) + 1e-12


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.31, "+31 %"), (0.958, "\u22124.2 %"), (1.0, "+0.0 %"), (4.5, "4.50\u00d7"), (1.0996, "+10 %")],
)
def test_gains_are_signed_percentages_or_factors(value, said):
    assert words.gain(value).replace("\u2009", " ") == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "not measured"), (3.21, "3.2 s"), (48.4, "48 s"), (125, "2 min 05 s"), (4210, "1 h 10 min")],
)
def test_durations_are_said_as_people_do(value, said):
    assert words.seconds(value) == said


def test_what_is_missing_is_said():
    assert words.quantity(None, "ms") == words.ratio(None) == words.gain(None) == words.share(None) == "not measured"
    assert words.interval(3.0) == words.interval(None) == words.points_between(Estimate(1.0)) == ""
    assert words.distinguishable(Estimate(1.2)) is None
    assert words.distinguishable(Estimate(1.2, 1.1, 1.3)) is True
    assert words.distinguishable(Estimate(1.02, 0.98, 1.06)) is False


def test_plain_values_of_any_kind_fit_one_line():
    value = {"a": [1, 2.5], "b_c": None, "d": {"value": 1.0, "low": 0.5, "high": 2.0}, "e": True}
    assert words.plain(value) == "a 1, 2.500, b c not measured, d 1.00 (0.500 to 2.00), e yes"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.booleans())
def test_linear_scales_hold_every_value_and_keep_order(values, zero):
    scale = linear(values, 100, 900, zero=zero)
    pixels = [scale(value) for value in sorted(values)]
    assert all(99.99 <= pixel <= 900.01 for pixel in pixels)
    assert all(b >= a for a, b in itertools.pairwise(pixels))
    assert scale.low <= min(values)
    assert scale.high >= max(values)


@given(st.lists(positive, min_size=1, max_size=20))
def test_log_scales_hold_every_value(values):
    scale = logarithmic(values, 400, 0)
    assert all(0 <= scale(value) <= 400 for value in values)
    assert scale(0.0) == 400  # nothing falls off the picture
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 40
    assert ticks == sorted(ticks)


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_few_round_and_inside(low, span, count):
    scale = Scale(low, low + span, 0, 100)
    ticks = scale.ticks(count)
    assert len(ticks) <= count + 2
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    steps = {round((b - a) / span, 9) for a, b in itertools.pairwise(ticks)}
    assert len(steps) <= 1 or max(steps) - min(steps) < 1e-6


def test_ticks_are_written_short():
    assert [tick_text(value) for value in (0, 0.05, 1500, 2e6, 0.0002, -5)] == [
        "0", "0.05", "1\u2009500", "2e6", "2e\u22124", "\u22125",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=30))
def test_the_front_holds_exactly_what_nothing_beats(points):
    front = pareto_front(points)
    for point in points:
        beaten = any(o != point and o[0] >= point[0] and o[1] <= point[1] for o in points)
        assert (point in front) == (not beaten)
    assert [x for x, _ in front] == sorted({x for x, _ in front}, reverse=True)


@given(st.text(max_size=200), st.integers(10, 40))
def test_names_take_at_most_two_lines(text, width):
    lines = wrap(text, width)
    assert 1 <= len(lines) <= 2
    assert all(len(line) <= width + 2 for line in lines)
