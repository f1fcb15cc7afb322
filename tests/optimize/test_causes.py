"""Causes are named only where a number shows them: made for real where this host can, on recorded layers otherwise."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_nets import pictures, write_net

from whet.engine.layers import Layer, profile_layers
from whet.host import read_host
from whet.models.importers import import_model
from whet.models.importers.base import Options
from whet.optimize.causes import Facts, causes, executed, native, words
from whet.optimize.compress import Work, run_recipe
from whet.optimize.data import open_data
from whet.optimize.look import look
from whet.optimize.pool import materialise
from whet.optimize.race import Race, outcome, shapes
from whet.plan import Plan
from whet.stats import Interval

CPUS = tuple(os.sched_getaffinity(0))
NATIVE = ("bf16", "int8")


def layer(kind: str, precision: str, time_ms: float, name: str = "") -> Layer:
    return Layer(name or kind, kind, precision, time_ms, 0.0)


def slugs(facts: Facts) -> list[str]:
    return [one.slug for one in causes(facts)]


def plan_of(artifact, **changes) -> Plan:
    return Plan(artifact=artifact.sha256, **changes)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a function that imports a net and runs a recipe on it: (float artifact, product)."""
    folder = tmp_path_factory.mktemp("causes")
    images, labels = pictures(32, seed=3)
    np.savez(folder / "d.npz", x=images, label=labels)

    def made(path, recipe, **changes):
        artifact = import_model(path, Options(), folder / "store")
        pool = materialise(open_data(str(folder / "d.npz"), artifact), range(32), artifact, folder / "pool")
        work = Work(recipe, artifact.folder, pool.folder, "c" * 64, 16, 3, folder / "products", **changes)
        log = folder / "log"
        return artifact, run_recipe(work, cpus=CPUS, limit_s=60, log=log, progress=lambda said: None)

    return made


def write_unfused(path):
    """Write convolutions with activations between them that ONNX Runtime has no int8 kernels for."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in (("a", (24, 1, 3, 3)), ("b", (24, 24, 3, 3)), ("c", (8, 24, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"]),
        helper.make_node("HardSwish", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b"], ["r"]),
        helper.make_node("HardSwish", ["r"], ["s"]),
        helper.make_node("Conv", ["s", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "unfused",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 26, 26])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_tiny(path):
    """Write three convolutions over 4 x 4 pixels, of a few thousand multiplications each: calling them costs more."""
    rng, before, channels = np.random.default_rng(0), "p", 1
    nodes, weights = [helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[8, 8], strides=[8, 8])], []
    for place in range(3):
        made = rng.normal(0, 0.1, (8, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(made, f"w{place}"))
        nodes.append(helper.make_node("Conv", [before, f"w{place}"], [f"c{place}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"]))
        before, channels = f"r{place}", 8
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 32, 32])],
        [helper.make_tensor_value_info("r2", TensorProto.FLOAT, ["n", 8, 4, 4])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.slow
def test_quantizers_that_onnx_runtime_runs_on_their_own_are_shown(make, tmp_path):
    artifact, product = make(write_unfused(tmp_path / "n.onnx"), "int8-ort")
    before = profile_layers(artifact, plan_of(artifact, runtime="onnxruntime"))
    after = profile_layers(product, plan_of(product, runtime="onnxruntime"))
    assert {"QuantizeLinear", "DequantizeLinear"} & {one.type for one in after}
    assert executed(after)["int8"] >= 1
    facts = Facts(NATIVE, before=tuple(before), after=tuple(after))
    assert "unfused-qdq" in slugs(facts)
    assert "fused into none" in words(causes(facts), facts)


@pytest.mark.slow
def test_layers_too_small_to_gain_are_shown(make, tmp_path):
    artifact, product = make(write_tiny(tmp_path / "n.onnx"), "int8")
    before, after = profile_layers(artifact, plan_of(artifact)), profile_layers(product, plan_of(product))
    facts = Facts(NATIVE, before=tuple(before), after=tuple(after))
    assert "small-layers" in slugs(facts)


@pytest.mark.slow
def test_layers_left_in_float_between_int8_ones_are_shown_with_their_time(make, tmp_path):
    artifact, product = make(write_net(tmp_path / "n.onnx"), "int8-sensitive", keep=("second",))
    before, after = profile_layers(artifact, plan_of(artifact)), profile_layers(product, plan_of(product))
    assert executed(before) == {"f32": 3}
    assert executed(after)["f32"] == 1
    assert executed(after)["int8"] >= 1
    found = {one.slug: one for one in causes(Facts(NATIVE, before=tuple(before), after=tuple(after)))}
    assert "1 of 3 computing layers are not executed in int8" in found["left-in-float"].words
    second = next(one for one in after if one.type == "Convolution" and one.precision == "f32")
    assert found["left-in-float"].cost_ms == pytest.approx(second.time_ms)


@pytest.mark.slow
def test_below_a_ceiling_without_vnni_the_missing_instructions_are_shown(make, tmp_path):
    artifact, product = make(write_net(tmp_path / "n.onnx"), "int8")
    if "AVX2" not in plan_ceilings():
        pytest.skip("this processor has no AVX2 to fall back to")
    before, after = (look(one, plan_of(one, isa_ceiling="AVX2"), cpus=CPUS, seconds=60) for one in (artifact, product))
    assert before
    assert after
    host = tuple(read_host().processor.native)
    facts = Facts(native(host, "AVX2"), ceiling="AVX2", before=before, after=after)
    assert slugs(facts)[0] == "no-instructions"
    assert "below the ceiling AVX2" in words(causes(facts), facts)
    assert "no-instructions" not in slugs(Facts((*host, "int8"), before=before, after=after))


def plan_ceilings() -> tuple[str, ...]:
    from whet.engine.environment import isa_ceilings

    return isa_ceilings()


def test_what_cannot_be_looked_into_shows_nothing(make, tmp_path):
    artifact = import_model(write_tiny(tmp_path / "n.onnx"), Options(), tmp_path / "store")
    assert look(artifact, plan_of(artifact, runtime="pytorch"), cpus=CPUS, seconds=30) == ()
    assert words([], Facts(NATIVE)) == "the layers could not be read, so no cause can be shown"


CONV = (layer("Convolution", "f32", 1.0), layer("Convolution", "f32", 1.0))
RECORDED = {
    "bf16 is faster": (Facts(NATIVE, bf16=Interval(1.4, 1.3, 1.5)), ["bf16-faster"], "1.40x [1.30, 1.50]"),
    "bf16 is no slower": (Facts(NATIVE, bf16=Interval(1.0, 0.97, 1.03)), ["bf16-faster"], "1.00x [0.97, 1.03]"),
    "bf16 is slower": (Facts(NATIVE), [], "could not be read"),
    "an LSTM that OpenVINO leaves in f32": (
        Facts(NATIVE, before=(layer("RNNSeq", "f32", 2.7),), after=(layer("RNNSeq", "f32", 2.8),)),
        ["not-executed"],
        "not one computing layer",
    ),
    "conversions eat the gain": (
        Facts(NATIVE, before=CONV, after=(layer("Convolution", "int8", 0.8), layer("Reorder", "f32", 1.3))),
        ["conversions"],
        "1.30 of 2.10 ms (62 %)",
    ),
    "the float net has as many reorders": (
        Facts(
            NATIVE,
            before=(*CONV, layer("Reorder", "f32", 1.3)),
            after=(layer("Convolution", "int8", 0.8), layer("Reorder", "f32", 1.3)),
        ),
        [],
        "no cause shows",
    ),
    "int8 kernels no faster": (
        Facts(NATIVE, before=CONV, after=(layer("Convolution", "uint8", 2.1),)),
        ["int8-not-faster"],
        "most lost: Convolution",
    ),
    "pooling and copies are most of it": (
        Facts(NATIVE, before=(*CONV, layer("Pooling", "f32", 6.0)), after=(layer("Convolution", "int8", 0.5),)),
        ["little-arithmetic"],
        "1.33x at most",
    ),
    "weights are the limit": (Facts(NATIVE, bound="memory", before=CONV), ["weights-bound"], "reading the weights"),
    "bf16 without bf16 instructions": (Facts(("int8",), precision="bf16"), ["no-instructions"], "AVX512-BF16"),
}


@pytest.mark.parametrize(("facts", "wanted", "said"), RECORDED.values(), ids=RECORDED)
def test_causes_on_recorded_layers(facts, wanted, said):
    found = causes(facts)
    assert [one.slug for one in found] == wanted
    assert said in words(found, facts)


@pytest.mark.parametrize(
    ("ceiling", "left"),
    [
        pytest.param(None, ("bf16", "f16", "int8"), id="no ceiling"),
        pytest.param("AVX2", (), id="AVX2 has none of them"),
        pytest.param("AVX512_CORE", (), id="nor AVX512 without VNNI"),
        pytest.param("AVX512_CORE_VNNI", ("int8",), id="VNNI has int8"),
        pytest.param("AVX512_CORE_AMX", ("bf16", "f16", "int8"), id="AMX has all"),
    ],
)
def test_what_a_ceiling_leaves(ceiling, left):
    assert native(("bf16", "f16", "int8"), ceiling) == left


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        pytest.param(Interval(1.5, 1.2, 1.8), "faster", id="the whole interval is above 1"),
        pytest.param(Interval(1.01, 1.001, 1.02), "faster", id="a little, but surely"),
        pytest.param(Interval(1.3, 0.9, 1.7), "open", id="seems faster: the finals tell"),
        pytest.param(Interval(1.01, 0.95, 1.07), "slower", id="next to nothing is nothing"),
        pytest.param(Interval(0.7, 0.6, 0.8), "slower", id="slower"),
        pytest.param(None, "failed", id="not measured"),
    ],
)
def test_a_race_is_won_only_by_what_is_measurably_faster(gain, said):
    assert outcome(gain) == said


def test_a_race_whose_blocks_were_all_disturbed_is_left_to_the_finals():
    assert Race(Plan("a"), None).outcome == "open"
    assert Race(Plan("a"), None, failure="needs more memory").outcome == "failed"


def test_a_candidate_is_raced_in_both_ways_to_use_the_cores():
    plan = Plan("a", streams=1, threads=2)
    assert [(one.streams, one.threads) for one in shapes(plan, 2)] == [(1, 2), (2, 1)]
    assert [(one.streams, one.threads) for one in shapes(Plan("a", streams=2, threads=1), 2)] == [(2, 1), (1, 2)]
    assert len(shapes(Plan("a"), 1)) == 1
