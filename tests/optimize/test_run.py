"""Whole searches, small and real: a net that classifies, its pictures, a bundle that serves what was measured."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_nets import pictures, write_net

from whet.errors import DataError, InputError, OutputError, UsageError, WhetError
from whet.host import read_host
from whet.models.artifact import hash_path
from whet.models.bundle import read_bundle
from whet.optimize import profile
from whet.optimize.journal import Journal, Key
from whet.optimize.lessons import ordered
from whet.optimize.request import OptimizeRequest
from whet.optimize.run import optimize
from whet.plan import Targets

KEYS = {
    "schema", "model", "host", "versions", "targets", "service", "baselines", "trials", "chosen", "accuracy",
    "ablation", "pareto", "layers", "roofline", "refused", "advice", "noise", "served", "wall_s", "started",
}  # fmt: skip


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    return write_net(tmp_path_factory.mktemp("net") / "gratings.onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    images, labels = pictures(900, seed=5)
    path = tmp_path_factory.mktemp("data") / "gratings.npz"
    np.savez(path, x=images, label=labels)
    return path


def interval_is_sound(found) -> bool:
    return found is None or found["low"] is None or found["low"] <= found["value"] <= found["high"]


@pytest.mark.slow
def test_a_model_and_data_become_a_bundle_with_its_proof(net, data, tmp_path):
    before = hash_path(net)
    seen = []
    request = OptimizeRequest(
        model=net, out=tmp_path / "b", data=str(data), budget_s=25, targets=Targets(max_drop=0.05)
    )
    outcome = optimize(request, seen.append)
    assert outcome.exit_code == 0, outcome.message
    assert hash_path(net) == before
    assert outcome.result.keys() >= KEYS
    bundle = read_bundle(tmp_path / "b")
    record = bundle.plans[0]
    assert record.plan.id == outcome.result["chosen"]["plan_id"]
    assert record.plan.artifact in bundle.artifacts
    assert record.fingerprint == read_host().fingerprint
    if len(bundle.plans) > 1:  # the chosen plan is another than the plain f32 one, which is there to compare with
        assert (bundle.plans[1].role, bundle.plans[1].plan.id) == ("reference", record.measured["over_f32"]["plan"])
        assert record.measured["answers"]["samples"] > 0
    stored = json.loads((tmp_path / "b" / "evidence" / "result.json").read_text())
    assert stored["chosen"] == json.loads(msgspec.json.encode(outcome.result["chosen"]))
    events = [json.loads(line) for line in (tmp_path / "b" / "evidence" / "journal.jsonl").read_text().splitlines()]
    assert {"request", "ready", "block", "verdict"} <= {event["kind"] for event in events}
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]  # nothing is left beside it
    names = {one["name"]: one for one in stored["baselines"]}
    for name in ("ONNX Runtime f32 defaults", "OpenVINO f32 THROUGHPUT defaults", "OpenVINO f32 LATENCY defaults"):
        assert names[name]["trial"]["throughput_per_s"]["value"] > 0
        assert names[name]["batch"] in {1, 8}
    assert names["own framework defaults"]["reason"]
    assert {trial["status"] for trial in stored["trials"]} <= {"ok", "failed", "refused"}
    for trial in stored["trials"]:
        assert interval_is_sound(trial["throughput_per_s"])
        assert interval_is_sound(trial["ratio_to_incumbent"])
        if trial["status"] == "ok":
            assert trial["effective"]["threads"] >= 1
            assert trial["blocks"] + trial["discarded"] >= 1
    for verdict in stored["accuracy"]:
        assert verdict["items"] <= 720  # a fifth calibrates and never judges
        assert verdict["drop"]["low"] <= verdict["drop"]["value"] <= verdict["drop"]["high"]
    shipped = (record.plan.artifact, record.plan.precision)
    if shipped != (stored["model"]["artifact"], "f32"):
        assert stored["chosen"]["accuracy"]["verdict"] == "within the floor"
    assert stored["noise"]["discarded_share"] <= 0.5
    phases = list(dict.fromkeys(status.phase for status in seen))
    assert phases[:4] == ["prepare", "baselines", "service", "system"]
    assert {"compress", "accuracy", "finals"} <= set(phases)


def test_where_no_plan_holds_a_limit_the_nearest_is_kept_and_the_limit_named(net, tmp_path):
    targets = Targets(max_rss_mb=1)
    request = OptimizeRequest(
        model=net, out=tmp_path / "b", synthetic=8, budget_s=10, targets=targets, runtimes=("openvino",)
    )
    outcome = optimize(request)
    assert outcome.exit_code == 1
    assert re.search(r"takes \d+ MB, above --max-rss-mb 1", outcome.message), outcome.message
    assert read_bundle(tmp_path / "b").plans[0].measured["targets_met"] is False
    trials = [one for one in outcome.result["trials"] if one["reason"]]
    assert trials
    assert all(one["status"] == "refused" for one in trials)


@pytest.mark.slow
def test_noise_ships_nothing_but_f32_and_targets_nobody_meets_leave_the_nearest_plan(net, tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "LEAST_S", 0.0)  # however little time is left, look into the chosen plan
    request = OptimizeRequest(
        model=net, out=tmp_path / "b", synthetic=16, budget_s=12, targets=Targets(min_qps=10_000_000, p99_ms=500)
    )
    outcome = optimize(request)
    chosen = outcome.result["chosen"]["plan"]
    assert (chosen["artifact"], chosen["precision"]) == (outcome.result["model"]["artifact"], "f32")
    reasons = {one["what"]: one["reason"] for one in outcome.result["refused"]}
    assert "--allow-synthetic-calibration" in reasons["int8"]
    assert outcome.result["accuracy"] == []
    assert outcome.exit_code == 1
    assert "the cores would be needed" in outcome.message
    assert outcome.result["targets_met"] is False
    served, *others = read_bundle(tmp_path / "b").plans
    assert served.measured["targets_met"] is False
    assert [one.role for one in others] == (["reference"] if "over_f32" in served.measured else [])
    written = json.loads((tmp_path / "b" / "evidence" / "result.json").read_text())
    assert all(layer["precision"] and layer["time_ms"] >= 0 for layer in written["layers"])
    assert sum(layer["share"] for layer in written["layers"]) == pytest.approx(1)
    (own, *_), peaks = (
        written["roofline"]["achieved"],
        {one["name"]: one["best"] for one in written["roofline"]["peaks"]},
    )
    assert own["label"] == written["chosen"]["label"]
    assert 0 < own["gflops"] < peaks["f32"]


@pytest.fixture(scope="module")
def fewest(net, data, tmp_path_factory):
    """One search, looked at from three sides: for the fewest cores, with a metric that raises, in a shared journal.

    Returns:
        The outcome and the journal's folder.
    """
    folder = tmp_path_factory.mktemp("fewest")
    (folder / "whet_raising_metric.py").write_text(
        "def bad(outputs, label):\n    raise ZeroDivisionError('no items')\n"
    )
    targets = Targets(objective="cores", min_qps=20, p99_ms=500, metric="whet_raising_metric:bad")
    with contextlib.chdir(folder):
        request = OptimizeRequest(
            model=net,
            out=folder / "b",
            data=str(data),
            budget_s=14,
            targets=targets,
            journal=folder / "shared",
            runtimes=("openvino",),
        )
        return optimize(request), folder / "shared"


@pytest.mark.slow
def test_the_fewest_cores_that_carry_the_load_are_chosen(fewest):
    outcome, _ = fewest
    assert outcome.exit_code == 0, outcome.message
    plan = outcome.bundle.plans[0].plan
    assert plan.compute_threads == 1
    assert outcome.result["chosen"]["trial"]["throughput_per_s"]["value"] >= 20


@pytest.mark.slow
def test_a_metric_that_raises_costs_its_candidates_and_the_search_goes_on(fewest):
    outcome, _ = fewest
    reasons = [one["reason"] for one in outcome.result["refused"]]
    assert [one for one in reasons if "ZeroDivisionError: no items" in one]
    assert (outcome.bundle.plans[0].plan.artifact, outcome.bundle.plans[0].plan.precision) == (
        outcome.result["model"]["artifact"],
        "f32",
    )


@pytest.mark.slow
def test_a_shared_journal_teaches_the_next_search_where_to_begin(fewest):
    outcome, folder = fewest
    journal = Journal(folder / "journal.sqlite", Key("", "", ""))
    events = journal.everywhere("lesson")
    journal.close()
    fields = ("arch", "vendor", "model", "isa", "cores", "physical", "smt", "sockets", "nodes", "l3_bytes", "l3_cores")
    host = {name: outcome.result["host"][name] for name in fields}
    lessons = ordered(events, host, "another model", "cores")
    assert {"system", "application"} <= {one["level"] for one in lessons}
    assert ordered(events, host, "another model", "latency") == []


def started(arguments, cwd):
    command = [sys.executable, "-m", "whet", "optimize", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(process, phase: str) -> None:
    for line in process.stderr:
        if line.startswith(f"{phase}:"):
            return
    pytest.fail(f"it ended with {process.wait()} before the phase '{phase}'")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_so_far(net, tmp_path):
    process = started([net, "--synthetic", 16, "--budget", "30s", "-o", tmp_path / "b"], tmp_path)
    wait_for(process, "application")
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    words = process.communicate(timeout=60)[1]
    assert process.returncode == 130, words
    assert "Traceback" not in words
    assert "best so far" in words
    assert len(read_bundle(tmp_path / "b").plans) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_stopped_and_leaves_no_process(net, tmp_path):
    process = started([net, "--synthetic", 16, "--budget", "30s", "-o", tmp_path / "b"], tmp_path)
    wait_for(process, "application")
    time.sleep(2)
    trials = children_of(process.pid)
    process.kill()
    process.communicate()
    assert not (tmp_path / "b").exists()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in trials) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in trials if Path(f"/proc/{pid}").exists()]
    outcome = optimize(OptimizeRequest(model=net, out=tmp_path / "b", synthetic=16, budget_s=14, resume=True))
    assert outcome.exit_code == 0
    journal = (tmp_path / "b" / "evidence" / "journal.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in journal]
    assert kinds.count("request") == 2  # both runs are in one journal
    first = kinds.index("request", 1)
    assert "block" in kinds[:first]
    events = [json.loads(line) for line in journal]
    blocks = [[one["document"] for one in part if one["kind"] == "block"] for part in (events[:first], events[first:])]
    assert max(one["number"] for one in blocks[0]) < min(one["number"] for one in blocks[1])
    known = {one["case"] for one in blocks[0]}
    trials = {trial["plan_id"]: trial for trial in outcome.result["trials"]}
    searched = {case for case in known if "/" not in case}
    assert searched <= trials.keys()  # nothing is lost: every plan measured before the kill is in the evidence
    again = {one["case"] for one in blocks[1] if "/" in one["case"] and "twin" not in one["case"]}
    assert len(again) <= len([one for one in outcome.result["baselines"] if one["trial"]])  # in the finals, each best


REQUEST = {"synthetic": 8, "budget_s": 12.0}


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        pytest.param({"synthetic": None}, UsageError, "neither", id="no samples"),
        pytest.param({"data": "x.npz"}, UsageError, "both", id="two kinds of samples"),
        pytest.param({"budget_s": 1.0}, UsageError, "budget is 1 s", id="no time"),
        pytest.param({"targets": Targets(p99_ms=-1)}, UsageError, "--p99-ms is -1", id="negative latency"),
        pytest.param({"targets": Targets(p99_ms=5, p50_ms=9)}, UsageError, "--p50-ms 9", id="median above the tail"),
        pytest.param({"targets": Targets(max_drop=2)}, UsageError, "--max-drop is 2", id="drop above one"),
        pytest.param({"targets": Targets(objective="cores")}, UsageError, "--min-qps", id="cores for what load"),
        pytest.param({"model": Path("absent.onnx")}, InputError, "absent.onnx", id="no model"),
        pytest.param({"synthetic": None, "data": "absent.npz"}, DataError, "absent.npz", id="no data"),
        pytest.param(
            {"targets": Targets(metric="bleu"), "data": "DATA", "synthetic": None}, UsageError, "bleu", id="metric"
        ),
        pytest.param({"runtimes": ("caffe",)}, WhetError, "caffe", id="no such runtime"),
        pytest.param({"targets": Targets(min_qps=float("nan"))}, UsageError, "--min-qps is nan", id="no number"),
        pytest.param({"targets": Targets(min_accuracy=70)}, UsageError, "--min-accuracy is 70", id="no share"),
        pytest.param({"targets": Targets(min_accuracy=0.7)}, UsageError, "needs --data", id="accuracy of noise"),
    ],
)
def test_bad_requests_are_refused_by_name(net, data, tmp_path, changes, error, says):
    fields = {"model": net, "out": tmp_path / "b", **REQUEST, **changes}
    if fields.get("data") == "DATA":
        fields["data"] = str(data)
    with pytest.raises(error, match=says):
        optimize(OptimizeRequest(**fields))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_left_alone(net, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="is no bundle"):
        optimize(OptimizeRequest(model=net, out=tmp_path / "b", **REQUEST))
    assert (tmp_path / "b" / "thesis.txt").read_text() == "years of work"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_output_is_named(net, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write"):
        optimize(OptimizeRequest(model=net, out=tmp_path / "b", **REQUEST))
