"""What a chosen plan misses of its targets is named, with the figure and the bound; what it holds is not."""

from types import SimpleNamespace

import pytest

from whet.optimize.finals import missed
from whet.optimize.lab import Record, capacity
from whet.optimize.trial_words import Measured
from whet.plan import Plan, Targets

PLAN = Plan("a" * 64)
CASE = capacity(PLAN)


def state_of(targets: Targets, *, accuracy: float | None = 0.8, highest: float | None = 90.0, failure: str = ""):
    blocks: list[Measured | None] = [Measured(50, 0.5, 100.0, [5.0], 0.5, 50.0)]
    verdict = None if accuracy is None else SimpleNamespace(value=accuracy, parent=accuracy)
    runs = {"highest_qps": highest, "promising_qps": highest, "words": "not at 50/s"}
    return SimpleNamespace(
        chosen=CASE,
        request=SimpleNamespace(targets=targets),
        record=lambda _: Record(CASE, blocks, failure=failure, over=2.0 if failure else 0.0),
        rates={PLAN.id: runs},
        served=None,
        verdicts={} if verdict is None else {(PLAN.artifact, PLAN.precision): verdict},
    )


@pytest.mark.parametrize(
    ("state", "says"),
    [
        pytest.param(state_of(Targets(min_accuracy=0.9)), "accuracy is 0.8000, --min-accuracy is 0.9", id="accuracy"),
        pytest.param(state_of(Targets(min_accuracy=0.9), accuracy=None), "unknown without data", id="no data"),
        pytest.param(state_of(Targets(min_qps=180)), "carries 90/s of 180/s wanted; 2.0x", id="rate"),
        pytest.param(state_of(Targets(p99_ms=30), highest=None), "p99 30 ms is not held: not at 50/s", id="tail"),
        pytest.param(state_of(Targets(p50_ms=30), highest=None), "p50 30 ms is not held", id="median"),
        pytest.param(
            state_of(Targets(max_rss_mb=25), failure="takes 50 MB, above --max-rss-mb 25"),
            "--max-rss-mb 25",
            id="limit",
        ),
    ],
)
def test_a_target_that_is_missed_is_named(state, says):
    (words,) = missed(state)
    assert says in words


def test_what_is_held_is_not_mentioned():
    targets = Targets(min_accuracy=0.7, min_qps=80, p99_ms=50, p50_ms=45, max_rss_mb=100, max_load_ms=1e4)
    assert missed(state_of(targets)) == []


def test_what_http_held_counts_before_what_the_engine_held():
    state = state_of(Targets(p99_ms=30, min_qps=80), highest=None)
    state.served = {"highest_qps": None, "promising_qps": 85.0, "words": "not shown at 85/s"}
    assert missed(state) == []
    state.served = {"highest_qps": None, "promising_qps": None, "words": "not at 20/s"}
    assert missed(state)[0] == "p99 30 ms is not held: not at 20/s"
    state.served = {"reason": "not served: the server ended"}
    assert missed(state)[0] == "p99 30 ms is not held: not at 50/s"
