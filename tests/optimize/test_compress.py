"""Every recipe keeps the same promises: its parent stays as it is, the same seed gives the same artifact, and what it
did stands in the lineage."""

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_nets import pictures, write_dense, write_net

from whet.errors import PlanRefused, RuntimeFailed
from whet.models.artifact import hash_path
from whet.models.bundle import PlanRecord, read_bundle, write_bundle
from whet.models.importers import import_model
from whet.models.importers.base import Options
from whet.optimize.accuracy import noise_to_signal
from whet.optimize.compress import RECIPES, Work, ladder, recipe, routes, run_ranking, run_recipe
from whet.optimize.compress.kind import kind_of
from whet.optimize.data import open_data
from whet.optimize.pool import materialise
from whet.plan import Plan, Targets

CPUS = tuple(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an imported net (one that int8 holds, one whose outliers it does not) and calibration samples."""
    folder = tmp_path_factory.mktemp("compress")
    images, labels = pictures(32, seed=3)
    np.savez(folder / "d.npz", x=images, label=labels)
    artifacts = {}
    for name, outlier in (("mild", 1.0), ("wild", 3e3)):
        net = write_net(folder / f"{name}.onnx", outlier=outlier)
        artifacts[name] = import_model(net, Options(), folder / "store")
    artifacts["dense"] = import_model(write_dense(folder / "dense.onnx"), Options(), folder / "store")
    data = open_data(str(folder / "d.npz"), artifacts["mild"])
    materialise(data, range(32), artifacts["mild"], folder / "pool")
    return folder, artifacts


def work_of(place, name: str, net: str = "mild", store: str = "products", **changes) -> Work:
    folder, artifacts = place
    fields = {
        "recipe": name, "artifact": artifacts[net].folder, "pool": folder / "pool", "calibration": "c" * 64,
        "items": 24, "seed": 3, "store": folder / store,
    }  # fmt: skip
    return Work(**{**fields, **changes})


def run(work, tmp_path, limit_s=100.0, progress=None):
    return run_recipe(work, cpus=CPUS, limit_s=limit_s, log=tmp_path / "log", progress=progress or (lambda said: None))


def ranked(work, tmp_path, progress=None):
    return run_ranking(work, cpus=CPUS, limit_s=100.0, log=tmp_path / "log", progress=progress or (lambda said: None))


def answers(artifact, images):
    if artifact.format == "onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(str(artifact.path)).run(None, {"x": images})[0]
    from whet.quiet import silence_telemetry

    silence_telemetry()
    import openvino as ov

    compiled = ov.Core().compile_model(artifact.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({"x": images})[0]


def changes_for(name: str) -> dict[str, object]:
    """What a recipe needs beside the defaults: layers to keep, or a net with layers it is for."""
    if recipe(name).reverts:
        return {"keep": ("second",)}
    return {"net": "dense"} if name == "int4-weights" else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [one.name for one in RECIPES])
def test_recipe_keeps_its_promises(place, tmp_path, name):
    _, artifacts = place
    changes, said = changes_for(name), []
    parent = artifacts[changes.get("net", "mild")]
    before = hash_path(parent.folder)
    product = run(work_of(place, name, **changes), tmp_path, progress=said.append)
    assert hash_path(parent.folder) == before
    assert product.sha256 != parent.sha256
    assert (product.inputs, product.outputs, product.batched) == (parent.inputs, parent.outputs, parent.batched)
    assert product.precision in {"int8", "mixed"}
    assert product.lineage[:-1] == parent.lineage
    step = product.lineage[-1]
    assert step.source == parent.sha256
    assert step.recipe.startswith(name)
    assert step.settings["seed"] == 3
    if recipe(name).calibrates:
        assert (step.settings["calibration_items"], step.settings["calibration_sha256"]) == (24, "c" * 64)
    assert said
    images, labels = pictures(200, seed=8)
    reference, found = answers(parent, images), answers(product, images)
    assert 1e-9 < float(np.mean(noise_to_signal(found, reference))) < 0.3  # rounded; the fitted last layer magnifies it
    if parent is artifacts["mild"]:
        assert (found.argmax(1) == labels).mean() > 0.9
    again = run(work_of(place, name, store="again", **changes), tmp_path)
    assert again.sha256 == product.sha256


@pytest.mark.slow
def test_the_ranking_finds_the_layer_that_rounding_ruins_and_leaving_it_in_float_saves_the_net(place, tmp_path):
    _, artifacts = place
    images, labels = pictures(300, seed=8)
    plain, said = run(work_of(place, "int8", "wild"), tmp_path), []
    kept = tmp_path / "layers.jsonl"
    question = work_of(place, "int8-sensitive", "wild", start=plain.folder, ranking=kept)
    ranking = ranked(question, tmp_path, said.append)
    assert {name for name, _ in ranking} == {"first", "second", "last/WithoutBiases"}
    assert [gain for _, gain in ranking] == sorted((gain for _, gain in ranking), reverse=True)
    assert ranking[0][0] == "second"  # whose input has one channel 3000 times the others
    assert "about" in said[0].progress  # the estimate comes before the first layer
    assert (said[0].done, said[-1].done, said[0].total) == (0, 2, 3)
    careful = run(work_of(place, "int8-sensitive", "wild", keep=(ranking[0][0],)), tmp_path)
    assert careful.lineage[-1].settings["ignored"] == ["second"]
    assert (answers(artifacts["wild"], images).argmax(1) == labels).mean() > 0.95
    ruined = (answers(plain, images).argmax(1) == labels).mean()
    assert ruined < 0.8
    assert (answers(careful, images).argmax(1) == labels).mean() > ruined + 0.1
    # Interrupted after two layers, in the middle of a line, it measures only what is missing.
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:2]) + lines[2][:5])
    again = []
    assert dict(ranked(question, tmp_path, again.append)).keys() == dict(ranking).keys()
    assert again[0].progress.startswith("1 of 3 layers to measure")


@pytest.mark.slow
def test_lineage_and_settings_are_in_the_bundle(place, tmp_path):
    product = run(work_of(place, "int8-weights"), tmp_path)
    (tmp_path / "evidence").mkdir()
    record = PlanRecord(Plan(artifact=product.sha256))
    write_bundle(tmp_path / "b", "net", [record], {product.sha256: product}, Targets(), tmp_path / "evidence")
    kept = read_bundle(tmp_path / "b").artifacts[product.sha256]
    assert kept.lineage == product.lineage
    assert kept.lineage[-1].source == place[1]["mild"].sha256
    assert kept.lineage[-1].settings["mode"] == "int8_asym"


def test_no_calibration_data_is_a_named_refusal(place, tmp_path):
    with pytest.raises(PlanRefused, match=r"int8-ort.*--data"):
        run(work_of(place, "int8-ort", pool=None), tmp_path)


def test_a_net_with_nothing_to_round_is_a_named_refusal(place, tmp_path):
    folder, _ = place
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 32, 32])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "relu.onnx")
    relu = import_model(tmp_path / "relu.onnx", Options(), folder / "store")
    with pytest.raises(PlanRefused, match=r"int8-ort-dyn.*nothing in this net"):
        run(work_of(place, "int8-ort-dyn", artifact=relu.folder), tmp_path)


def test_a_recipe_is_ended_when_its_time_is_over(place, tmp_path):
    with pytest.raises(RuntimeFailed, match="ended after"):
        run(work_of(place, "int8"), tmp_path, limit_s=0.3)
    assert not list((place[0] / "products").glob(".writing*"))


def test_reverting_layers_without_naming_them_is_refused(place, tmp_path):
    with pytest.raises(PlanRefused, match=r"int8-sensitive.*rank the layers first"):
        run(work_of(place, "int8-sensitive"), tmp_path)


def test_a_toolkit_that_crashes_leaves_a_named_refusal(place, tmp_path):
    folder, artifacts = place
    broken = tmp_path / "broken"
    shutil.copytree(artifacts["mild"].folder, broken)
    model = broken / artifacts["mild"].model
    model.write_bytes(model.read_bytes()[:200])
    with pytest.raises(PlanRefused, match="recipe 'int8-ort-dyn'") as caught:
        run(work_of(place, "int8-ort-dyn", artifact=broken), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((folder / "products").glob(".writing*"))


def test_an_unknown_recipe_is_refused(place, tmp_path):
    with pytest.raises(PlanRefused, match="int4-magic"):
        run(work_of(place, "int4-magic"), tmp_path)


def test_ladders_go_from_cheap_to_dear():
    assert [one.name for one in ladder("ptq")] == ["int8", "int8-robust", "int8-edges", "int8-sensitive"]


@pytest.mark.parametrize(
    ("kind", "memory_bound", "names"),
    [
        pytest.param("cnn", False, ["int8", "int8-ort"], id="convolutions: static quantization"),
        pytest.param("transformer", True, ["int8", "int8-ort", "int4-weights", "int8-weights"], id="memory-bound"),
        pytest.param("recurrent", False, ["int8-ort-dyn", "int8"], id="recurrent: the dynamic route first"),
    ],
)
def test_routes_begin_with_what_suits_the_kind_of_net(kind, memory_bound, names):
    found = routes(kind, memory_bound=memory_bound)
    assert [ladder[0].name for ladder in found] == names
    assert (recipe("int8-ort-dyn") in {rung for ladder in found for rung in ladder}) == (kind != "cnn")


@pytest.mark.parametrize(
    ("operators", "kind"),
    [
        pytest.param({"Convolution": 3, "Softmax": 1}, "cnn", id="a classifier ends in one softmax"),
        pytest.param({"Conv": 1, "LSTM": 2}, "recurrent", id="convolutions in front change nothing"),
        pytest.param({"Softmax": 2, "MVN": 5, "MatMul": 12}, "transformer", id="openvino names"),
        pytest.param({"Softmax": 2, "LayerNormalization": 5, "MatMul": 12}, "transformer", id="onnx names"),
        pytest.param({"MatMul": 3, "Relu": 2}, "other", id="dense"),
        pytest.param({}, "other", id="nothing known"),
    ],
)
def test_kind_of_a_net_from_its_operators(operators, kind):
    assert kind_of(operators) == kind
