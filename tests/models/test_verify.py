"""An import is checked by running it; a wrong conversion is refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from whet.errors import ModelError
from whet.models.importers import Options, import_model
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


def test_what_cannot_be_compared_is_said(shared_data, tmp_path):
    artifact = import_model(shared_data / "paddle/old.pdmodel", Options(), tmp_path)
    report = verify_import(artifact, parent=shared_data / "paddle/old.pdmodel", samples=1)
    assert report.comparisons == ()
    assert any("only OpenVINO opens IR" in reason for reason in report.skipped)
    assert any("no maintained framework runs the format 'paddle'" in reason for reason in report.skipped)
    assert all(label == "not compared" for label, _ in describe_report(report))


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
