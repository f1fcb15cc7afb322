"""Bundles of several hosts: what one host adds, what it leaves alone, and what a kill or a second writer may do."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from whet.errors import BundleError, OutputError, UsageError
from whet.host.fingerprint import differences, digest
from whet.models.artifact import Artifact, Lineage, seal
from whet.models.bundle import PlanRecord, read_bundle, write_bundle
from whet.models.hosts import Share, evidence_folder, model_key, nearest, of_host, put, rows
from whet.models.swap import alone
from whet.plan import Plan, Targets
from whet.tensors import TensorSpec

BIG = {
    "arch": "x86_64", "vendor": "GenuineIntel", "model": "Xeon 8480+", "isa": ["avx2", "avx512_vnni", "amx_int8"],
    "cores": 64, "physical": 64, "smt": 1, "sockets": 2, "nodes": 2, "l3_bytes": 110 << 20, "l3_cores": 32,
}  # fmt: skip
HALF = {**BIG, "model": "Xeon 6138", "isa": ["avx2"], "cores": 1, "physical": 1, "sockets": 1, "nodes": 1}
ARM = {**BIG, "arch": "aarch64", "vendor": "ARM", "model": "Neoverse-V1", "isa": ["neon", "bf16"], "cores": 8}


def sealed(folder, text="net", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.fake").write_text(text)
    spec = TensorSpec("x", "FP32", (-1, 2))
    lineage = (Lineage("import", str(folder), "own importer", {"sha256": "content of the file"}),)
    described = Artifact(Path(), "model.fake", "fake", "", (spec,), (spec,), batched=True, lineage=lineage)
    return seal(replace(described, **changes), [folder / "model.fake"], folder / "store")


def share(folder, fields, *artifacts, model="m", **knobs):
    fingerprint = digest(fields)
    evidence = folder / f"evidence-{time.monotonic_ns()}"
    evidence.mkdir(parents=True)
    (evidence / "result.json").write_text(json.dumps({"host": {"fingerprint": fingerprint, "cores": fields["cores"]}}))
    plans = [Plan(one.sha256, runtime="fake", **knobs) for one in artifacts]
    roles = ("chosen", *["reference"] * len(plans))
    records = tuple(PlanRecord(plan, fields, {"throughput_per_s": {"value": 10.0 * fields["cores"]}}, role)
                    for plan, role in zip(plans, roles, strict=False))  # fmt: skip
    return Share("net", model, fingerprint, records, {one.sha256: one for one in artifacts}, evidence=evidence)


def test_a_second_host_leaves_the_first_ones_part_alone(tmp_path):
    int8, f32, amx = (sealed(tmp_path / name, name) for name in ("int8", "f32", "amx"))
    out = tmp_path / "b"
    put(out, share(tmp_path, BIG, amx, f32, streams=64))
    bundle, said = put(out, share(tmp_path, HALF, int8, f32))
    assert digest(BIG) in said
    assert [(one.fingerprint, one.role) for one in bundle.plans] == [
        (digest(HALF), "chosen"), (digest(HALF), "reference"), (digest(BIG), "chosen"), (digest(BIG), "reference"),
    ]  # fmt: skip
    assert set(bundle.artifacts) == {int8.sha256, f32.sha256, amx.sha256}
    for fields in (BIG, HALF):
        result = json.loads((evidence_folder(out, digest(fields)) / "result.json").read_text())
        assert result["host"]["cores"] == fields["cores"]
    assert json.loads((evidence_folder(out) / "result.json").read_text())["host"]["cores"] == 1
    # The big host's second search replaces its own part alone, and what nobody names any more is gone.
    bundle, _ = put(out, share(tmp_path, BIG, f32, streams=32))
    assert [one.plan.streams for one in bundle.plans if one.fingerprint == digest(BIG)] == [32]
    assert set(bundle.artifacts) == {int8.sha256, f32.sha256}
    assert not (out / "artifacts" / amx.sha256).exists()
    assert json.loads((evidence_folder(out, digest(HALF)) / "result.json").read_text())["host"]["cores"] == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_the_same_plan_found_on_two_hosts_stands_twice(tmp_path):
    net = sealed(tmp_path / "net")
    put(tmp_path / "b", share(tmp_path, BIG, net))
    bundle, _ = put(tmp_path / "b", share(tmp_path, ARM, net))
    assert len({one.plan.id for one in bundle.plans}) == 1
    assert {one.fingerprint for one in bundle.plans} == {digest(BIG), digest(ARM)}


def test_a_bundle_of_another_model_is_replaced_and_that_is_said(tmp_path):
    net = sealed(tmp_path / "net")
    put(tmp_path / "b", share(tmp_path, BIG, net))
    bundle, said = put(tmp_path / "b", share(tmp_path, HALF, net, model="another"))
    assert "another model" in said
    assert {one.fingerprint for one in bundle.plans} == {digest(HALF)}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is no bundle"):
        put(tmp_path / "file", share(tmp_path, BIG, net))


def test_a_model_is_known_by_its_content_not_by_its_place_or_converter(tmp_path):
    here = sealed(tmp_path / "here")
    moved = replace(here, lineage=(replace(here.lineage[0], source="/elsewhere", recipe="another version"),))
    step = Lineage("compress", here.sha256, "int8", {"items": 3})
    assert model_key(here) == model_key(moved) == model_key(replace(here, lineage=(*here.lineage, step)))
    other = replace(here, lineage=(replace(here.lineage[0], settings={"sha256": "other content"}),))
    assert model_key(other) != model_key(here)
    # A bundle of an older Whet names no model: its artifact tells.
    (tmp_path / "e").mkdir()
    write_bundle(
        tmp_path / "b", "n", [PlanRecord(Plan(here.sha256), BIG)], {here.sha256: here}, Targets(), tmp_path / "e"
    )
    bundle, _ = put(tmp_path / "b", share(tmp_path, HALF, here, model=model_key(here)))
    assert {one.fingerprint for one in bundle.plans} == {digest(HALF), digest(BIG)}


def test_hosts_are_told_apart_in_words(tmp_path):
    said = differences(BIG, HALF)
    assert said[0] == "Xeon 8480+ there, Xeon 6138 here"
    assert "no amx_int8, avx512_vnni here" in said
    assert "64 cores there, 1 here" in said
    assert differences(BIG, BIG) == ()
    assert differences(BIG, ARM)[0] == "x86_64 there, aarch64 here"
    net = sealed(tmp_path / "net")
    put(tmp_path / "b", share(tmp_path, BIG, net))
    bundle, _ = put(tmp_path / "b", share(tmp_path, ARM, net))
    assert nearest(bundle, HALF)[0].fingerprint == digest(BIG)
    assert [row["away"] for row in rows(bundle, BIG)] == [nearest(of_host(bundle, digest(ARM)), BIG)[1], 0]
    assert of_host(bundle, digest(ARM)[:5]).plans[0].fingerprint == digest(ARM)
    for lookup in (lambda: of_host(bundle, "0000"), lambda: evidence_folder(bundle.folder, "0000")):
        with pytest.raises(UsageError, match=digest(BIG)):
            lookup()


def test_a_lock_is_its_holders_alone(tmp_path):
    with alone(tmp_path / "lock"), pytest.raises(OutputError, match="busy"), alone(tmp_path / "lock", "busy here"):
        pytest.fail("two hold it")
    with alone(tmp_path / "lock", "busy here"):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_bundle_hosts import put, sealed, share, BIG
folder, cores, times = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
net = sealed(folder / f"net{{cores}}", f"net {{cores}} " + "x" * 200_000)
print("begun", flush=True)
for streams in range(1, times + 1):
    put(folder / "b", share(folder / f"own{{cores}}", {{**BIG, "cores": cores}}, net, streams=streams))
"""


def writer(tmp_path, cores, times):
    code = WRITER.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code, tmp_path, str(cores), str(times)], stdout=subprocess.PIPE)


def test_two_processes_that_write_one_bundle_lose_nothing_and_readers_see_whole_ones(tmp_path):
    put(tmp_path / "b", share(tmp_path, HALF, sealed(tmp_path / "net")))
    done, failures, seen = threading.Event(), [], set()

    def read():
        while not done.is_set():
            try:
                seen.add(frozenset(one.fingerprint for one in read_bundle(tmp_path / "b").plans))
            except BundleError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    writers = [writer(tmp_path, cores, 15) for cores in (2, 4)]
    codes = [one.wait(60) for one in writers]
    done.set()
    reader.join()
    for one in writers:
        one.stdout.close()
    assert codes == [0, 0]
    assert failures == []
    assert len(seen) > 1
    last = {one.host["cores"]: one.plan.streams for one in read_bundle(tmp_path / "b").plans}
    assert last == {1: 1, 2: 15, 4: 15}


def test_a_writer_that_is_killed_leaves_a_whole_bundle(tmp_path):
    put(tmp_path / "b", share(tmp_path, HALF, sealed(tmp_path / "net")))
    for turn in range(3):
        with writer(tmp_path, 2, 10_000) as process:
            process.stdout.readline()
            time.sleep(0.05 + 0.031 * turn)
            process.send_signal(signal.SIGKILL)
        bundle = read_bundle(tmp_path / "b")
        assert any(one.host["cores"] == 1 for one in bundle.plans)
        assert all(artifact.path.read_text() for artifact in bundle.artifacts.values())
    # The lock died with its holder: the next writer does not wait.
    bundle, _ = put(tmp_path / "b", share(tmp_path, BIG, sealed(tmp_path / "big", "big")))
    assert digest(BIG) in {one.fingerprint for one in bundle.plans}
