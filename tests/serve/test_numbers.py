"""What is counted: histograms, sums over workers, Prometheus text, statistics, and the docs that name it all."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.engine.request import EDGES_NS, EngineStats, Timing
from whet.serve.fleet import Standing, assess, departed, totals
from whet.serve.meters import Durations, Meter, WorkerNumbers, merge
from whet.serve.metrics import METRICS, Fleet, render, statistics

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "metrics.md"
DURATIONS = st.lists(st.integers(0, 10**11), max_size=30)


def stats(**changes):
    empty = {
        "accepted": 0, "answered": 0, "failed": 0, "refused": {}, "batches": {}, "padded_rows": 0, "queued": 0,
        "in_flight": 0, "lanes": 2, "lane_busy_ns": 0, "service_ms": {}, "queue_ns_sum": 0, "compute_ns_sum": 0,
        "queue_histogram": (0,) * (len(EDGES_NS) + 1), "compute_histogram": (0,) * (len(EDGES_NS) + 1),
    }  # fmt: skip
    return EngineStats(**{**empty, **changes})


def worker(index, requests=1, version="1", **engine):
    meter = Meter("m", version)
    for _ in range(requests):
        meter.answered("http", Timing(1000, 2000, 3000, 4000), 2, 0)
    return WorkerNumbers(index, 100 + index, rss_bytes=1 << 20, models=[meter.snapshot(stats(**engine))])


@given(DURATIONS, DURATIONS)
def test_histograms_add_up_as_if_they_were_one(one, two):
    parts = [Durations(), Durations(), Durations()]
    for ns in one:
        parts[0].add(ns)
        parts[2].add(ns)
    for ns in two:
        parts[1].add(ns)
        parts[2].add(ns)
    parts[0].merge(parts[1])
    assert parts[0] == parts[2]
    assert (parts[0].count, parts[0].sum_ns) == (len(one) + len(two), sum(one) + sum(two))


@given(st.integers(0, 10**11))
def test_a_duration_falls_at_or_below_its_edge(ns):
    histogram = Durations()
    histogram.add(ns)
    place = histogram.counts.index(1)
    assert place == len(EDGES_NS) or ns <= EDGES_NS[place]
    assert place == 0 or ns > EDGES_NS[place - 1]


def test_workers_add_up():
    (model,) = merge([worker(0, 3, queued=1, batches={2: 3}), worker(1, 4, queued=5, batches={2: 1, 4: 1})])
    assert (model.answered(), model.rows, model.queued, model.workers, model.lanes) == (7, 14, 6, 2, 4)
    assert model.batches == {2: 4, 4: 1}
    assert model.total["http"].count == 7


def test_counters_outlive_an_engine_and_gauges_do_not():
    meter = Meter("m", "1")
    meter.absorb(stats(batches={1: 5}, lane_busy_ns=7, queued=9, refused={"queue-full": 2}))
    after = meter.snapshot(stats(batches={1: 1}, lane_busy_ns=1, refused={"queue-full": 1}))
    assert (after.batches, after.lane_busy_ns, after.refused) == ({1: 6}, 8, {"queue-full": 3})
    assert (after.queued, after.lanes, after.workers) == (0, 2, 1)
    assert meter.snapshot(None).workers == 0


def test_counters_outlive_a_worker_and_gauges_do_not():
    gone = departed(worker(0, 3, queued=5))
    (model,) = merge(totals([worker(1, 1)], gone))
    assert (model.answered(), model.queued, model.workers) == (4, 0, 1)
    text = render(totals([worker(1, 1)], gone), Fleet()).decode()
    assert 'worker="1"' in text
    assert 'worker="-1"' not in text


def test_text_is_prometheus():
    meter = Meter('we"ird\\na\nme', "1")
    meter.answered("http", Timing(1000, 2000, 3000, 4000, 2, 0), 2, 0)
    meter.failed("grpc", "queue-full", 0)
    numbers = WorkerNumbers(0, 1, models=[meter.snapshot(stats(batches={3: 2, 5000: 1}))])
    text = render([numbers], Fleet(whet="9", ready=True, throttled_ns=10**9, throttled=1, periods=2)).decode()
    line = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="([^"\\\n]|\\[\\"n])*",?)+\})? [0-9.e+-]+)')
    assert all(line.fullmatch(one) for one in text.rstrip("\n").split("\n"))
    assert r'model="we\"ird\\na\nme"' in text
    assert "whet_cpu_throttled_seconds_total 1\n" in text
    counts = [int(one.split()[-1]) for one in text.split("\n") if one.startswith("whet_batch_rows_bucket")]
    assert counts == sorted(counts)
    assert (counts[1], counts[2], counts[-1]) == (0, 2, 3)
    for name, metric in METRICS.items():
        assert name.endswith("_total") == (metric.kind == "counter")
        assert text.count(f"# TYPE {name} ") <= 1


def test_a_request_to_no_model_is_counted_and_nothing_more():
    nobody = Meter("", "")
    nobody.failed("http", "not-found", 0)
    text = render([WorkerNumbers(0, 1, models=[nobody.snapshot(None)])], Fleet()).decode()
    assert 'whet_requests_total{model="",version="",transport="http",code="not-found"} 1' in text
    assert "whet_queue_depth" not in text


def test_statistics_are_the_protocols():
    numbers = merge([worker(0, 2, batches={2: 2}, queue_ns_sum=2000, compute_ns_sum=4000)])
    (one,) = statistics(numbers)["model_stats"]
    assert (one["name"], one["inference_count"], one["execution_count"]) == ("m", 4, 2)
    assert one["inference_stats"]["success"]["count"] == 2
    assert one["inference_stats"]["compute_input"] == {"count": 2, "ns": 6000}
    assert one["inference_stats"]["compute_output"] == {"count": 2, "ns": 8000}
    assert one["inference_stats"]["compute_infer"]["ns"] == 4000
    assert one["last_inference"] > 0


A, B = ("a", "1"), ("b", "1")
FULL, HALF, NONE = Standing(True, frozenset({A, B})), Standing(True, frozenset({A})), Standing()


@pytest.mark.parametrize(
    ("standings", "before", "ready", "degraded"),
    [
        ([FULL, FULL], False, True, False),
        ([FULL, HALF], False, False, False),
        ([FULL, NONE], False, False, False),
        ([FULL, HALF], True, True, True),
        ([FULL, NONE], True, True, True),
        ([HALF, HALF], True, False, False),
        ([NONE, NONE], True, False, False),
        ([], True, False, False),
    ],
    ids=[
        "all have all", "at first one lacks a model", "at first one is missing", "later one lacks a model",
        "later one is missing", "nobody has one of them", "nobody is there", "no workers",
    ],
)  # fmt: skip
def test_ready_is_true_when_it_is_true(standings, before, ready, degraded):
    fleet = assess({A, B}, standings, Fleet(ready_once=before))
    assert (fleet.ready, fleet.degraded) == (ready, degraded)
    assert fleet.ready_once == (before or ready)


def test_the_docs_name_every_metric_with_its_words():
    text = DOCS.read_text()
    for metric in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |" in text, metric.name
    assert set(re.findall(r"^\| `(whet_\w+)`", text, re.MULTILINE)) == set(METRICS)
