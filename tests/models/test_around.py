"""Images to net inputs, raw outputs to answers: numpy against rules written out by hand, and ONNX against numpy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from whet.engine.ov_graph import fuse
from whet.models.around import apply_images, apply_post, images_to_net, nms, service_outputs, split_post, top_k
from whet.models.artifact import Artifact, ImageInput, OutputStep
from whet.models.fuse import fuse_onnx
from whet.tensors import TensorSpec, check

KINDS = ("RGB", "BGR", "GRAY")


def artifact(**fields) -> Artifact:
    base = Artifact(
        folder=Path(),
        model="model.onnx",
        format="onnx",
        sha256="",
        inputs=(TensorSpec("x", "FP32", (-1, 3, 4, 5)),),
        outputs=(TensorSpec("y", "FP32", (-1, 6)),),
        batched=True,
    )
    return replace(base, **fields)


def by_hand(pixels, image):
    """One pixel at a time, in Python's own arithmetic."""
    rows, height, width, _ = pixels.shape
    depth = 1 if image.channels == "GRAY" else 3
    net = np.zeros((rows, depth, height, width))
    for n, h, w in np.ndindex(rows, height, width):
        values = dict(
            zip(image.source_channels if image.source_channels != "GRAY" else "Y", pixels[n, h, w], strict=True)
        )
        if image.source_channels == "GRAY":
            values = dict.fromkeys("RGB", values["Y"])
            values["Y"] = values["R"]
        else:
            red, green, blue = (int(values[name]) for name in "RGB")
            values["Y"] = (19595 * red + 38470 * green + 7471 * blue) / 65536  # Pillow's, of 0.299, 0.587 and 0.114
        for c, name in enumerate("Y" if image.channels == "GRAY" else image.channels):
            value = float(values[name])
            value -= image.mean[c] if image.mean else 0
            value /= image.scale[c] if image.scale else 1
            net[n, c, h, w] = value
    return net if image.layout == "NCHW" else net.transpose(0, 2, 3, 1)


@st.composite
def image_inputs(draw):
    channels = draw(st.sampled_from(KINDS))
    depth = 1 if channels == "GRAY" else 3
    numbers = st.lists(st.floats(1, 200, width=32), min_size=depth, max_size=depth).map(tuple) | st.just(())
    return ImageInput(
        input="x",
        height=draw(st.integers(1, 4)),
        width=draw(st.integers(1, 4)),
        channels=channels,
        source_channels=draw(st.sampled_from(KINDS)),
        mean=draw(numbers),
        scale=draw(numbers),
        layout=draw(st.sampled_from(["NCHW", "NHWC"])),
    )


def identity_net(image):
    """A graph whose output is its input, in the layout and depth ``image`` feeds."""
    depth = 1 if image.channels == "GRAY" else 3
    shape = (depth, image.height, image.width) if image.layout == "NCHW" else (image.height, image.width, depth)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *shape])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@settings(deadline=None, max_examples=40)
@given(image_inputs(), st.integers(0, 2**32 - 1))
@example(ImageInput("x", 1, 2, channels="GRAY", source_channels="RGB", mean=(131.0,)), 13731718)  # a mean near the grey
def test_images_reach_the_net_as_the_rule_says_in_numpy_and_inside_the_graph(image, seed):
    depth = 1 if image.source_channels == "GRAY" else 3
    pixels = np.random.default_rng(seed).integers(0, 256, (2, image.height, image.width, depth)).astype(np.uint8)
    expected = by_hand(pixels, image)
    numpy_way = images_to_net(pixels, image)
    assert numpy_way.dtype == np.float32
    assert numpy_way.flags.c_contiguous
    np.testing.assert_allclose(numpy_way, expected, rtol=1e-5, atol=2e-4)
    fused = fuse_onnx(identity_net(image), artifact(images=(image,)))
    onnx.checker.check_model(fused)
    session = onnxruntime.InferenceSession(fused.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    np.testing.assert_allclose(session.run(None, {"x": pixels})[0], numpy_way, rtol=1e-6, atol=1e-5)


def test_integer_nets_take_pixels_as_they_are():
    image = ImageInput("x", 2, 2, layout="NHWC")
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    assert np.array_equal(images_to_net(pixels, image, np.dtype(np.uint8)), pixels)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_quantised_nets_take_rounded_levels_within_their_range_in_numpy_and_inside_both_graphs(layout):
    # 0.45 a level: pixels of both ends lie outside int8, and many in between lie on no level.
    image = ImageInput("x", 16, 16, layout=layout, mean=(127.5, 120.0, 130.0), scale=(0.45, 0.5, 1.0))
    pixels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    levels = images_to_net(pixels, image, np.dtype(np.int8))
    real = by_hand(pixels, image)
    assert levels.dtype == np.int8
    assert (levels.min(), levels.max()) == (-128, 127)
    assert np.abs(levels - np.clip(real, -128, 127)).max() <= 0.5 + 1e-4

    net = identity_net(image)
    for value in (*net.graph.input, *net.graph.output):
        value.type.tensor_type.elem_type = TensorProto.INT8
    around = artifact(images=(image,))
    session = onnxruntime.InferenceSession(fuse_onnx(net, around).SerializeToString())
    assert np.array_equal(session.run(None, {"x": pixels})[0], levels)
    graph = openvino.Core().read_model(net.SerializeToString())
    fuse(openvino, graph, around)
    assert np.array_equal(openvino.Core().compile_model(graph, "CPU")(pixels)[0], levels)


def test_only_image_inputs_are_touched():
    spec = TensorSpec("other", "FP32", (-1, 2))
    made = artifact(images=(ImageInput("x", 4, 5),), inputs=(*artifact().inputs, spec))
    other = np.ones((1, 2), np.float32)
    fed = apply_images(made, {"x": np.zeros((1, 4, 5, 3), np.uint8), "other": other})
    assert fed["other"] is other
    for one in made.inputs:
        check(one, fed[one.name])


def test_softmax_and_sigmoid_survive_extreme_values():
    raw = np.array([[1000.0, 0.0, -1000.0]], np.float32)
    specs = (TensorSpec("y", "FP32", (-1, 3)),)
    soft = apply_post((OutputStep("y", "softmax"),), {"y": raw}, specs)["y"]
    np.testing.assert_array_equal(soft, [[1, 0, 0]])
    np.testing.assert_array_equal(apply_post((OutputStep("y", "sigmoid"),), {"y": raw}, specs)["y"], [[1, 0.5, 0]])


def test_top_k_sorts_names_and_keeps_ties_in_class_order():
    values = np.array([[1, 9, 9, 3]], np.uint8)
    best, names = top_k(values, 3, ("a", "b", "c", "d"))
    assert best.tolist() == [[9, 9, 3]]
    assert names.tolist() == [[b"b", b"c", b"d"]]
    assert top_k(values, 9, ())[1].tolist() == [[b"1", b"2", b"3", b"0"]]


def test_nms_keeps_the_best_of_overlapping_boxes_per_class_and_pads():
    boxes = np.array([[[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 10]]], np.float32)
    scores = np.array([[[0.1, 0.9, 0], [0.1, 0.8, 0], [0.1, 0.7, 0], [0.1, 0, 0.6]]], np.float32)
    step = OutputStep("scores", "nms", k=5, boxes="boxes", iou_threshold=0.5, score_threshold=0.3)
    kept, best, names = nms(boxes, scores, step, ("background", "cat", "dog"))
    assert best[0].tolist() == pytest.approx([0.9, 0.7, 0.6, 0, 0])
    assert names[0].tolist() == [b"cat", b"cat", b"dog", b"", b""]
    assert kept[0, 0].tolist() == [0, 0, 10, 10]
    assert kept[0, 1].tolist() == [20, 20, 30, 30]
    # The second box overlaps the first by 90 / 110: kept only when that much is allowed.
    _, best, _ = nms(boxes, scores, replace(step, iou_threshold=0.83), ("background", "cat", "dog"))
    assert best[0].tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0])


def nms_outputs():
    return {
        "boxes": np.random.default_rng(1).random((2, 7, 4), np.float32),
        "y": np.random.default_rng(2).random((2, 7, 3), np.float32),
    }


@pytest.mark.parametrize(
    ("post", "outputs", "specs"),
    [
        ((OutputStep("y", "softmax"), OutputStep("y", "top_k", k=2)), None, None),
        ((OutputStep("y", "top_k", k=50),), None, None),
        ((OutputStep("y", "nms", k=4, boxes="boxes"),), nms_outputs(), ("boxes", "y")),
    ],
    ids=["softmax then top-k", "top-k of more than there are", "non-maximum suppression"],
)
def test_service_outputs_announce_exactly_what_postprocessing_gives(post, outputs, specs):
    made = artifact(post=post)
    if outputs is None:
        outputs = {"y": np.random.default_rng(0).random((2, 6), np.float32)}
    else:
        made = replace(made, outputs=(TensorSpec("boxes", "FP32", (-1, 7, 4)), TensorSpec("y", "FP32", (-1, 7, 3))))
    answers = apply_post(made.post, outputs, made.outputs)
    announced = service_outputs(made)
    assert [spec.name for spec in announced] == list(answers)
    for spec in announced:
        check(spec, answers[spec.name])


@pytest.mark.parametrize("opset", [9, 13, 21])
def test_softmax_and_sigmoid_fused_into_the_graph_equal_numpy(opset):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, 6]) for name in "yz"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    post = (OutputStep("y", "softmax"), OutputStep("z", "sigmoid"), OutputStep("y", "top_k"))
    made = artifact(post=post, inputs=(TensorSpec("x", "FP32", (-1, 2, 6)),))
    fused = fuse_onnx(model, made)
    session = onnxruntime.InferenceSession(fused.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((3, 2, 6)).astype(np.float32)
    got = dict(zip(["y", "z"], session.run(["y", "z"], {"x": x}), strict=True))
    raw = {"y": np.maximum(x, 0), "z": -np.maximum(x, 0)}
    expected = apply_post(post[:2], raw, made.outputs)
    assert split_post(post) == (post[:2], post[2:])
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-6)
    assert [node.op_type for node in model.graph.node] == ["Relu", "Neg"], "the model given is left as it was"
