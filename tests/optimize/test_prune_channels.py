"""Widths after pruning: whole blocks of channels, the share that was asked for, never a layer without any."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.optimize.compress.prune.channels import Width, each, legal, multiple_for, together

MULTIPLES = st.sampled_from([1, 4, 8, 16, 64])
RATIOS = st.floats(0.01, 0.95)


@st.composite
def widths(draw) -> Width:
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    places = draw(st.integers(1, 40))
    scores = draw(st.lists(st.floats(0, 10, width=32), min_size=places, max_size=places))
    return Width(places * groups + groups * draw(st.integers(0, 8)), tuple(scores), groups)


NETS = st.lists(widths(), min_size=1, max_size=6)


@pytest.mark.parametrize("choose", [each, together])
@given(net=NETS, ratio=RATIOS, multiple=MULTIPLES)
def test_a_width_is_whole_blocks_or_what_it_was(choose, net, ratio, multiple):
    for width, kept in zip(net, choose(net, ratio, multiple), strict=True):
        assert 0 < kept <= width.channels
        assert kept == width.channels or (kept % multiple == 0 and kept % width.groups == 0)


@given(net=NETS, ratio=RATIOS, multiple=MULTIPLES)
def test_no_legal_width_is_nearer_to_the_share_of_a_layer(net, ratio, multiple):
    for width, kept in zip(net, each(net, ratio, multiple), strict=True):
        wanted = width.original * (1 - ratio)
        assert abs(kept - wanted) <= min(abs(one - wanted) for one in legal(width, multiple)) + 1e-9


@given(net=NETS, multiple=MULTIPLES, low=RATIOS, high=RATIOS)
def test_more_is_removed_where_more_is_asked_for(net, multiple, low, high):
    low, high = min(low, high), max(low, high)
    assert all(a >= b for a, b in zip(each(net, low, multiple), each(net, high, multiple), strict=True))


@given(net=NETS, ratio=RATIOS, multiple=MULTIPLES)
def test_the_share_of_all_layers_together_is_met_to_half_a_block_where_blocks_are_left(net, ratio, multiple):
    kept = together(net, ratio, multiple)
    over = sum(kept) - sum(width.original for width in net) * (1 - ratio)
    for width, now in zip(net, kept, strict=True):
        smaller = [one for one in legal(width, multiple) if one < now]
        if smaller:  # removing one more block would not come nearer
            assert abs(over - (now - smaller[-1])) >= abs(over) - 1e-6 or over <= 0


@given(places=st.integers(2, 12), multiple=st.sampled_from([1, 4, 16]))
def test_together_the_unimportant_layer_gives_first(places, multiple):
    size = places * multiple
    dull, bright = Width(size, (0.1,) * size), Width(size, (1.0,) * size)
    kept = together([bright, dull], 0.5 / places, multiple)
    assert kept == [size, size - multiple]


@pytest.mark.parametrize(
    ("isa", "multiple"),
    [
        (("avx2", "fma", "avx512f", "avx512_vnni"), 16),
        (("avx2", "fma"), 8),
        (("neon", "dotprod"), 4),
        ((), 4),
    ],
)
def test_the_multiple_fills_the_hosts_registers(isa, multiple):
    assert multiple_for(isa) == multiple


def test_groups_and_registers_are_both_respected():
    width = Width(96, (1.0,) * 32, groups=3)
    assert legal(width, 16) == [48, 96]
    assert each([width], 0.5, 16) == [48]
    assert math.lcm(16, 3) == 48
