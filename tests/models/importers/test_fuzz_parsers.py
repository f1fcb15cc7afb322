"""A short run of the fuzzer over every parser of our own; the long one is `scripts/fuzz_parsers --inputs 1000000`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "fuzz_parsers"


INPUTS = {
    "prototxt": 2500,
    "wire": 2500,
    "ndarray": 2500,
    "symbol": 2500,
    "netdef": 2500,
    "savedmodel": 900,
    "tflite": 2500,
}


@pytest.mark.parametrize(("parser", "inputs"), INPUTS.items(), ids=INPUTS)
def test_no_mutated_input_breaks_a_parser(tmp_path, parser, inputs):
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        str(SCRIPT),
        "--inputs",
        str(inputs),
        "--parser",
        parser,
        "--seed",
        "7",
        "--json",
        str(report),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert report.exists(), done.stderr
    (result,) = json.loads(report.read_text())
    assert result["found"] == []
    assert result["inputs"] == inputs
    assert result["framing_valid"] * 2 >= result["inputs"]
    assert result["peak_rss_bytes"] < 1 << 30
    assert min(result["reach"].values()) >= 0.9, result["missing"]
    assert done.returncode == 0
