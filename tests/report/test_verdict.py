"""The verdict says what the evidence supports, and no more."""

import re

import pytest

from whet.report import summary_tables, verdict_of


def test_it_names_plan_speed_target_and_accuracy(sample):
    said = verdict_of(sample).replace("\u2009", " ")
    assert said.startswith("openvino int8+f32 1x2 b1 serves 116 samples/s, 1.79\u00d7 (")
    assert "the throughput of OpenVINO f32 defaults" in said  # the fastest baseline, not the weakest
    assert re.search(r"p99 is 28\.4 ms at 109 requests/s, too close to the target of 30 ms to tell", said)
    assert said.endswith("top1 drops by 0.0025, at most 0.0091 with 95 % confidence: within the floor.")


def test_it_does_not_call_noise_a_gain(sample):
    sample["chosen"]["speedup"]["over"] = {"OpenVINO f32 defaults": {"value": 1.01, "low": 0.97, "high": 1.05}}
    assert "which cannot be told apart here from OpenVINO f32 defaults" in verdict_of(sample)


@pytest.mark.parametrize(("bound", "words"), [(40.0, "within the target of 40 ms"), (20.0, "past the target of 20 ms")])
def test_it_judges_the_interval_not_the_point(sample, bound, words):
    sample["targets"]["p99_ms"] = bound
    assert words in verdict_of(sample)


def test_without_an_open_loop_it_takes_the_closed_one(sample):
    del sample["chosen"]["load"]
    p99 = sample["chosen"]["trial"]["latency_ms"]["p99"]["value"]
    assert f"p99 is {p99:.1f} ms, within" in verdict_of(sample)


def test_the_open_loop_is_judged_where_it_held_or_at_its_lowest_rate(sample):
    load = sample["chosen"]["load"]
    load["highest_qps"] = None
    lowest = min(load["runs"], key=lambda run: run["qps"])
    assert f"p99 is {lowest['latency_ms']['p99']['value']:.1f} ms at 98.9 requests/s" in verdict_of(sample)


def test_nothing_chosen_is_said_with_what_was_asked(sample):
    sample["chosen"] = None
    said = verdict_of(sample)
    assert said.startswith("No plan was chosen: none of the 46 measured plans reaches the targets (p99_ms 30.0")


def test_a_terminal_gets_the_tables_that_matter(sample):
    captions = [table.caption for table in summary_tables(sample)]
    assert captions == [
        "Baselines and the chosen plan",
        "What each step gained",
        "Accuracy against the f32 parent",
        "Refused or failed, with the reason",
    ]
    for table in summary_tables(sample):
        assert all(len(row) == len(table.columns) for row in table.rows)
    table = summary_tables(sample)[0]
    assert table.rows[table.strong][0].text == sample["chosen"]["label"]
