"""Layers and roofs: what is made of a profile, and a profile of a real net."""

import contextlib
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_nets import write_net

from whet.engine.layers import Layer
from whet.host.roofline import Peak
from whet.models.importers import Options, import_model
from whet.optimize.data import synthetic
from whet.optimize.lab import Case, Lab
from whet.optimize.pool import materialise
from whet.optimize.profile import answered
from whet.optimize.profile_words import Order, Profile, Subject
from whet.optimize.roofs import Reached, layer_rows, main_precision, roofline
from whet.optimize.trial import Bench
from whet.plan import Plan


def peak(best, unit="GFLOP/s"):
    return Peak(0.9 * best, 0.8 * best, 0.95 * best, best, unit, 6, "recorded")


def profile_of(layers=(), parent=(), flops=None, bandwidth=10.0):
    peaks = {"f32": peak(100.0), "int8": peak(400.0)}
    return Profile(list(layers), list(parent), flops or {}, peaks, peak(bandwidth, "GB/s"), [])


INT8 = Layer("conv", "Convolution", "int8", 1.0, 0.8, 8_000_000)
REORDER = Layer("reorder", "Reorder", "f32", 0.25, 0.2, 2_000_000)


def test_a_layer_stands_beside_its_parents_of_the_same_name():
    parent = Layer("conv", "Convolution", "f32", 3.0, 1.0, 0)
    first, second = layer_rows(profile_of([INT8, REORDER], [parent]))
    assert (first["precision"], first["parent_precision"], first["parent_ms"]) == ("int8", "f32", 3.0)
    assert second["parent_ms"] is None
    assert layer_rows(None) == []


def test_operations_and_bytes_a_second_follow_from_speed_and_batch():
    # 50 MFLOP a sample, 1,000 samples/s, 10 MB for a batch of 4: 50 GFLOP/s and 2.5 GB/s.
    found = roofline(profile_of([INT8, REORDER], flops={"a": 5e7}), [Reached("p", "a", 1000.0, 4, [INT8, REORDER])])
    (row,) = found["achieved"]
    assert row["gflops"] == pytest.approx(50)
    assert row["gbs"] == pytest.approx(2.5)
    assert row["intensity"] == pytest.approx(20)
    # Bandwidth allows 10 GB/s x 20 FLOP/byte = 200 GFLOP/s, below the int8 peak of 400.
    assert (row["roof"], row["share"]) == ("memory", pytest.approx(0.25))
    assert "25 % of its memory roof. Not more than 4.0 times is left" in found["words"]


def test_the_peak_of_the_precision_that_takes_most_time_bounds_a_plan_that_moves_little():
    small = Layer("conv", "Convolution", "int8", 1.0, 1.0, 1000)
    (row,) = roofline(profile_of([small], flops={"a": 1e8}), [Reached("p", "a", 1000.0, 1, [small])])["achieved"]
    assert (row["roof"], row["share"]) == ("int8 compute", pytest.approx(0.25))
    assert main_precision([]) == "f32"


def test_a_roof_that_is_beaten_tells_nothing_of_what_is_left():
    found = roofline(profile_of([REORDER], flops={"a": 1e9}), [Reached("p", "a", 150.0, 1, [])])
    assert found["achieved"][0]["share"] == pytest.approx(1.5)
    assert "How much is left cannot be told" in found["words"]


def test_the_words_are_of_the_chosen_plan_or_of_none():
    # The first that was reached is the chosen one; its arithmetic is not known here.
    both = [Reached("chosen", "b", 100.0, 1, []), Reached("parent", "a", 50.0, 1, [])]
    found = roofline(profile_of([REORDER], flops={"a": 1e9}), both)
    assert [row["label"] for row in found["achieved"]] == ["parent"]
    assert found["words"] == ""


def test_what_was_not_seen_is_null():
    assert roofline(None, []) is None
    blind = Profile([], [], {}, {}, None, ["peaks of this host: no OpenVINO"])
    assert roofline(blind, []) is None
    assert roofline(profile_of(), [Reached("p", "unknown", 1.0, 1, [])])["achieved"] == []
    # A runtime that tells no bytes leaves the compute roof alone.
    (row,) = roofline(profile_of(flops={"a": 1e9}), [Reached("p", "a", 10.0, 1, [])])["achieved"]
    assert (row["gbs"], row["intensity"], row["roof"]) == (None, None, "f32 compute")


@given(st.floats(1e3, 1e12), st.floats(0.1, 1e5), st.integers(1, 64), st.integers(1, 10**9))
def test_a_faster_plan_has_a_larger_share_of_the_same_roof(flops, per_s, batch, moved):
    layer = Layer("l", "Convolution", "f32", 1.0, 1.0, moved)
    slow, fast = (
        roofline(profile_of(flops={"a": flops}), [Reached("p", "a", speed, batch, [layer])])["achieved"][0]
        for speed in (per_s, 2 * per_s)
    )
    assert fast["share"] == pytest.approx(2 * slow["share"])
    assert fast["roof"] == slow["roof"]


def test_layers_and_roofs_of_a_real_net_agree_with_how_fast_it_serves(tmp_path):
    """Two runtimes in one look: OpenVINO's plan stands beside ONNX Runtime's as its parent."""
    artifact = import_model(write_net(tmp_path / "net.onnx"), Options(), tmp_path / "store")
    plans = [Plan(artifact.sha256, runtime=name, batch_sizes=(1, 2)) for name in ("openvino", "onnxruntime")]
    pool = materialise(synthetic(artifact, 8, 0), range(8), artifact, tmp_path / "pool")
    cpus = (min(os.sched_getaffinity(0)),)
    lab = Lab(Bench(cpus, tmp_path), pool.folder, {artifact.sha256: artifact}, 1, random.Random(0))
    with contextlib.closing(lab):
        # Whole batches of two, one at a time: what a run of the layers at their largest batch takes, and more.
        cases = [Case(plan, callers=1, rows=2) for plan in plans]
        blocks = [record.kept[-1] for record in lab.round(cases, 1, 0.2).values()]
    found = answered(Order(*(Subject(str(artifact.folder), plan, 5) for plan in plans), 1), cpus)
    assert found.unseen == []
    reached = []
    for plan, layers, block in zip(plans, (found.layers, found.parent), blocks, strict=True):
        assert all(layer.precision and layer.time_ms >= 0 for layer in layers)
        convolutions = [layer for layer in layers if layer.type in {"Convolution", "Conv", "FusedConv"}]
        assert len(convolutions) == 2
        assert all(layer.precision == "f32" and layer.time_ms > 0 for layer in convolutions)
        assert sum(layer.share for layer in layers) == pytest.approx(1)
        # Within reason, since a thread has to be woken for a request, and a busy machine slows either.
        assert 0.02 < sum(layer.time_ms for layer in layers) / np.median(block.latencies_ms) < 5
        reached.append(Reached(plan.runtime, artifact.sha256, block.throughput_per_s, 2, layers))
    assert all(layer.moved_bytes > 0 for layer in found.layers)
    document = roofline(found, reached)
    assert [row["label"] for row in document["achieved"]] == ["openvino", "onnxruntime"]
    peaks = {one["name"]: one["best"] for one in document["peaks"]}
    assert peaks.keys() >= {"f32", "int8"}
    assert all(0 < row["gflops"] < peaks["f32"] for row in document["achieved"])
    assert document["achieved"][0]["gbs"] > 0 < document["bandwidth"]["best"]
    assert document["words"]
