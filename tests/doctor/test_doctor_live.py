"""Every ailment this machine can have is created for real, on a real server, and named by the doctor."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whet.cli import main
from whet.doctor import local, paired, prove
from whet.doctor.ask import prove_by_asking
from whet.doctor.diagnosis import made
from whet.doctor.observe import observe
from whet.doctor.result import proof_words
from whet.doctor.signs import diagnose

WATCH_S = 0.7
PAIRS = 6
"""The fewest from which a proof is a bootstrap of the median."""


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(paired, "BLOCK_S", 0.2)


def slugs(seen):
    return [each.slug for each in diagnose(seen)]


def test_a_healthy_idle_server_has_nothing_wrong_with_it(bundle, serve, capsys):
    server = serve(bundle())
    seen = observe(server.http, WATCH_S)
    assert diagnose(seen) == []
    assert seen.unseen == ()
    (worker,), (model,) = seen.workers, seen.models
    assert (worker.cores, worker.planned) == (len(os.sched_getaffinity(0)), 1)
    assert (model.plan.runtime, model.requests, model.lanes) == ("fake", 0, 1)
    assert main(["doctor", server.http, "--interval", "300ms"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


def test_a_healthy_server_under_an_easy_load_has_nothing_wrong_with_it(bundle, serve, load):
    server = serve(bundle(options={"base_us": "3000"}, streams=2, threads=1))
    with load(server.http, clients=1):
        seen = observe(server.http, WATCH_S)
    assert seen.models[0].requests > 20
    # Neighbours on the machine may really take CPUs away; the server itself is well.
    assert set(slugs(seen)) <= {"oversubscribed"}


def test_a_server_is_found_by_the_process_id_of_its_supervisor_and_of_its_worker(bundle, serve):
    server = serve(bundle())
    assert local._address("0100007F") == "127.0.0.1"
    assert local._address("00000000000000000000000001000000") == "::1"
    for pid in (server.pid, server.announced["workers"][0]):
        seen = observe(str(pid), 0.2)
        assert seen.subject == server.http
        assert seen.models[0].plan is not None


@pytest.mark.usefixtures("short_blocks")
def test_queueing_is_named_and_proven_when_more_is_asked_than_the_lanes_carry(bundle, serve, load):
    options = {"base_us": "0", "row_us": "10000"}
    server = serve(bundle(options=options, batch_sizes=(1, 2, 4, 8)))
    with load(server.http, clients=32):
        seen = observe(server.http, WATCH_S)
    found = {each.slug: each for each in diagnose(seen)}
    assert found["queueing"].evidence["lanes_busy"] >= 0.8
    assert found["queueing"].evidence["queue_ms"] > 20
    assert "too-small-batch" not in found
    (proven,) = prove.prove(seen, [found["queueing"]], pairs=PAIRS)
    assert (proven.proof.verdict, proven.proof.measure) == ("confirmed", "latency")
    assert "70% of what it carries" in proven.proof.what
    assert "answers come" in proof_words(proven.proof)


@pytest.mark.usefixtures("short_blocks")
def test_a_batch_window_that_never_fills_is_named_as_what_requests_wait_for_and_proven(bundle, serve, load):
    server = serve(bundle(options={"base_us": "500"}, batch_sizes=(1, 64), batch_window_ms=20.0))
    with load(server.http, clients=1):
        seen = observe(server.http, 1.5)
    found = {each.slug: each for each in diagnose(seen)}
    assert "batch window of 20 ms" in found["queueing"].words
    assert found["queueing"].evidence["lanes_busy"] < 0.4
    (proven,) = prove.prove(seen, [found["queueing"]], pairs=PAIRS)
    assert proven.proof.what == "no batch window"
    assert proven.proof.low > 2


@pytest.mark.usefixtures("short_blocks")
def test_too_small_batches_are_named_and_the_larger_ones_proven_to_be_faster(bundle, serve, load):
    # A call costs 5 ms whatever it holds, so that batches are worth nearly their size.
    server = serve(bundle(options={"base_us": "5000", "row_us": "10"}))
    with load(server.http, clients=8):
        seen = observe(server.http, 1.0)
    found = diagnose(seen)
    (proven,) = prove.prove(seen, [each for each in found if each.slug == "too-small-batch"], pairs=PAIRS)
    assert proven.proof.verdict == "confirmed"
    assert proven.proof.low > 1.5
    assert proven.proof.what == "batch sizes 1, 4"
    assert found[-1].slug == "queueing"  # the consequence comes after its cause


def test_padding_is_named_when_the_only_batch_size_is_too_large_for_the_load(bundle, serve, load):
    server = serve(bundle(options={"base_us": "0", "row_us": "1000"}, batch_sizes=(8,)))
    with load(server.http, clients=2):
        found = {each.slug: each for each in diagnose(observe(server.http, WATCH_S))}
    assert found["too-small-batch"].evidence["padded_share"] > 0.5


@pytest.mark.usefixtures("short_blocks")
def test_decoding_is_named_when_clients_send_json_and_proven_by_asking_in_raw_tensors(bundle, serve, load, capsys):
    width = 50_000
    server = serve(bundle(width=width))
    with load(server.http, clients=2, width=width, as_json=True):
        seen = observe(server.http, WATCH_S)
        found = {each.slug: each for each in diagnose(seen)}
    assert found["decode-dominates"].evidence["transport_share"] > 0.3
    assert "binary form" in found["decode-dominates"].remedy
    assert prove.prove(seen, [found["decode-dominates"]]) == [found["decode-dominates"]]  # no plan makes a difference
    (proven,) = prove_by_asking(seen, [found["decode-dominates"]], pairs=PAIRS)
    assert proven.proof.verdict == "confirmed"
    assert main(["doctor", server.http, "--interval", "200ms", "--prove-live"]) == 0  # nothing to ask about
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.usefixtures("short_blocks")
def test_few_connections_are_named_and_proven_when_one_feeds_many_workers(bundle, serve, load):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two workers need two CPUs")
    width = 50_000
    options = {"base_us": "3000"}
    server = serve(bundle(width=width, workers=2, options=options), "--workers", "2")
    with load(server.http, clients=1, width=width, as_json=True):
        seen = observe(server.http, WATCH_S)
    found = {each.slug: each for each in diagnose(seen)}
    few = found["few-connections"]
    assert few.evidence["busiest_share"] > 0.75
    assert "of 2 workers" in few.words
    assert few.evidence["http_connections"] == 1  # the doctor's own is not counted
    (proven,) = prove_by_asking(seen, [few], pairs=PAIRS)
    assert proven.proof.what == "8 callers over a connection each instead of over 1"
    assert proven.proof.verdict == "confirmed"


def test_a_server_that_is_gone_when_it_is_asked_is_a_proof_that_says_so(bundle, serve):
    server = serve(bundle())
    seen = observe(server.http, 0.1)
    server.stop()
    (proven,) = prove_by_asking(seen, [made("decode-dominates", 0.5, "", {}, "", "echo")])
    assert proven.proof.value is None
    assert "cannot reach" in proven.proof.verdict


def test_oversubscription_is_named_when_a_running_server_loses_a_cpu(bundle, serve):
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("losing a CPU needs two")
    server = serve(bundle(streams=2, threads=1))
    assert slugs(observe(server.http, 0.2)) == []
    for pid in server.announced["workers"]:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cpus[0]})
    (found,) = diagnose(observe(server.http, 0.2))
    assert found.slug == "oversubscribed"
    assert (found.evidence["threads"], found.evidence["cpus"]) == (2, 1)


def test_neighbours_on_the_same_cpu_are_told_from_a_plan_that_is_too_wide(bundle, serve, load):
    cpu = max(os.sched_getaffinity(0))
    width = 50_000
    server = serve(bundle(width=width), cpus={cpu})
    spin = [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"]
    neighbours = [subprocess.Popen(spin) for _ in range(2)]
    try:
        with load(server.http, clients=2, width=width, as_json=True):
            found = {each.slug: each for each in diagnose(observe(server.http, WATCH_S))}
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert "though its plans need only 1 of 1" in found["oversubscribed"].words
    assert found["oversubscribed"].evidence["waited_share"] > 0.25
    assert found["oversubscribed"].evidence["others_cpus"] > 0


@pytest.mark.root
def test_a_quota_that_stops_the_server_is_named(bundle, serve, load, group):
    folder, limit = group
    width = 50_000
    server = serve(bundle(width=width))
    limit(0.15)
    for pid in (server.pid, *server.announced["workers"]):
        (folder / "cgroup.procs").write_text(str(pid))
    with load(server.http, clients=2, width=width, as_json=True):
        seen = observe(server.http, WATCH_S)
    (found,) = [each for each in diagnose(seen) if each.slug == "quota-throttled"]
    assert found.evidence["throttled_share"] > 0.05
    assert "quota of 0.15 CPUs" in found.words
    server.stop(grace_s=0)


def quantized(folder):
    """An int8 convolution net of 11 layers: what VNNI is made for."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from whet.models.artifact import Artifact, seal
    from whet.tensors import TensorSpec

    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(np.float32(0.05), "s"), numpy_helper.from_array(np.uint8(128), "z"),
        numpy_helper.from_array(np.float32(0.02), "ws"), numpy_helper.from_array(np.int8(0), "wz"),
    ]  # fmt: skip
    nodes, last = [], "x"
    for layer in range(11):
        name = f"w{layer}"
        kernel = rng.integers(-100, 100, (64, 3 if not layer else 64, 3, 3), np.int8)
        tensors.append(numpy_helper.from_array(kernel, name))
        nodes += [
            helper.make_node("QuantizeLinear", [last, "s", "z"], [f"q{layer}"]),
            helper.make_node("DequantizeLinear", [f"q{layer}", "s", "z"], [f"d{layer}"]),
            helper.make_node("DequantizeLinear", [name, "ws", "wz"], [f"k{layer}"]),
            helper.make_node("Conv", [f"d{layer}", f"k{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]),
        ]
        last = f"c{layer}"
    nodes += [helper.make_node("GlobalAveragePool", [last], ["g"]), helper.make_node("Flatten", ["g"], ["y"])]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])
    built = helper.make_graph(nodes, "net", [entry], [answer], tensors)
    onnx.save(helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    specs = (TensorSpec("x", "FP32", (-1, 3, 32, 32)),), (TensorSpec("y", "FP32", (-1, 64)),)
    described = Artifact(Path(), "net.onnx", "onnx", "", *specs, batched=True, precision="int8")
    return seal(described, [folder / "net.onnx"], folder)


@pytest.fixture
def slow_kernels(tmp_path):
    """A bundle of an int8 net, capped at AVX2 by its plan."""
    from whet.engine.environment import isa_ceilings
    from whet.models.bundle import PlanRecord, write_bundle
    from whet.plan import Plan, Targets

    if "AVX512_CORE_VNNI" not in isa_ceilings():
        pytest.skip("this processor has no VNNI to take away")
    (tmp_path / "nets").mkdir()
    artifact = quantized(tmp_path / "nets")
    (tmp_path / "evidence").mkdir()
    record = PlanRecord(Plan(artifact.sha256, isa_ceiling="AVX2"))
    return write_bundle(
        tmp_path / "slow", "slow", [record], {artifact.sha256: artifact}, Targets(), tmp_path / "evidence"
    )


def test_an_isa_ceiling_is_read_from_the_workers_environment(slow_kernels, serve):
    server = serve(slow_kernels.folder)
    seen = observe(server.http, 0.2)
    assert [worker.ceiling for worker in seen.workers] == ["AVX2"]
    found = {each.slug: each for each in diagnose(seen)}
    assert set(found) == {"isa-ceiling", "no-vnni"}
    assert found["isa-ceiling"].evidence["ceiling"] == "AVX2"
    assert "int8, for which there are no instructions under AVX2" in found["no-vnni"].words


@pytest.mark.usefixtures("short_blocks")
def test_an_isa_ceiling_of_a_bundle_is_proven_to_cost_speed(slow_kernels, capsys):
    assert main(["doctor", str(slow_kernels.folder), "--prove", "--json"]) == 0
    found = {each["slug"]: each for each in json.loads(capsys.readouterr().out)["diagnoses"]}
    proof = found["isa-ceiling"]["proof"]
    assert proof["pairs"] >= paired.PAIRS / 2, proof["verdict"]
    assert proof["low"] <= proof["value"] <= proof["high"]
    assert proof["value"] > 1.2
    # On a crowded machine the interval may still hold 1.
    assert proof["verdict"] in {"confirmed", "cannot tell apart"}
    assert found["no-vnni"]["proof"] == proof  # the same change, measured once


def test_an_unreachable_server_is_one_line(capsys):
    assert main(["doctor", "http://127.0.0.1:9", "--interval", "100ms"]) == 4
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "cannot reach" in error


@pytest.mark.parametrize(
    ("subject", "code", "words"),
    [
        ("no-such-thing", 2, "is no URL, process id or folder"),
        (str(2**22 + 1), 2, "there is no process"),
        (".", 3, "holds no bundle.json"),
        ("grpc://127.0.0.1:8001", 2, "metrics are served over HTTP"),
    ],
)
def test_what_cannot_be_examined_is_said_in_one_line(subject, code, words, capsys):
    assert main(["doctor", subject]) == code
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_a_bundle_cannot_be_asked(bundle, capsys):
    assert main(["doctor", str(bundle()), "--prove-live"]) == 2
    assert "asks a running server" in capsys.readouterr().err


def test_a_process_that_listens_nowhere_is_no_server(capsys):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert main(["doctor", str(child.pid)]) == 2
    finally:
        child.communicate(b"\n")
    assert "is no 'whet serve'" in capsys.readouterr().err


def test_another_server_is_told_from_whets(tmp_path, capsys):
    line = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    (tmp_path / "metrics").write_text("up 1\n")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as other:
        try:
            port = other.stdout.readline().split()[5]
            assert main(["doctor", f"http://127.0.0.1:{port}", "--interval", "100ms"]) == 4
        finally:
            other.kill()
    assert "this is another server" in capsys.readouterr().err


def test_a_server_that_dies_while_it_is_watched_is_unreachable(bundle, serve, capsys):
    server = serve(bundle())
    url = server.http

    def stop():
        time.sleep(0.3)
        server.stop(grace_s=0)

    import threading

    thread = threading.Thread(target=stop)
    thread.start()
    with contextlib.closing(_Joined(thread)):
        assert main(["doctor", url, "--interval", "1s"]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


class _Joined:
    def __init__(self, thread):
        self.close = thread.join
