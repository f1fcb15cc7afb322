"""A bundle of two hosts at the command line: listed, reported and exported by host."""

import json
from pathlib import Path

import pytest

from whet.cli import main
from whet.host import read_host
from whet.host.fingerprint import digest
from whet.models.bundle import PlanRecord
from whet.models.hosts import Share, put
from whet.plan import Plan

TESTS = Path(__file__).parent.parent
HERE = read_host().fingerprint_fields
BIG = {**HERE, "model": "Xeon 8480+", "isa": [*HERE["isa"], "amx_int8"], "cores": 64, "physical": 64}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, nets):
    """Two hosts with their plans and evidence: the big one was first."""
    folder = tmp_path_factory.mktemp("hosts")
    artifact = nets.mlp(folder)
    for fields, streams in ((BIG, 64), (HERE, 1)):
        fingerprint = digest(fields)
        result = json.loads((TESTS / "report" / "sample_result.json").read_text())
        result["host"] |= {"fingerprint": fingerprint, "cpu": fields["model"]}
        evidence = folder / fingerprint
        evidence.mkdir()
        (evidence / "result.json").write_text(json.dumps(result))
        plan = Plan(artifact.sha256, runtime="onnxruntime", streams=streams)
        record = PlanRecord(
            plan, {"fingerprint": fingerprint, **fields}, {"throughput_per_s": {"value": 10.0 * streams}}
        )
        put(folder / "b", Share("net", "m", fingerprint, (record,), {artifact.sha256: artifact}, evidence=evidence))
    return folder / "b"


def test_inspect_lists_the_hosts_nearest_first_with_what_differs(bundle, capsys):
    assert main(["inspect", str(bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["here"] == digest(HERE)
    assert [(one["host"], one["away"] == 0, one["throughput_per_s"]) for one in found["plans"]] == [
        (digest(HERE), True, 10.0), (digest(BIG), False, 640.0),
    ]  # fmt: skip
    assert f"64 cores there, {HERE['cores']} here" in found["plans"][1]["differs"]
    assert main(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert digest(BIG) in shown
    assert "amx_int8" in shown


def test_report_shows_the_host_optimized_last_or_the_one_that_is_named(bundle, capsys):
    for arguments, fields in (([], HERE), (["--host", digest(BIG)[:6]], BIG)):
        assert main(["report", str(bundle), "--json", *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["host"]["fingerprint"] == digest(fields)
    assert main(["report", str(bundle), "--host", digest(BIG)]) == 0
    assert f"Xeon 8480+ ({digest(BIG)})" in capsys.readouterr().out
    assert main(["report", str(bundle), "--host", "none"]) == 2
    assert digest(BIG) in capsys.readouterr().err


def test_export_takes_this_hosts_plan_or_the_one_that_is_named(bundle, tmp_path, capsys):
    for arguments, streams in (([], 1), (["--host", digest(BIG)], 64)):
        out = tmp_path / str(streams)
        assert main(["export", str(bundle), "--to", "ort", "-o", str(out), "--json", *arguments]) == 0
        plan = Plan(next((bundle / "artifacts").iterdir()).name, runtime="onnxruntime", streams=streams)
        assert json.loads(capsys.readouterr().out)["plan"] == plan.id
