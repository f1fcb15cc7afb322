"""What a model is: arithmetic counted by hand, known nets, and both formats of one net."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from whet.models import flops
from whet.models.importers import Options, import_model
from whet.models.importers.walk import walk
from whet.models.inspect import describe, human, inspect_model


def model(nodes, shape_in, constants, rank_out):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank_out)],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


CASES = {
    # 64 x 56 x 56 results of 3 x 7 x 7 products: ResNet-50's first layer at half the picture.
    "convolution": (
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[3, 3, 3, 3])],
        [1, 3, 112, 112],
        {"w": (64, 3, 7, 7)},
        4,
        64 * 56 * 56 * 3 * 7 * 7,
        0,
    ),
    "convolution with bias": (
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        [1, 2, 5, 5],
        {"w": (4, 2, 3, 3), "b": (4,)},
        4,
        4 * 3 * 3 * 2 * 9,
        4 * 3 * 3,
    ),
    "depthwise convolution": (
        [helper.make_node("Conv", ["x", "w"], ["y"], group=8, pads=[1, 1, 1, 1])],
        [1, 8, 10, 10],
        {"w": (8, 1, 3, 3)},
        4,
        8 * 100 * 9,
        0,
    ),
    "transposed convolution": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
        [1, 6, 5, 5],
        {"w": (6, 4, 2, 2)},
        4,
        6 * 25 * 4 * 4,
        0,
    ),
    "matrix product": ([helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 7, 20], {"w": (20, 30)}, 3, 7 * 20 * 30, 0),
    "gemm": (
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        [1, 20],
        {"w": (30, 20), "b": (30,)},
        2,
        600,
        30,
    ),
    "pooling": ([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3])], [1, 2, 5, 5], {}, 4, 0, 2 * 9 * 9),
    "elementwise": ([helper.make_node("Relu", ["x"], ["y"])], [1, 3, 4], {}, 3, 0, 12),
    "softmax": ([helper.make_node("Softmax", ["x"], ["y"])], [1, 10], {}, 2, 0, 50),
    "moving": ([helper.make_node("Transpose", ["x"], ["y"])], [1, 10], {}, 2, 0, 0),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_onnx_arithmetic_is_what_the_hand_counts(tmp_path, case):
    nodes, shape, constants, rank, macs, extra = CASES[case]
    path = tmp_path / "m.onnx"
    onnx.save(model(nodes, shape, constants, rank), path)
    walked = walk(path, "onnx", {})
    ((_, cost),) = walked.operators
    assert cost == flops.Cost(macs, extra)
    assert cost.flops == 2 * macs + extra
    assert walked.parameters == sum(int(np.prod(shape)) for shape in constants.values())


@pytest.mark.parametrize("case", [case for case in CASES if "bias" not in case and case != "gemm"])
def test_ir_arithmetic_equals_onnx_arithmetic(tmp_path, case):
    nodes, shape, constants, rank, macs, extra = CASES[case]
    path = tmp_path / "m.onnx"
    onnx.save(model(nodes, shape, constants, rank), path)
    artifact = import_model(path, Options(to="ir"), tmp_path / "store")
    card = inspect_model(artifact)
    assert (card.macs, card.flops) == (macs, 2 * macs + extra)
    assert card.version == "IR version 11"


def test_recurrent_layers_count_gates_steps_and_both_directions():
    assert flops.recurrent("LSTM", rows=10 * 2, directions=2, hidden=8, width=3).macs == 20 * 2 * 4 * 8 * 11
    assert flops.recurrent("GRU", rows=1, directions=1, hidden=8, width=3).macs == 3 * 8 * 11


def test_a_known_net_has_its_known_size(shared_data, tmp_path):
    """MobileNetV2 1.0 at 224: 300.8 million multiply-accumulates, 3.5 million parameters (its authors' table)."""
    artifact = import_model(shared_data / "tflite/mobilenet_v2_1.0_224_quant.tflite", Options(), tmp_path)
    card = inspect_model(artifact)
    assert card.macs == pytest.approx(300.8e6, rel=0.002)
    assert card.parameters == pytest.approx(3.49e6, rel=0.01)
    assert card.precision == "int8"
    assert card.parameter_bytes < 1.1 * card.parameters
    assert sum(row.share for row in card.operators) == pytest.approx(1)
    assert card.operators[0].operator == "Convolution"


def test_a_free_shape_is_not_guessed(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(model([helper.make_node("Conv", ["x", "w"], ["y"])], ["n", 3, "h", "w"], {"w": (4, 3, 3, 3)}, 4), path)
    artifact = import_model(path, Options(), tmp_path / "store")
    card = inspect_model(artifact)
    assert card.flops is None
    assert any("--input-shape" in words for _, words in describe(card))
    sized = inspect_model(artifact, {"x": (1, 3, 8, 8)})
    assert sized.macs == 4 * 36 * 27


def test_an_old_opset_is_counted_through_openvino(shared_data, tmp_path):
    artifact = import_model(shared_data / "caffe2/superres/super_resolution.onnx", Options(), tmp_path)
    card = inspect_model(artifact)
    convolutions = 224 * 224 * (64 * 25 + 64 * 64 * 9 + 64 * 32 * 9 + 32 * 9 * 9)
    assert card.macs == convolutions
    assert card.version == "opset 2"


def test_the_card_reads_in_plain_words(shared_data, tmp_path):
    (tmp_path / "net.preprocess.toml").write_text(
        '[inputs.input]\nsource = "image"\nmean = 127\nscale = 128\n'
        '[outputs.scores]\nclasses = ["background", "face"]\npostprocess = "nms"\nboxes = "boxes"\n'
    )
    model_file = tmp_path / "net.onnx"
    source = shared_data / "caffe/ultraface/version-RFB-320_simplified.onnx"
    model_file.write_bytes(source.read_bytes())
    card = inspect_model(import_model(model_file, Options(), tmp_path / "store"))
    words = dict(reversed(describe(card)))
    assert words["format"] == "onnx, opset 13, weights f32"
    assert words["takes"].startswith("pictures of 240 x 320 as RGB bytes for 'input', minus [127.0, 127.0, 127.0]")
    assert words["then"] == "at most 100 boxes of 'boxes' by 'scores', overlap up to 0.5"
    assert "MFLOPs" in words["arithmetic"]
    assert [spec.name for spec in card.service_outputs] == ["scores", "boxes", "scores_labels"]
    assert card.service_inputs[0].shape == (-1, 240, 320, 3)


@pytest.mark.parametrize(("number", "text"), [(0, "0 "), (999, "999 "), (1234567, "1.23 M"), (4.1e9, "4.1 G")])
def test_numbers_are_rounded_for_people(number, text):
    assert human(number) == text


def test_no_runtime_is_loaded_to_recognise(tmp_path):
    code = (
        "import sys; from pathlib import Path; from whet.models.importers import recognise\n"
        "from whet.errors import WhetError\n"
        "try: recognise(Path(sys.argv[1]))\n"
        "except WhetError: pass\n"
        "print(sorted({'openvino', 'onnxruntime', 'onnx', 'torch', 'keras', 'tensorflow'} & set(sys.modules)))"
    )
    noise = tmp_path / "noise"
    noise.write_bytes(b"\x0a\x03abc" * 9)
    done = subprocess.run([sys.executable, "-c", code, str(noise)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
