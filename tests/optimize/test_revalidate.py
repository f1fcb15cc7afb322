"""A bundle on a host it does not know, and on one it knows: what is decided, and whole runs with the fake runtime."""

import json

import numpy as np
import pytest
from small_artifacts import make_artifact

from whet.cli import main
from whet.errors import OutputError, UsageError
from whet.host import read_host
from whet.host.fingerprint import digest
from whet.models.bundle import PlanRecord, read_bundle
from whet.models.hosts import Share, put
from whet.optimize import relook
from whet.optimize import revalidate as shell
from whet.optimize.answers import Answers, strays
from whet.optimize.relook import RevalidateRequest
from whet.optimize.revalidate import revalidate
from whet.optimize.verdicts import CARRIED, PLAIN, settle
from whet.plan import Plan
from whet.stats import Interval

BIG = {
    "arch": "x86_64", "vendor": "GenuineIntel", "model": "Xeon 8480+", "isa": ["avx2", "avx512_vnni", "amx_int8"],
    "cores": 64, "physical": 64, "smt": 1, "sockets": 2, "nodes": 2, "l3_bytes": 110 << 20, "l3_cores": 32,
}  # fmt: skip


def was(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("ratio", "before", "holds", "label", "words"),
    [
        (Interval(1.8, 1.7, 1.9), None, True, CARRIED, "holds here: 1.80x [1.70, 1.90] plain f32"),
        (Interval(1.1, 0.9, 1.3), None, False, PLAIN, "cannot be told from plain f32"),
        (Interval(0.6, 0.5, 0.7), None, False, PLAIN, "is slower than plain f32"),
        (Interval(1.8, 1.7, 1.9), was(2.0, 1.85, 2.1), True, CARRIED, "2.00x [1.85, 2.10] when it was found"),
        (Interval(1.4, 1.3, 1.5), was(2.0, 1.85, 2.1), False, CARRIED, "worth less than it was"),
        (Interval(0.9, 0.8, 1.1), was(2.0, 1.85, 2.1), False, PLAIN, "does not hold"),
        (None, None, False, PLAIN, "its answers stray; plain f32 serves"),
    ],
    ids=["wins", "in doubt", "loses", "as before", "less than before", "no more", "refused"],
)
def test_what_serves_follows_from_the_ratio_over_plain_f32(ratio, before, holds, label, words):
    found = settle({CARRIED: ratio} if ratio else {}, "its answers stray", before, same=False)
    assert (found.holds, found.label) == (holds, label)
    assert words in found.words


def test_the_better_shape_serves():
    found = settle({CARRIED: Interval(1.5, 1.4, 1.6), "wide": Interval(1.9, 1.8, 2.0)}, "", None, same=False)
    assert (found.label, found.ratio.value) == ("wide", 1.9)


def test_answers_stray_when_they_are_noisier_than_where_they_were_proven():
    there = Answers({"y": 30.0, "z": None}, 16)
    assert strays(Answers({"y": 28.0, "z": None}, 16), there, exact=False) == ""
    assert "'y' is 12.0 dB" in strays(Answers({"y": 12.0, "z": None}, 16), there, exact=False)
    assert "'z' is 40.0 dB" in strays(Answers({"y": 30.0, "z": 40.0}, 16), there, exact=False)
    assert strays(Answers({"y": 90.0}, 16), None, exact=True) == ""
    assert "60 dB is what f32 keeps" in strays(Answers({"y": 50.0}, 16), there, exact=True)
    assert strays(Answers({"y": 5.0}, 16), None, exact=False) == ""  # the caller asks for --data


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """Write a bundle found on the big host around a fake net; blocks are short."""
    monkeypatch.setattr(shell, "BLOCK_S", 0.02)

    def write(fields=BIG, **knobs):
        artifact = make_artifact(tmp_path / "artifact")
        evidence = tmp_path / "evidence"
        evidence.mkdir(exist_ok=True)
        (evidence / "result.json").write_text(json.dumps({"host": {"fingerprint": digest(fields)}}))
        record = PlanRecord(Plan(artifact.sha256, runtime="fake", **knobs), fields, {"accuracy": None})
        put(
            tmp_path / "b", Share("net", "m", digest(fields), (record,), {artifact.sha256: artifact}, evidence=evidence)
        )
        return tmp_path / "b"

    return write


def test_on_an_unknown_host_a_plan_that_loses_leaves_plain_f32_under_this_hosts_name(bundled):
    out = bundled(streams=16, threads=4, options=(("base_us", "5000"),))
    outcome = revalidate(RevalidateRequest(out, budget_s=8))
    assert outcome.exit_code == 1
    assert "plain f32 serves" in outcome.message
    found, here = outcome.result, read_host()
    assert found["from"]["fingerprint"] == digest(BIG)
    assert "amx_int8" in " ".join(found["from"]["differs"])
    assert "instead of 16x4 on 64" in found["changes"][0]
    assert found["over_f32"]["high"] < 1
    assert found["why_not_kept"] == ""
    bundle = read_bundle(out)
    own = [one for one in bundle.plans if one.fingerprint == here.fingerprint]
    assert [one.role for one in own] == ["chosen"]
    assert own[0].plan == Plan(own[0].plan.artifact, runtime="fake", streams=here.budget.physical)
    assert own[0].measured["revalidated"]["from"] == digest(BIG)
    assert own[0].measured["throughput_per_s"]["value"] > 0
    assert bundle.plans[0].fingerprint == digest(BIG)  # what the other host found stands as it stood
    # Known now: the next look finds the plain plan there and has nothing to compare.
    again = revalidate(RevalidateRequest(out, budget_s=8))
    assert (again.exit_code, again.result["from"]["away"]) == (0, 0)
    assert "checked" in next(o for o in read_bundle(out).plans if o.fingerprint == here.fingerprint).measured


def test_what_was_not_proven_for_other_arithmetic_needs_data(bundled):
    outcome = revalidate(RevalidateRequest(bundled(precision="bf16", threads=64), budget_s=8))
    if "bf16" not in read_host().processor.native:
        assert outcome.exit_code == 0  # it was carried over in f32: the plain plan but for its shape
        return
    assert outcome.exit_code == 1
    assert any("give --data" in one["reason"] for one in outcome.result["refused"])


def test_data_judges_what_was_not_proven_for_this_host(bundled, tmp_path):
    out = bundled(precision="bf16", threads=64)
    inputs = read_bundle(out).artifacts[read_bundle(out).plans[0].plan.artifact].service_inputs
    rng = np.random.default_rng(0)
    rows = {spec.name: rng.standard_normal((64, *spec.shape[1:])).astype(spec.dtype) for spec in inputs}
    np.savez(tmp_path / "data.npz", **rows)
    outcome = revalidate(RevalidateRequest(out, data=str(tmp_path / "data.npz"), budget_s=8))
    if "bf16" not in read_host().processor.native:
        assert outcome.exit_code == 0  # it was carried over in f32: the plain plan but for its shape
        return
    assert not any("give --data" in one["reason"] for one in outcome.result["refused"])
    verdict = outcome.result["answers"]["verdict"]
    assert verdict["drop"] is not None
    assert verdict["items"] > 0


def test_a_plan_that_is_plain_here_holds_and_a_bundle_that_cannot_be_written_says_so(bundled, capsys, monkeypatch):
    out = bundled(streams=64)

    def full(*_):
        raise OutputError("cannot lock: Read-only file system; choose another -o")

    monkeypatch.setattr(relook, "put", full)
    assert main(["optimize", "--revalidate", str(out), "--budget", "8s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "Read-only" in found["why_not_kept"]
    assert found["records"][0]["host"]["fingerprint"] == read_host().fingerprint
    assert {one.fingerprint for one in read_bundle(out).plans} == {digest(BIG)}


def test_bad_requests_are_usage(bundled, tmp_path, capsys):
    out = bundled()
    with pytest.raises(UsageError, match="no bundle"):
        revalidate(RevalidateRequest(tmp_path))
    with pytest.raises(UsageError, match="takes 5 s at least"):
        revalidate(RevalidateRequest(out, budget_s=1))
    assert main(["optimize", "--revalidate", str(out), "--p99-ms", "3"]) == 2
    assert "takes no p99-ms" in capsys.readouterr().err
    assert main(["optimize", str(out)]) == 2
    assert "--output" in capsys.readouterr().err
