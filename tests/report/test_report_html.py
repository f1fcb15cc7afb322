"""The HTML report: self-contained, well-formed, hostile names harmless, and its numbers those of the evidence."""

import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from whet.errors import BundleError
from whet.report import render_html, render_json, render_markdown
from whet.report.words import number, points, quantity, ratio

VOID = {"meta", "br"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&| `*_[x](javascript:alert(3))"


class Reader(HTMLParser):
    """Collects what a browser would see, and insists on balanced tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.handlers, self.texts, self.ids = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "action", "srcset", "poster", "data"):
                self.links.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def visible(text):
    return re.sub(r"\s+", " ", " ".join(Reader(text).texts).replace("\u2009", " "))


def test_the_file_asks_for_nothing_from_anywhere(sample):
    text = render_html(sample)
    page = Reader(text)
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert "://" not in text.split('id="evidence"')[0].replace("://127", "")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert "default-src 'none'" in text
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(page.tags)


def test_anchors_lead_somewhere_and_every_section_has_a_heading(sample):
    text = render_html(sample)
    page = Reader(text)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("h1") == 1
    assert page.tags.count("h2") == page.tags.count("section")


def test_every_plot_is_well_formed_and_says_what_it_shows(sample):
    plots = re.findall(r"<svg.*?</svg>", render_html(sample), re.DOTALL)
    assert len(plots) >= 8
    for plot in plots:
        root = ET.fromstring(plot)
        assert root.get("aria-label")
        numbers = re.findall(r'(?:x|y|cx|cy|width|height|d)="([^"]*)"', plot)
        assert not any("nan" in each or "inf" in each for each in numbers)
        marks = [each for each in root.iter() if each.get("data-tip")]
        assert marks
        assert all(each.get("tabindex") == "0" and each.get("aria-label") for each in marks)


def test_the_sample_is_what_its_script_writes(tmp_path):
    script = Path(__file__).parent / "make_sample.py"
    assert json.loads(json.dumps(runpy.run_path(str(script))["result"]())) == json.loads(
        (Path(__file__).parent / "sample_result.json").read_text()
    )


def test_the_numbers_are_those_of_the_evidence(sample):
    text = visible(render_html(sample))

    def seen(words):
        assert words.replace("\u2009", " ") in text, words

    for each in sample["trials"]:
        if each["status"] == "ok":
            seen(each["label"])
            seen(number(each["throughput_per_s"]["value"]))
    for each in sample["baselines"]:
        rate, over = each["trial"]["throughput_per_s"], sample["chosen"]["speedup"]["over"][each["name"]]
        for words in (each["name"], number(rate["value"]), ratio(over["value"]), *each["handicaps"]):
            seen(words)
    for each in sample["accuracy"]:
        for words in (each["candidate"], points(each["value"]), points(each["drop"]["value"]), each["verdict"]):
            seen(words)
        seen(f"{points(each['drop']['low'])} to {points(each['drop']['high'])}")
    for layer in sorted(sample["layers"], key=lambda each: -each["time_ms"])[:20]:
        seen(layer["name"])
        seen(f"{layer['time_ms']:.3f}")
    for each in sample["refused"]:
        seen(each["what"])
        seen(each["reason"])
    for each in sample["advice"]:
        seen(each["words"].rstrip("."))
    for name, version in sample["versions"].items():
        seen(name)
        seen(version)
    for each in sample["chosen"]["load"]["runs"]:
        seen(number(each["qps"]))
        seen(number(each["latency_ms"]["p99"]["value"]))
    failed = next(each for each in sample["trials"] if each["status"] == "failed")
    seen(failed["reason"])


def test_a_changed_number_changes_the_report(sample):
    before = visible(render_html(sample))
    sample["chosen"]["trial"]["throughput_per_s"] = {"value": 123.456, "low": 120.5, "high": 129.5}
    after = visible(render_html(sample))
    assert "123 samples/s" in after
    assert "120 to 130" in after
    assert "123 samples/s" not in before


def test_the_evidence_travels_with_the_report(sample):
    sample["model"]["name"] = HOSTILE
    text = render_html(sample)
    carried = re.search(r'<script type="application/json" id="evidence">(.*?)</script>', text, re.DOTALL).group(1)
    assert json.loads(carried) == sample


def test_hostile_names_stay_text(sample):
    def poison(value):
        if isinstance(value, dict):
            return {HOSTILE if key == "nr_throttled" else key: poison(each) for key, each in value.items()}
        if isinstance(value, list):
            return [poison(each) for each in value]
        known = ("ok", "failed", "refused", "within the floor", "past the floor", "not enough data", "system")
        return HOSTILE + value if isinstance(value, str) and value not in known else value

    text = render_html(poison(sample))
    page = Reader(text)
    plain = Reader(render_html(sample))
    assert page.handlers == []
    assert page.tags.count("script") == plain.tags.count("script") == 2
    assert "img" not in page.tags
    for plot in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(plot)
    markdown = render_markdown(poison(sample))
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert not re.search(r"(?<!\\)\]\(", markdown)  # no link


SECTIONS = ("baselines", "ablation", "pareto", "trials", "accuracy", "layers", "roofline", "refused", "advice", "noise",
            "served", "chosen", "service", "targets", "host", "versions", "model", "data")  # fmt: skip


@pytest.mark.parametrize("absent", SECTIONS)
def test_what_was_not_measured_is_said_or_left_out_never_made_up(sample, absent):
    del sample[absent]
    without = render_html(sample)
    sample[absent] = None
    assert visible(render_html(sample)) == visible(without)
    Reader(without)
    titles = {"ablation": "What each step gained", "layers": "Slowest layers", "roofline": "Roofline",
              "served": "Served", "pareto": "Throughput against latency"}  # fmt: skip
    if absent in titles:
        assert f'<section id="{absent}"' not in without
        listed = without.split("Not measured in this run, and so not shown:")[1]
        assert f"<li>{titles[absent]}</li>" in listed


def test_almost_empty_evidence_makes_a_report():
    text = render_html({"schema": 1})
    assert "No plan was chosen: none of the 0 measured plans reaches the targets." in visible(text)
    assert render_markdown({"schema": 1})


def test_values_at_the_edges_do_not_break_a_plot(sample):
    sample["pareto"] = [{"label": "one", "throughput_per_s": 0.0, "latency_p99_ms": 5.0, "chosen": True}]
    sample["ablation"] = [{"step": "a", "throughput_per_s": 0.0}, {"step": "b", "throughput_per_s": 1e9, "gain": 1.0}]
    trial = sample["chosen"]["trial"]
    trial["latency_ms"]["histogram"] = {"edges_ms": [3.0, 3.0], "counts": [7]}
    sample["layers"] = [{"name": "x", "time_ms": 0.0}]
    sample["roofline"] = {"peaks": [{"name": "f32", "value": 1e-6}], "bandwidth": {"name": "m", "value": 1e6}}
    sample["accuracy"] = [{"candidate": "c", "metric": "m", "drop": {"value": 0, "low": 0, "high": 0}}]
    sample["trials"] = [trial, {"status": "ok", "throughput_per_s": 0.0, "plan": {"streams": "many"}}]
    text = render_html(sample)
    for plot in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(plot)
        assert not re.search(r'="[^"]*(nan|inf)[^"]*"', plot)


def test_numbers_that_are_none_count_as_not_measured(sample):
    nothing = {"value": None, "low": None, "high": None}
    sample["chosen"]["trial"]["rss_mb"] = float("nan")
    sample["chosen"]["speedup"]["over"] = {"OpenVINO f32 defaults": nothing}
    sample["noise"]["floor"] = {"value": float("inf"), "low": 0.9, "high": float("inf")}
    text = render_html(sample)
    assert "Memory" not in re.findall(r"<dt>(.*?)</dt>", text)
    assert not re.search(r"\b(nan|inf)\b", visible(text).lower())
    assert json.loads(render_json(sample))["noise"]["floor"]["value"] is None


def test_plans_without_a_p99_are_drawn_at_their_median(sample):
    for each in sample["pareto"]:
        each |= {"latency_p50_ms": 9.5, "latency_p99_ms": None}
    text = visible(render_html(sample))
    assert "p50 latency, ms" in text
    assert "target: p99" not in text
    assert "Most plans have too few answers for a p99" in text


def test_a_percentile_without_enough_data_says_so(sample):
    sample["chosen"]["trial"]["latency_ms"]["p99"] = None
    del sample["chosen"]["load"]
    text = visible(render_html(sample))
    assert "not enough data" in text
    assert "p99 is" not in text.split("Baseline against chosen")[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema 2, this Whet reads 1"),
        ({"trials": {"a": 1}}, r"\$\.trials"),
        ({"baselines": [{"name": 5}]}, r"\$\.baselines\[0\]\.name"),
        ({"pareto": [{"label": "x", "throughput_per_s": "fast"}]}, "throughput_per_s"),
    ],
)
def test_evidence_of_another_shape_is_refused_with_its_path(sample, change, words):
    with pytest.raises(BundleError, match=words):
        render_html(sample | change)


def test_markdown_has_the_same_tables(sample):
    text = render_markdown(sample).replace("\u2009", " ")
    for each in sample["trials"]:
        assert each["label"].replace("_", r"\_") in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 80
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert max(widths) <= 10
    rate = sample["chosen"]["trial"]["throughput_per_s"]
    assert quantity(rate["value"], "samples/s") in text
