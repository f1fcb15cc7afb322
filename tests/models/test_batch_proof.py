"""The batch axis is freed only where running both ways proves it; what cannot be batched says why."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from whet.models.importers import Options, import_model
from whet.models.importers.reference import agree, difference, open_onnxruntime, open_openvino


def net(nodes, shape_in, shape_out, constants=None, opset=17, kind=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", kind, shape_out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def imported(model, tmp_path, **options):
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return import_model(path, Options(**options), tmp_path / "store")


WEIGHT = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)


def test_a_reshape_that_holds_batch_one_is_freed(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    model = net(nodes, [1, 3, 2, 2], [1, 4], {"shape": np.array([1, 12]), "w": WEIGHT})
    artifact = imported(model, tmp_path)
    assert artifact.batched
    assert any("1 reshape(s) held the batch at 1" in note for note in artifact.notes)
    x = np.random.default_rng(1).standard_normal((5, 3, 2, 2)).astype(np.float32)
    for runner in (open_openvino(artifact.path), open_onnxruntime(artifact.path)):
        np.testing.assert_allclose(runner.run({"x": x})["y"], x.reshape(5, 12) @ WEIGHT, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "constants", "why"),
    [
        ([helper.make_node("Softmax", ["x"], ["y"], axis=0)], {}, "rows influence each other: output 'y'"),
        (
            [
                helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
                helper.make_node("Sub", ["x", "m"], ["y"]),
            ],
            {},
            "rows influence each other",
        ),
        (
            [
                helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
            ],
            {},
            "rows influence each other",
        ),
        ([helper.make_node("Expand", ["x", "s"], ["y"])], {"s": np.array([4, 3, 4])}, "shape"),
    ],
    ids=["softmax over the batch", "centred over the batch", "one scale a batch", "an output of fixed batch 4"],
)
def test_nets_whose_rows_depend_on_each_other_are_not_batched(tmp_path, nodes, constants, why):
    artifact = imported(net(nodes, [1, 3, 4], None if constants else [1, 3, 4], constants), tmp_path)
    assert not artifact.batched
    assert any("one request at a time" in note and why in note for note in artifact.notes), artifact.notes
    assert artifact.inputs[0].shape == (1, 3, 4)


def test_a_fixed_batch_other_than_one_is_left_alone(tmp_path):
    artifact = imported(net([helper.make_node("Relu", ["x"], ["y"])], [4, 3], [4, 3]), tmp_path)
    assert not artifact.batched
    assert any("axis 0 of input 'x' is fixed at 4" in note for note in artifact.notes)


def test_a_shape_from_the_user_fixes_what_the_file_leaves_free(tmp_path):
    model = net([helper.make_node("Relu", ["x"], ["y"])], ["a", "b", "c"], ["a", "b", "c"])
    assert imported(model, tmp_path).inputs[0].shape == (-1, -1, -1)
    shaped = imported(model, tmp_path, input_shapes={"": (1, 3, 8)})
    assert shaped.inputs[0].shape == shaped.outputs[0].shape == (-1, 3, 8)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"z": (1, 2)}, r"names 'z', which is no input; the model takes \['x'\]"),
        ({"x": (1, 2)}, "has 2 axes, the input has 3"),
    ],
)
def test_a_shape_that_fits_nothing_is_a_usage_error(tmp_path, shapes, said):
    from whet.errors import UsageError

    model = net([helper.make_node("Relu", ["x"], ["y"])], ["a", "b", "c"], ["a", "b", "c"])
    with pytest.raises(UsageError, match=said):
        imported(model, tmp_path, input_shapes=shapes)


def test_difference_is_relative_and_sees_what_is_not_finite():
    one = np.array([0.0, 100.0])
    assert difference(one, one + 0.1) == pytest.approx(0.001)
    assert difference(np.array([0.5]), np.array([0.6])) == pytest.approx(0.1)
    assert difference(one, np.array([0.0, np.nan])) == float("inf")
    assert difference(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])) == 0
    assert difference(one, one[:1]) == float("inf")
    levels = np.zeros(200, np.uint8)
    flipped = levels.copy()
    flipped[:50] = 1
    assert agree(levels, flipped), "a rounding flip of one level is no difference"
    flipped[:3] = 9
    assert not agree(levels, flipped)


def test_imports_are_deterministic(tmp_path: Path):
    model = net([helper.make_node("Relu", ["x"], ["y"])], [1, 3], [1, 3])
    assert imported(model, tmp_path).sha256 == imported(model, tmp_path).sha256
