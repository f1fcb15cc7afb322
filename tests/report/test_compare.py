"""Comparing two searches, and reading evidence from a bundle."""

import copy
import json

import pytest

from whet.errors import BundleError
from whet.report import compare, load_evidence, render_json
from whet.report.compare import comparison_page, unpaired_ratio
from whet.report.html import to_html
from whet.report.markdown import to_markdown
from whet.report.model import Estimate


def test_the_same_twice_shows_no_difference(sample):
    found = compare(sample, sample)
    assert found["knobs"] == {}
    assert not any(found["changed"].values())
    assert all(each["ratio"]["value"] == 1.0 for each in found["plans"])
    assert "cannot be told apart: 1.00\u00d7" in comparison_page(found).verdict


def test_changes_are_named_with_both_values(sample):
    other = copy.deepcopy(sample)
    other["versions"]["openvino"] = "2026.5.0"
    other["chosen"]["plan"]["streams"] = 7
    rate = other["chosen"]["trial"]["throughput_per_s"]
    other["chosen"]["trial"]["throughput_per_s"] = {name: 1.5 * value for name, value in rate.items()}
    found = compare(sample, other)
    assert found["changed"]["versions"] == {"openvino": ["2026.4.1", "2026.5.0"]}
    assert found["knobs"] == {"streams": [1, 7]}
    assert found["chosen"]["throughput_per_s"]["ratio"]["value"] == pytest.approx(1.5)
    page = comparison_page(found)
    assert page.verdict.startswith("Throughput is 1.50\u00d7 what it was (")
    for text in (to_html(page), to_markdown(page)):
        assert "2026.5.0" in text
    json.dumps(found, allow_nan=False)


def test_a_search_without_a_choice_cannot_be_compared(sample):
    other = copy.deepcopy(sample) | {"chosen": None}
    found = compare(sample, other)
    assert comparison_page(found).verdict.startswith("The two cannot be compared")
    to_html(comparison_page(found))


def test_an_unpaired_ratio_is_wider_than_either_side():
    a, b = Estimate(100.0, 95.0, 105.0), Estimate(120.0, 114.0, 126.0)
    found = unpaired_ratio(a, b)
    assert found.value == pytest.approx(1.2)
    low, high = found.ends
    assert low < 1.2 * 0.95 < 1.2 * 1.05 < high
    assert unpaired_ratio(a, None) is None
    assert unpaired_ratio(0.0, b) is None
    assert not unpaired_ratio(100.0, b).bounded


def test_evidence_is_read_from_a_bundle_and_refused_when_damaged(sample, tmp_path):
    folder = tmp_path / "evidence"
    with pytest.raises(BundleError, match="give a bundle that optimize wrote"):
        load_evidence(tmp_path)
    folder.mkdir()
    file = folder / "result.json"
    file.write_text(render_json(sample))
    assert load_evidence(tmp_path) == sample
    for broken, words in (
        ("{", "is damaged"),
        ("[]", "schema list"),
        ('{"schema": 9}', "schema 9"),
        ('{"schema": 1, "trials": 3}', r"\$\.trials"),
    ):
        file.write_text(broken)
        with pytest.raises(BundleError, match=words) as caught:
            load_evidence(tmp_path)
        assert str(file) in str(caught.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="is damaged"):
        load_evidence(tmp_path)


def test_json_is_checked_too(sample):
    with pytest.raises(BundleError):
        render_json({"schema": 1, "layers": "many"})
    assert json.loads(render_json(sample)) == sample
