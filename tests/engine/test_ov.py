"""OpenVINO under the contract, and the facts its file is built around."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import weakref

import engine_nets as nets
import numpy as np
import pytest
from runtime_contract import OnnxContract

from whet.engine import load_runtime, open_engine
from whet.engine.ov import refuse_other_isa, settings_for
from whet.errors import PlanRefused, RuntimeFailed
from whet.plan import Plan
from whet.tensors import TensorSpec


class TestOpenVINO(OnnxContract):
    runtime = "openvino"

    def test_precision_is_always_explicit_and_pinning_off(self, store):
        raw = self.session(self.mlp(store)).effective.raw
        assert raw["INFERENCE_PRECISION_HINT"] == "f32"
        assert raw["ENABLE_CPU_PINNING"] == "False"
        pinned = settings_for(Plan("a", pinning=True, streams=2, threads=3))
        assert pinned["ENABLE_CPU_PINNING"] is True
        assert pinned["INFERENCE_NUM_THREADS"] == 6
        assert "PERFORMANCE_HINT" not in pinned

    def test_precisions_offered_are_those_that_read_back(self, store):
        offered = load_runtime("openvino").capabilities().precisions
        assert "f32" in offered
        artifact = self.mlp(store)
        for precision in ("f32", "bf16", "f16"):
            if precision in offered:
                assert self.session(artifact, precision=precision).effective.precision == precision
            else:
                with pytest.raises(PlanRefused, match=precision):
                    self.session(artifact, precision=precision)

    def test_streams_past_the_cores_read_back_as_what_they_are(self, store):
        cores = len(os.sched_getaffinity(0))
        effective = self.session(self.mlp(store), streams=cores + 3).effective
        assert effective.streams <= cores + 3
        assert effective.threads <= cores

    def test_an_isa_ceiling_holds_only_if_the_process_started_under_it(self):
        plan = Plan("a", isa_ceiling="AVX2")
        with pytest.raises(PlanRefused, match="started with none"):
            refuse_other_isa(plan, {})
        refuse_other_isa(plan, {"ONEDNN_MAX_CPU_ISA": "AVX2"})
        refuse_other_isa(Plan("a"), {})

    @pytest.mark.skipif(
        "AVX2" not in load_runtime("openvino").capabilities().isa_ceilings, reason="no x86 ceilings on this processor"
    )
    def test_bf16_is_not_offered_under_an_avx2_ceiling(self):
        """The library goes on listing BF16 there, and then fails to compile."""
        words = (
            "import json; from whet.engine import load_runtime;"
            "print(json.dumps(sorted(load_runtime('openvino').capabilities().precisions)))"
        )
        env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}  # noqa: TID251  (a test makes a child's environment)
        said = subprocess.run([sys.executable, "-c", words], env=env, capture_output=True, text=True, check=True)
        assert json.loads(said.stdout) == ["f32"]


@pytest.fixture
def cached(store, tmp_path):
    """Open the same net again and again with one cache; returns (answer, was it loaded, the cache's folder)."""
    artifact = nets.conv(store, side=32, channels=64)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)

    def open_and_run(**knobs):
        plan = Plan(artifact=artifact.sha256, batch_sizes=(2,), **knobs)
        session = load_runtime("openvino").open(artifact, plan, tmp_path)
        slot = session.slot()
        slot.prepare({"pixels": pixels.shape})["pixels"][...] = pixels
        slot.run()
        answer = slot.outputs()["scores"].copy()
        return answer, session.effective.raw["LOADED_FROM_CACHE"] == "True"

    open_and_run.folder = tmp_path / "openvino"
    return open_and_run


def blobs(folder):
    return sorted(folder.glob("*/*.blob"))


def test_the_second_opening_is_loaded_from_the_cache(cached):
    first, loaded = cached()
    assert not loaded
    second, loaded = cached()
    assert loaded
    assert np.array_equal(first, second)


def test_other_settings_are_another_entry(cached):
    cached()
    assert not cached(streams=2)[1]
    assert cached(streams=2)[1]
    assert len(blobs(cached.folder)) == 2


def test_flipped_weight_bytes_are_noticed_and_compiled_anew(cached, caplog):
    right, _ = cached()
    (blob,) = blobs(cached.folder)
    content = bytearray(blob.read_bytes())
    weights = nets.numpy_helper.to_array(nets.weights("k2", 64, 64, 3, 3)).tobytes()
    place = content.find(weights[:64])
    assert place > 0, "the blob holds the weights as they are"
    for index in range(place + 3, place + 4096, 4):
        content[index] ^= 0x41
    blob.write_bytes(content)
    with caplog.at_level(logging.WARNING, "whet.engine"):
        again, loaded = cached()
    assert not loaded
    assert "does not match its checksum" in caplog.text
    assert np.array_equal(right, again)
    assert cached()[1], "the entry was written anew"


@pytest.mark.parametrize("harm", ["truncate", "extra", "no list", "garbage list"])
def test_damaged_and_foreign_entries_are_ignored(cached, harm, caplog):
    right, _ = cached()
    (blob,) = blobs(cached.folder)
    if harm == "truncate":
        blob.write_bytes(blob.read_bytes()[:100])
    elif harm == "extra":
        (blob.parent / "stranger.blob").write_bytes(b"?")
    elif harm == "no list":
        (blob.parent / "SHA256SUMS").unlink()
    else:
        (blob.parent / "SHA256SUMS").write_bytes(b"\xff\xfe nonsense")
    with caplog.at_level(logging.WARNING, "whet.engine"):
        again, loaded = cached()
    assert not loaded
    assert "ignored" in caplog.text
    assert np.array_equal(right, again)


def test_a_cache_that_cannot_be_written_costs_only_time(store, tmp_path, caplog):
    artifact = nets.mlp(store)
    (tmp_path / "openvino").write_bytes(b"a file where a folder should be")
    with caplog.at_level(logging.WARNING, "whet.engine"):
        session = load_runtime("openvino").open(artifact, Plan(artifact=artifact.sha256), tmp_path)
    assert session.effective.precision == "f32"
    assert "cannot be kept" in caplog.text


def reshaping(store):
    """x [6], more [2] -> y: x in the shape (2, 3) + more; fails at run time unless that has 6 elements."""
    base = nets.numpy_helper.from_array(np.array([2, 3], np.int64), "base")
    model = nets.graph(
        [
            nets.helper.make_node("Add", ["base", "more"], ["into"]),
            nets.helper.make_node("Reshape", ["x", "into"], ["y"]),
        ],
        [("x", nets.FLOAT, [6]), ("more", nets.TensorProto.INT64, [2])],
        [("y", nets.FLOAT, ["a", "b"])],
        [base],
    )
    inputs = TensorSpec("x", "FP32", (6,)), TensorSpec("more", "INT64", (2,))
    return nets.save(store, model, nets.described(inputs, [TensorSpec("y", "FP32", (-1, -1))], batched=False))


def test_a_failure_of_which_openvino_says_nothing_reaches_the_caller_and_the_next_run_is_sound(store):
    async def story():
        artifact = reshaping(store)
        engine = await open_engine(artifact, Plan(artifact=artifact.sha256, fused_preprocessing=False))
        x = np.arange(6, dtype=np.float32)
        for more in ((0, 0), (2, 2), (1, -1), (4, -2)):
            asked = engine.infer({"x": x, "more": np.array(more, np.int64)})
            if more == (2, 2):
                with pytest.raises(RuntimeFailed):
                    await asked
            else:
                assert np.array_equal((await asked).outputs["y"], x.reshape(2 + more[0], 3 + more[1]))
        await engine.close()

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_slot_may_start_again_as_soon_as_it_has_reported(store):
    """OpenVINO takes a request's callback away while it runs: one started meanwhile would end without a word."""
    artifact = nets.mlp(store)
    session = load_runtime("openvino").open(artifact, Plan(artifact=artifact.sha256, fused_preprocessing=False))
    slot, reported, fill = session.slot(), threading.Event(), np.ones((1, 8), np.float32)
    for _ in range(300):
        slot.prepare({"x": (1, 8)})["x"][...] = fill
        slot.start(reported.set)
        assert reported.wait(10)
        reported.clear()
    watched = weakref.ref(slot)
    while not slot.over():
        pass
    del slot
    assert watched() is None  # nothing of OpenVINO's holds it
    session.close()


def test_a_thread_of_openvino_keeps_its_state_between_callbacks(store):
    """Else each callback would make and delete one."""
    artifact = nets.mlp(store)
    session = load_runtime("openvino").open(artifact, Plan(artifact=artifact.sha256, fused_preprocessing=False))
    slot, reported, local, seen = session.slot(), threading.Event(), threading.local(), []

    def done():
        local.calls = getattr(local, "calls", 0) + 1
        seen.append((threading.get_ident(), local.calls))
        reported.set()

    for _ in range(5):
        slot.prepare({"x": (1, 8)})["x"][...] = 1
        slot.start(done)
        assert reported.wait(10)
        reported.clear()
    (thread,) = {ident for ident, _ in seen}  # one stream, one thread
    assert thread != threading.get_ident()
    assert [calls for _, calls in seen] == [1, 2, 3, 4, 5]
    while not slot.over():
        pass
    session.close()
