"""Trials with the fake runtime: what goes wrong in one is its own failure, with a reason, and nobody else's."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whet.errors import DataError, PlanRefused, RuntimeFailed
from whet.optimize.accuracy import Metric, judge
from whet.optimize.data import Dataset, synthetic
from whet.optimize.journal import Journal, Key
from whet.optimize.lab import Case, Lab, Record, capacity, paired
from whet.optimize.noise import Disturbance, Judge
from whet.optimize.pool import materialise
from whet.optimize.recall import read_past
from whet.optimize.stages import hold_to_limits
from whet.optimize.trial import Bench, Trial
from whet.optimize.trial_words import Block, Evaluate, Rate
from whet.plan import Plan, Targets

BLOCK_S = 0.15


def plan_of(artifact, **options) -> Plan:
    knobs = {name: options.pop(name) for name in ("streams", "batch_sizes", "precision") if name in options}
    return Plan(artifact.sha256, "fake", options=tuple(sorted((k, str(v)) for k, v in options.items())), **knobs)


@pytest.fixture
def pool(tmp_path, artifact):
    return materialise(synthetic(artifact, 24, 0), range(24), artifact, tmp_path / "pool")


@pytest.fixture
def bench(tmp_path):
    return Bench(tuple(os.sched_getaffinity(0)), tmp_path)


@pytest.fixture
def lab(artifact, pool, bench):
    made = Lab(bench, pool.folder, {artifact.sha256: artifact}, 2, random.Random(0))
    yield made
    made.close()


@pytest.fixture
def start(artifact, pool, bench):
    trials = []

    def begin(plan, **changes):
        trials.append(Trial(artifact.folder, plan, pool.folder, replace(bench, **changes), {}))
        return trials[-1]

    yield begin
    for trial in trials:
        trial.close()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0]


def test_a_trial_measures_when_told_and_is_stopped_otherwise(start, artifact):
    trial = start(plan_of(artifact, base_us=2000))
    ready = trial.wait_ready()
    assert ready.effective.streams == 1
    assert ready.load_ms > 0
    assert ready.rss_mb > 5
    assert state_of(trial.pid) == "T"
    measured = trial.measure(Block(BLOCK_S, callers=2))
    assert state_of(trial.pid) == "T"
    assert 20 < measured.throughput_per_s < 500  # 2 ms a run
    assert measured.rows == len(measured.latencies_ms)
    assert min(measured.latencies_ms) >= 2.0


def test_an_open_loop_counts_from_the_intended_start(start, artifact):
    trial = start(plan_of(artifact, base_us=5000))
    trial.wait_ready()
    measured = trial.measure(Rate(qps=400, seconds=0.5, seed=1))  # twice what it can carry
    assert np.percentile(measured.latencies_ms, 90) > 50  # the queue shows


def test_mask_is_set_before_the_interpreter_starts(start, artifact, bench):
    one = min(bench.cpus)
    trial = start(plan_of(artifact), cpus=(one,))
    trial.wait_ready()
    assert os.sched_getaffinity(trial.pid) == {one}
    assert os.sched_getaffinity(0) == set(bench.cpus)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"fault": "segfault"}, r"crashed during '\w+' \(SIGSEGV\)", id="segfault"),
        pytest.param({"fault": "abort"}, r"crashed during '\w+' \(SIGABRT\)", id="abort"),
        pytest.param({"fault": "fail"}, "answered nothing.*runtime-failed", id="every run fails"),
    ],
)
def test_what_goes_wrong_is_a_recorded_failure_and_the_others_go_on(lab, artifact, options, says):
    good, bad = capacity(plan_of(artifact, base_us=1000)), capacity(plan_of(artifact, **options))
    records = lab.round([good, bad], blocks=2, seconds=BLOCK_S)
    assert re.search(says, records[bad.key].failure), records[bad.key].failure
    assert not records[good.key].failure
    assert len(records[good.key].kept) >= 1


def test_a_block_lasts_long_enough_for_its_batches(start, artifact):
    trial = start(plan_of(artifact, base_us=150_000, batch_sizes=(8,)))
    trial.wait_ready()
    measured = trial.measure(Block(0.05, callers=16))
    assert measured.wall_s > 0.3
    assert measured.rows >= 16


def test_a_hang_is_ended_in_time(start, artifact, monkeypatch):
    monkeypatch.setattr("whet.optimize.trial.GRACE_S", 1.0)
    trial = start(plan_of(artifact, fault="hang"))
    trial.wait_ready()
    began = time.monotonic()
    with pytest.raises(RuntimeFailed, match="hung"):
        trial.measure(Block(BLOCK_S, callers=1))
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{trial.pid}").exists()


def test_killed_for_memory_says_so(start, artifact):
    trial = start(plan_of(artifact))
    trial.wait_ready()
    os.kill(trial.pid, signal.SIGKILL)
    with pytest.raises(RuntimeFailed, match="memory"):
        trial.measure(Block(BLOCK_S, callers=1))


def test_a_trial_that_may_allocate_nothing_fails_alone(start, artifact):
    trial = start(plan_of(artifact), memory_bytes=1 << 20)
    with pytest.raises(RuntimeFailed):
        trial.wait_ready()


def test_a_plan_the_runtime_refuses_is_a_refusal(lab, artifact):
    wrong = capacity(plan_of(artifact, precision="f16"))
    record = lab.round([wrong], 1, BLOCK_S)[wrong.key]
    assert record.refused
    assert "f16" in record.failure
    assert isinstance(lab._failed[wrong.plan.id], PlanRefused)


def test_trials_die_with_their_parent(artifact, pool, bench, tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from whet.models.artifact import load_artifact; from whet.plan import Plan\n"
        "from whet.optimize.trial import Trial, Bench\n"
        "a = load_artifact(Path(sys.argv[1]))\n"
        "t = Trial(a.folder, Plan(a.sha256, 'fake'), Path(sys.argv[2]), Bench((0,), Path(sys.argv[3])), {})\n"
        "t.wait_ready(); print(t.pid, flush=True); time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", script, str(artifact.folder), str(pool.folder), str(tmp_path)]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and state_of(pid) != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists() or state_of(pid) == "Z"


def test_rounds_pair_blocks_and_the_faster_plan_wins(lab, artifact):
    fast, slow = (capacity(plan_of(artifact, base_us=us)) for us in (2000, 8000))
    lab.round([fast, slow], blocks=3, seconds=BLOCK_S)
    one, two = paired(lab.record(fast), lab.record(slow))
    assert len(one) == len(two) >= 1
    assert all(a > 1.5 * b for a, b in zip(one, two, strict=True))


def test_a_case_of_its_own_load_has_its_own_key(artifact):
    plan = plan_of(artifact, streams=2, batch_sizes=(1, 8))
    assert capacity(plan) == Case(plan, callers=32)
    assert capacity(plan).key == plan.id
    assert Case(plan, callers=1).key == f"{plan.id}/1x1"
    assert capacity(plan, rows=8) == Case(plan, callers=4, rows=8)


def test_only_so_many_trials_stay_resident(lab, artifact):
    lab.most = 2
    plans = [plan_of(artifact, base_us=us) for us in (100, 200, 300)]
    for plan in plans:
        lab.round([capacity(plan)], 1, BLOCK_S)
    assert len(lab._trials) == 2
    assert plans[0].id not in lab._trials


def test_evaluation_scores_every_item_against_labels_and_against_the_parent(start, artifact, tmp_path):
    # The fake answers its input: the largest of the first four numbers is the class.
    rng = np.random.default_rng(1)
    values = rng.standard_normal((50, 8)).astype(np.float32)
    labels = values[:, :4].argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % 4
    data = Dataset("d", 50, lambda i: {"x": values[i]}, str, labels=labels.astype(np.int64))
    judged = materialise(data, range(50), artifact, tmp_path / "judged")
    parent = start(plan_of(artifact, streams=2, batch_sizes=(1, 8)))
    parent.wait_ready()
    kept = tmp_path / "kept"
    scored = parent.evaluate(Evaluate(judged.folder, "top1", "y", save=kept), 30)
    assert np.asarray(scored.scores).tolist() == [0.0] * 5 + [1.0] * 45
    other = start(plan_of(artifact, base_us=10))
    other.wait_ready()
    again = other.evaluate(Evaluate(judged.folder, "agreement", "y", parent=kept), 30)
    assert again.scores == [1.0] * 50
    assert again.noise["y"] == [0.0] * 50
    verdict = judge("x", Metric("top1", "y"), np.asarray(scored.scores), np.asarray(scored.scores), max_drop=0.1)
    assert verdict.passes


def test_a_metric_of_the_users_is_called_item_by_item_and_its_errors_are_named(start, artifact, tmp_path, monkeypatch):
    (tmp_path / "whet_own_metric.py").write_text(
        "def good(outputs, label):\n    return float(outputs['y'].shape == (4,))\n"
        "def bad(outputs, label):\n    raise ZeroDivisionError('no items')\n"
    )
    monkeypatch.chdir(tmp_path)
    judged = materialise(synthetic(artifact, 6, 0), range(6), artifact, tmp_path / "judged")
    trial = start(plan_of(artifact))
    trial.wait_ready()
    assert trial.evaluate(Evaluate(judged.folder, "whet_own_metric:good", ""), 30).scores == [1.0] * 6
    with pytest.raises(DataError, match="ZeroDivisionError: no items"):
        trial.evaluate(Evaluate(judged.folder, "whet_own_metric:bad", ""), 30)


def test_discarded_blocks_are_decided_by_counters_alone():
    quiet = Disturbance(0.5, 0.0, 0.02, 0.0, 0.0, 1.0)
    loud = Disturbance(0.5, 0.0, 0.60, 0.0, 0.0, 3.0)
    stolen = Disturbance(0.5, 0.2, 0.0, 0.0, 0.0, 1.0)
    throttled = Disturbance(0.5, 0.0, 0.0, 12.0, 0.0, 1.0)
    judge_ = Judge()
    assert all(judge_.keeps(quiet) for _ in range(6))
    assert [judge_.keeps(one) for one in (loud, stolen, throttled)] == [False, False, False]


def test_a_repeat_counts_whatever_happened_so_that_every_plan_has_a_block_in_every_round(lab, artifact, monkeypatch):
    loud = Disturbance(0.5, 0.3, 0.6, 0.0, 0.0, 3.0)
    monkeypatch.setattr("whet.optimize.lab.between", lambda *_: loud)
    cases = [capacity(plan_of(artifact, base_us=us)) for us in (1000, 2000)]
    records = lab.round(cases, blocks=2, seconds=BLOCK_S)
    assert all(len(record.kept) == 2 for record in records.values())
    assert paired(*records.values())[0]
    assert lab.judge.discarded_share == 0.5
    assert "4 of 4 blocks count though" in lab.judge.words


def test_a_twin_is_the_same_plan_in_a_process_of_its_own(lab, artifact):
    case = capacity(plan_of(artifact, base_us=2000))
    twin = replace(case, twin=True)
    records = lab.round([case, twin], blocks=2, seconds=BLOCK_S)
    assert len(lab._trials) == 2
    assert len({trial.pid for trial in lab._trials.values()}) == 2
    one, two = paired(records[case.key], records[twin.key])
    assert len(one) == 2
    assert max(a / b for a, b in zip(one, two, strict=True)) < 3


def test_limits_refuse_a_plan_and_say_by_how_much_it_is_over(lab, artifact):
    case = capacity(plan_of(artifact, base_us=1000))
    record = lab.round([case], 1, BLOCK_S)[case.key]
    hold_to_limits(record, Targets(max_rss_mb=1e6, max_load_ms=1e6))
    assert not record.failure
    hold_to_limits(record, Targets(max_rss_mb=1))
    assert record.refused
    assert record.over == pytest.approx(record.kept[0].rss_mb)
    assert "--max-rss-mb 1" in record.failure
    slow = Record(case, list(record.blocks), ready=record.ready)
    hold_to_limits(slow, Targets(max_load_ms=1))
    assert slow.refused
    assert "--max-load-ms 1" in slow.failure


def test_fewer_cores_really_are_fewer_where_they_are_counted(lab, artifact):
    lab.narrow = True
    plan = plan_of(artifact, base_us=1000)
    lab.ready([plan])
    assert os.sched_getaffinity(lab._trials[plan.id].pid) == {lab.bench.cpus[0]}


def test_what_was_measured_before_a_kill_is_taken_up_once(lab, artifact, tmp_path):
    journal = Journal(tmp_path / "j.sqlite", Key("run", "host", "versions"))
    lab.note = lambda kind, document: journal.add(kind, document, plan=str(document.get("plan", "")))
    good, bad = capacity(plan_of(artifact, base_us=1000)), capacity(plan_of(artifact, precision="f16"))
    records = lab.round([good, bad], blocks=2, seconds=BLOCK_S)
    journal.close()
    again = Journal(tmp_path / "j.sqlite", Key("run", "host", "versions"))
    past = read_past(again)
    again.close()
    assert past.next_block == lab.next_block == 2
    found, refused = Record(good), Record(bad)
    assert past.take(good, found)
    assert found == records[good.key]
    assert past.take(bad, refused)
    assert (refused.failure, refused.refused) == (records[bad.key].failure, True)
    assert not past.take(good, Record(good))
