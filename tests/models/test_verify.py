"""An import is checked by running it; a wrong conversion is refused."""

import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from whet.errors import ModelError, Unsupported
from whet.models.importers import FORMATS, Options, import_model, parents
from whet.models.importers.caffe import SUPPORTED
from whet.models.importers.caffe.net import read_net
from whet.models.importers.caffe.prototxt import parse
from whet.models.importers.parents.caffe import TRUSTED, refuse_untrue
from whet.models.verify import Comparison, describe_report, import_and_verify, verify_import

ULTRAFACE = "caffe/ultraface/version-RFB-320_simplified.onnx"


def test_both_runtimes_and_the_original_agree(shared_data, tmp_path):
    artifact = import_model(shared_data / ULTRAFACE, Options(), tmp_path)
    report = verify_import(artifact, parent=shared_data / ULTRAFACE, samples=2)
    assert [(c.one, c.other) for c in report.comparisons] == [
        ("openvino", "onnxruntime"),
        ("the original file", "openvino"),
    ]
    assert all(set(c.differences) == {"scores", "boxes"} for c in report.comparisons)
    assert 0 < report.largest < 1e-4, "two runtimes never agree to the last bit: something was compared with itself"
    assert report.skipped == ()


def test_a_conversion_that_computes_something_else_is_refused(shared_data, tmp_path):
    artifact = import_model(shared_data / ULTRAFACE, Options(), tmp_path / "store")
    model = onnx.load(artifact.path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(largest).copy()
    values.flat[:100] += 0.5
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    wrong = replace(artifact, folder=tmp_path, model="wrong.onnx")
    with pytest.raises(ModelError, match=r"output '\w+' differs by .* between the original file and openvino"):
        verify_import(wrong, parent=shared_data / ULTRAFACE, samples=1)


def test_a_tolerance_that_no_float_can_meet_refuses(shared_data, tmp_path):
    artifact = import_model(shared_data / ULTRAFACE, Options(), tmp_path)
    with pytest.raises(ModelError, match="between openvino and onnxruntime at f32, more than the tolerance 1e-12"):
        verify_import(artifact, samples=1, tolerance=1e-12)


def test_an_import_that_fails_its_check_does_not_stay(shared_data, tmp_path):
    with pytest.raises(ModelError, match="tolerance 1e-12"):
        import_and_verify(shared_data / ULTRAFACE, Options(), tmp_path, samples=1, tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []
    artifact, report = import_and_verify(shared_data / ULTRAFACE, Options(), tmp_path, samples=1)
    assert artifact.folder.is_dir()
    assert report.largest > 0
    with pytest.raises(ModelError, match="tolerance 1e-12"):
        import_and_verify(shared_data / ULTRAFACE, Options(), tmp_path, samples=1, tolerance=1e-12)
    assert artifact.folder.is_dir(), "an artifact that was there before is not taken away"


def test_what_cannot_be_compared_is_said(shared_data, tmp_path, monkeypatch):
    monkeypatch.setitem(parents.WAYS, "paddle", replace(parents.WAYS["paddle"], package="no_paddle", elsewhere=bool))
    artifact = import_model(shared_data / "paddle/old.pdmodel", Options(), tmp_path)
    report = verify_import(artifact, parent=shared_data / "paddle/old.pdmodel", samples=1)
    assert report.comparisons == ()
    assert any("only OpenVINO opens IR" in reason for reason in report.skipped)
    assert "parent not run: PaddlePaddle is not installed (pip install paddlepaddle)" in report.skipped
    assert all(label == "not compared" for label, _ in describe_report(report))


def test_every_format_says_how_its_parent_is_run_or_why_it_cannot_be():
    formats = {row.name for row in FORMATS} - {"refused"}
    assert formats == parents.WAYS.keys() | parents.ABSENT.keys()
    assert not parents.WAYS.keys() & parents.ABSENT.keys()


@pytest.mark.parametrize(
    ("path", "framework"), [("mxnet/micro", "MXNet"), ("caffe2/superres/predict_net.pb", "Caffe2")]
)
def test_a_framework_that_cannot_live_beside_whet_is_named(shared_data, tmp_path, path, framework):
    source = shared_data / path
    options = Options()
    if framework == "MXNet":
        source = min(source.glob("*-symbol.json"))
        stem = source.name.removesuffix("-symbol.json")
        options = Options(input_shapes={"data": np.load(source.with_name(f"{stem}.npz"))["x"].shape})
    artifact = import_model(source, options, tmp_path)
    report = verify_import(artifact, source, options, samples=1)
    assert [(c.one, c.other) for c in report.comparisons] in ([("openvino", "onnxruntime")], [])
    assert any(reason.startswith(f"parent not run: {framework} is not installed") for reason in report.skipped)


def test_an_ir_is_compared_with_the_file_it_was(shared_data, tmp_path):
    first = import_model(shared_data / "tflite/small.tflite", Options(), tmp_path)
    again = import_model(first.path, Options(), tmp_path)
    (comparison,) = verify_import(again, first.path, samples=2).comparisons
    assert (comparison.one, comparison.other) == ("the original file", "openvino")


def stand_in(tmp_path, monkeypatch, factor=1.0):
    """A module called cv2 that reads no file and answers with what the test wrote beside it."""
    (tmp_path / "cv2.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n__version__ = '4.0'\n"
        "class dnn:\n"
        "    @staticmethod\n"
        "    def readNetFromCaffe(text, weights):\n"
        "        return Net()\n"
        "class Net:\n"
        "    def setInput(self, value, name): self.x = value\n"
        "    def forwardAndRetrieve(self, names):\n"
        f"        return [[np.where(self.x > 0, self.x, {factor} * self.x)] for _ in names]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))


LEAKY = """input: "data" input_shape { dim: 1 dim: 3 dim: 4 dim: 4 }
layer { name: "r" type: "ReLU" bottom: "data" top: "y" relu_param { negative_slope: 0.5 } }"""


def test_a_caffe_net_is_compared_with_opencv_where_it_reads_caffe(tmp_path, monkeypatch):
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.prototxt").write_text(LEAKY)
    (folder / "net.caffemodel").write_bytes(b"\xa2\x06\x03\x0a\x01r")
    artifact = import_model(folder / "net.prototxt", Options(), tmp_path / "store")
    stand_in(tmp_path, monkeypatch, factor=0.5)
    report = verify_import(artifact, folder / "net.prototxt", samples=2)
    assert ("OpenCV's Caffe reader", "openvino") in [(c.one, c.other) for c in report.comparisons]
    stand_in(tmp_path, monkeypatch, factor=0.6)
    with pytest.raises(ModelError, match=r"output 'y' differs by .* between OpenCV's Caffe reader and openvino"):
        verify_import(artifact, folder / "net.prototxt", samples=2)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ('type: "LRN" lrn_param { k: 2 }', r"layer 'l' \(LRN\).*it ignores k"),
        ('type: "InnerProduct" inner_product_param { num_output: 2 transpose: true }', "it ignores transpose"),
        ('type: "Swish"', r"layer 'l' \(Swish\).*differs or is missing"),
    ],
)
def test_what_opencv_computes_otherwise_is_not_compared_with_it(layer, said):
    text = f'input: "x" input_shape {{ dim: 1 dim: 3 }} layer {{ name: "l" bottom: "x" top: "y" {layer} }}'
    with pytest.raises(Unsupported, match=said):
        refuse_untrue(read_net(parse(text.encode(), "net"), "net"))


def test_layers_that_opencv_may_judge_are_layers_that_are_read():
    assert set(SUPPORTED) > TRUSTED


def test_integers_may_flip_a_level_but_not_more():
    comparison = Comparison("a", "b", {"float": 2e-4, "level": 0.005}, ("level",), 1e-4)
    assert comparison.failed == ("float",)
    assert replace(comparison, differences={"level": 0.02}).failed == ("level",)
    assert Comparison("a", "b", {"y": float("nan")}, (), 1.0).failed == ("y",)


@pytest.mark.extra("tensorflow")
@pytest.mark.parametrize(
    ("path", "signature", "framework"),
    [
        ("tflite/mobilenet_v1_0.25_128_quant.tflite", None, "TensorFlow Lite"),
        ("tensorflow/frozen.pb", None, "TensorFlow"),
        ("tensorflow/keras_savedmodel", None, "TensorFlow"),
        ("tensorflow/serving/saved_model_half_plus_two_tf2_cpu/00000123", "regress_x_to_y", "TensorFlow"),
        ("tensorflow/serving/saved_model_half_plus_two_cpu/00000123", "classify_x_to_y", "TensorFlow"),
    ],
)
def test_the_parents_own_framework_agrees(shared_data, tmp_path, path, signature, framework):
    options = Options(signature=signature)
    artifact = import_model(shared_data / path, options, tmp_path)
    report = verify_import(artifact, shared_data / path, options, samples=2)
    assert [c.one for c in report.comparisons] == [framework]


@pytest.mark.extra("keras", "tensorflow")
def test_keras_on_tensorflow_agrees_with_keras_on_openvino(shared_data, tmp_path):
    artifact = import_model(shared_data / "keras/m.keras", Options(), tmp_path)
    (comparison,) = verify_import(artifact, shared_data / "keras/m.keras", samples=2).comparisons
    assert comparison.one == "Keras on TensorFlow"
    assert max(comparison.differences.values()) < 1e-5
    assert np.isfinite(list(comparison.differences.values())).all()
