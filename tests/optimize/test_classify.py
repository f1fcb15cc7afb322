"""What a service is bound by, from what a short measurement saw."""

from dataclasses import replace

import pytest

from whet.optimize.classify import ORDERS, Seen, judge

PLAIN = Seen(gain=1.1, busy=0.95, moving=0.01, weights_bytes=10_000_000, cache_bytes=32_000_000)


@pytest.mark.parametrize(
    ("seen", "bound", "says"),
    [
        pytest.param(PLAIN, "compute", "+10 %", id="arithmetic"),
        pytest.param(replace(PLAIN, gain=2.5), "queue", "cost of a call", id="cost of a call"),
        pytest.param(replace(PLAIN, gain=2.5, weights_bytes=90_000_000), "memory", "90 MB", id="weights"),
        pytest.param(replace(PLAIN, gain=2.5, cache_bytes=None), "queue", "cost of a call", id="cache unknown"),
        pytest.param(replace(PLAIN, moving=0.8), "io", "80 %", id="bytes"),
        pytest.param(replace(PLAIN, busy=0.2), "io", "20 % of the time", id="idle cores"),
        pytest.param(replace(PLAIN, gain=None), "unknown", "not measured", id="no batches"),
        pytest.param(Seen(None, None, None, 1, None), "unknown", "not measured", id="nothing"),
    ],
)
def test_each_limit_is_told_from_the_others_with_its_number(seen, bound, says):
    found, words = judge(seen)
    assert found == bound
    assert says in words


def test_every_verdict_orders_the_search_and_leaves_time_for_every_level():
    for order in ORDERS.values():
        assert 0.1 < order.system < order.application < 0.5
        assert order.batches
        assert 1 <= order.must <= len(order.batches)
    assert max(ORDERS["memory"].batches) > max(ORDERS["compute"].batches)
    assert ORDERS["compute"].application < ORDERS["memory"].application
