"""Every fixture of every format goes in, and what comes out computes what the reference says, at f32."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from whet.errors import ModelError, Unsupported, UsageError
from whet.models.artifact import load_artifact
from whet.models.importers import FORMATS, Options, import_model, recognise
from whet.models.importers.reference import open_onnxruntime, open_openvino, random_feeds
from whet.models.importers.tf_signature import read_signatures
from whet.models.inspect import describe, inspect_model

SERVING = "tensorflow/serving"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


def answers(artifact, x):
    """Run the only input through OpenVINO; outputs by name."""
    runner = open_openvino(artifact.path, [s.name for s in artifact.inputs], [s.name for s in artifact.outputs])
    return runner.run({artifact.inputs[0].name: x})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("caffe/ultraface/version-RFB-320_simplified.onnx", "onnx"),
        ("caffe2/superres/super_resolution.onnx", "onnx"),
        ("caffe/ssd_face/yufacedetectnet-open-v1-320x240.xml", "openvino-ir"),
        ("tensorflow/keras_savedmodel", "tf-savedmodel"),
        ("tensorflow/keras_savedmodel/saved_model.pb", "tf-savedmodel"),
        ("tensorflow/frozen.pb", "tf-frozen"),
        ("tensorflow/opencv_face_detector_uint8.pb", "tf-frozen"),
        ("tflite/small.tflite", "tflite"),
        ("keras/m.keras", "keras"),
        ("keras/m.h5", "keras"),
        ("keras/fer2013_mini_XCEPTION.102-0.66.hdf5", "keras"),
        ("paddle/old.pdmodel", "paddle"),
        ("paddle/pir.json", "paddle-pir"),
        ("caffe/squeezenet/SqueezeNet_deploy.prototxt", "caffe"),
        ("mxnet/squeezenet1.1-symbol.json", "mxnet"),
        ("caffe2/superres/predict_net.pb", "caffe2"),
    ],
)
def test_a_file_is_recognised_by_what_it_holds(shared_data, tmp_path, path, name):
    source = shared_data / path
    assert recognise(source).name == name
    if source.is_file() and source.name != "saved_model.pb":
        # The ending says nothing: the same bytes under another name are the same format.
        disguised = tmp_path / "model.dat"
        disguised.write_bytes(source.read_bytes())
        assert recognise(disguised).name == name


def test_an_entry_point_is_recognised_by_its_form():
    assert recognise(Path("package.module:make")).name == "torch-entry"


def test_no_two_formats_claim_one_fixture(shared_data):
    files = [
        p for p in shared_data.rglob("*") if p.is_file() and "imagenet200" not in p.parts and "video" not in p.parts
    ]
    assert len(files) > 50
    rows = [row for row in FORMATS if row.name != "refused"]
    claimed = {str(file): [row.name for row in rows if row.sniff(file)] for file in files}
    # A caffemodel and the like are claimed by their format, which then asks for the other file.
    assert {path: names for path, names in claimed.items() if len(names) > 1} == {}


@pytest.mark.parametrize("name", ["keras_savedmodel", "frozen.pb"])
def test_tensorflow_without_tensorflow(shared_data, store, name):
    artifact = import_model(shared_data / "tensorflow" / name, Options(), store)
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    (found,) = answers(artifact, x).values()
    assert artifact.batched
    # Both are exports of one net; its softmax sums to one.
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)


def test_the_frozen_graph_equals_the_saved_model(shared_data, store):
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    one, other = (
        next(iter(answers(import_model(shared_data / "tensorflow" / name, Options(), store), x).values()))
        for name in ("keras_savedmodel", "frozen.pb")
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


HALF = {"y": 2.0, "y2": 3.0, "y3": 3.0}


@pytest.mark.parametrize("model", ["half_plus_two_2_versions", "half_plus_two_cpu", "half_plus_two_tf2_cpu"])
@pytest.mark.parametrize(
    ("signature", "offset"),
    [
        ("serving_default", 2.0),
        ("classify_x_to_y", 2.0),
        ("regress_x_to_y", 2.0),
        ("regress_x_to_y2", 3.0),
        ("regress_x2_to_y3", 3.0),
    ],
)
def test_every_signature_computes_half_plus_its_offset(shared_data, store, model, signature, offset):
    source = shared_data / SERVING / f"saved_model_{model}" / "00000123"
    artifact = import_model(source, Options(signature=signature), store)
    x = np.array([1, 2, 5], np.float32)
    (answer,) = answers(artifact, x if len(artifact.inputs[0].shape) == 1 else x[:, None]).values()
    np.testing.assert_allclose(answer.ravel(), x / 2 + offset)
    signatures = {one.name: one for one in read_signatures(source / "saved_model.pb")}
    parsed = signatures[signature].inputs[0].datatype == "BYTES"
    assert any("tf.Example" in note for note in artifact.notes) == parsed
    assert artifact.inputs[0].name == ("x" if parsed or signature == "serving_default" else "inputs")


def test_a_rank_that_is_not_said_is_taken_as_one_axis_and_noted(shared_data, store):
    source = shared_data / SERVING / "saved_model_half_plus_three" / "00000123"
    artifact = import_model(source, Options(), store)
    np.testing.assert_allclose(answers(artifact, np.array([4], np.float32))["y"], [5])
    assert any("rank of input 'x'" in note for note in artifact.notes)
    shaped = import_model(source, Options(input_shapes={"x": (-1, 2)}), store)
    assert shaped.inputs[0].shape == (-1, 2)


@pytest.mark.parametrize(
    ("signature", "said"),
    [("incr_counter", "AssignAdd"), ("reset_counter", "Assign"), ("get_counter", "no inputs")],
)
def test_state_is_refused_by_the_operator_that_changes_it(shared_data, store, signature, said):
    source = shared_data / SERVING / "saved_model_counter" / "00000123"
    with pytest.raises(Unsupported, match=said):
        import_model(source, Options(signature=signature), store)


def test_an_unknown_signature_lists_the_known_ones(shared_data, store):
    source = shared_data / SERVING / "saved_model_half_plus_two_cpu" / "00000123"
    with pytest.raises(UsageError, match="no signature 'nope'; it has classify_x_to_y, regress_x2_to_y3"):
        import_model(source, Options(signature="nope"), store)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("tensorflow/opencv_face_detector_uint8.pb", "Const of unknown type, Dequantize"),
        ("tflite/posenet_mobilenet_v1_075_353_481_16_quant_decoder.tflite", "PosenetDecoderOp"),
        (f"{SERVING}/parse_example_tflite/00000123/model.tflite", "ParseExampleV2"),
        ("caffe/ssd_face/yufacedetectnet-open-v1-320x240.xml", "IR version 4.*below 10.*Caffe"),
        ("imagenet200", "folder without saved_model.pb"),
        (SERVING, "folder without saved_model.pb"),
        ("README.md", "starts with '# Test inputs.*Known formats: onnx"),
        ("video/big_buck_bunny.mp4", "starts with the bytes"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(shared_data, store, path, said):
    with pytest.raises(Unsupported, match=said):
        import_model(shared_data / path, Options(), store)


@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "mobilenet_v2_1.0_224_quant"])
def test_quantised_tflite_is_at_most_two_levels_off_tensorflow_lite(shared_data, store, name):
    artifact = import_model(shared_data / "tflite" / f"{name}.tflite", Options(), store)
    reference = np.load(shared_data / "tflite" / f"{name}.tflite.tfliteref.npz")
    keys = [key for key in reference.files if key != "x"]
    (answer,) = answers(artifact, reference["x"]).values()
    expected = reference[keys[0]]
    assert np.abs(answer.astype(int) - expected.astype(int)).max() <= 2
    assert artifact.precision == "int8"
    assert artifact.images[0].layout == "NHWC"
    assert artifact.service_inputs[0].shape == (-1, *artifact.inputs[0].shape[1:])


def test_float_tflite_equals_tensorflow_lite(shared_data, store):
    folder = shared_data / "caffe/ultraface"
    artifact = import_model(folder / "version-RFB-320_without_postprocessing.tflite", Options(), store)
    reference = np.load(folder / "tflite-reference.npz")
    found = answers(artifact, reference["x"])
    for expected in (reference[key] for key in reference.files if key != "x"):
        (same_shape,) = [value for value in found.values() if value.shape == expected.shape]
        np.testing.assert_allclose(same_shape, expected, atol=2e-5)


def test_deeplab_finds_the_bird(shared_data, store):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is in the extra 'optimize'")
    folder = shared_data / "tflite"
    artifact = import_model(folder / "deeplabv3_mnv2_dm05_pascal_quant.tflite", Options(), store)
    with (
        pillow.open(folder / "bird_segmentation.bmp") as picture,
        pillow.open(folder / "bird_segmentation_mask.bmp") as mask,
    ):
        pixels = np.asarray(picture.convert("RGB").resize((513, 513)), np.uint8)[None]
        truth = np.asarray(mask.convert("RGB").resize((513, 513), pillow.Resampling.NEAREST)).any(axis=-1)
    (classes,) = answers(artifact, pixels).values()
    bird = classes.reshape(513, 513) == 3  # PASCAL VOC's third class
    assert (bird & truth).sum() / (bird | truth).sum() >= 0.8


def test_paddle_equals_paddle(shared_data, store):
    artifact = import_model(shared_data / "paddle/old.pdmodel", Options(), store)
    reference = np.load(shared_data / "paddle/old.reference.npz")
    (expected,) = [reference[key] for key in reference.files if key != "x"]
    (found,) = answers(artifact, reference["x"]).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_handicaps_of_an_onnx_file_are_named_and_taken_out_and_the_original_kept(shared_data, store):
    source = shared_data / "caffe/ultraface/version-RFB-320_simplified.onnx"
    artifact = import_model(source, Options(), store)
    said = " ".join(artifact.notes)
    assert "112 initializers as inputs" in said
    assert "opset 9" in said
    assert artifact.lineage[0].settings["opset"] == [9, 13]
    assert (artifact.folder / "original.onnx").read_bytes() == source.read_bytes()
    assert artifact.batched
    assert "reshape" in said
    assert artifact.inputs[0].shape == (-1, 3, 240, 320)
    # Both runtimes run the cleaned, freed copy on a batch and agree with the untouched file row by row.
    original = open_onnxruntime(artifact.folder / "original.onnx")
    feeds = random_feeds(artifact.inputs, rows=3, seed=5)
    rows = [original.run({"input": feeds["input"][row : row + 1]}) for row in range(3)]
    for runner in (open_openvino(artifact.path, ["input"], ["scores", "boxes"]), open_onnxruntime(artifact.path)):
        both = runner.run(feeds)
        for name in ("scores", "boxes"):
            np.testing.assert_allclose(both[name], np.concatenate([row[name] for row in rows]), atol=2e-5)


def test_an_opset_that_onnxruntime_refuses_still_comes_in_for_openvino(shared_data, store):
    artifact = import_model(shared_data / "caffe2/superres/super_resolution.onnx", Options(), store)
    said = "ONNX Runtime cannot open it: opset 2 is below 7, the oldest whose operators it has"
    assert said in artifact.notes
    with pytest.raises(ModelError, match=said):
        open_onnxruntime(artifact.path)
    assert any("opset 2 is below 13" in note for note in artifact.notes)
    assert artifact.outputs[0].shape == (-1, 1, 672, 672)


def test_onnx_becomes_ir_on_request_and_ir_never_onnx(shared_data, store):
    source = shared_data / "caffe/ultraface/version-RFB-320_simplified.onnx"
    artifact = import_model(source, Options(to="ir"), store)
    assert artifact.format == "ir"
    assert {spec.name for spec in artifact.outputs} == {"scores", "boxes"}
    with pytest.raises(Unsupported, match="no exporter makes 'onnx'"):
        import_model(shared_data / "tflite/small.tflite", Options(to="onnx"), store)


def test_ir_goes_in_again_and_older_versions_are_read(shared_data, store, tmp_path):
    first = import_model(shared_data / "tflite/small.tflite", Options(), store)
    again = import_model(first.path, Options(), store)
    x = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    for one, other in zip(answers(first, x).values(), answers(again, x).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    old = tmp_path / "old.xml"
    old.write_text(first.path.read_text().replace('version="11"', 'version="10"', 1))
    old.with_suffix(".bin").write_bytes(first.path.with_suffix(".bin").read_bytes())
    assert any("version 10" in note for note in import_model(old, Options(), store).notes)


def test_an_artifact_is_taken_as_it_lies(shared_data, store):
    first = import_model(shared_data / "tflite/small.tflite", Options(), store)
    assert import_model(first.folder, Options(), store) == load_artifact(first.folder) == first


def test_the_same_file_imported_twice_is_one_artifact(shared_data, store):
    one, other = (import_model(shared_data / "tflite/small.tflite", Options(), store) for _ in range(2))
    assert one == other


@pytest.mark.extra("keras")
@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_keras_files_of_both_kinds_are_one_net(shared_data, store, name):
    artifact = import_model(shared_data / "keras" / name, Options(), store)
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    saved = import_model(shared_data / "tensorflow/keras_savedmodel", Options(), store)
    (one,), (other,) = answers(artifact, x).values(), answers(saved, x).values()
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.extra("keras")
def test_the_emotion_net_of_keras_1_is_within_1e_5(shared_data, store):
    artifact = import_model(shared_data / "keras/fer2013_mini_XCEPTION.102-0.66.hdf5", Options(), store)
    reference = np.load(shared_data / "keras/fer2013_mini_XCEPTION.reference.npz")
    (expected,) = [reference[key] for key in reference.files if key != "x"]
    np.testing.assert_allclose(answers(artifact, reference["x"])["predictions"], expected, atol=1e-5)


PICTURES = """
import sys, keras
layers = [keras.Input((8, 8, 3), name="picture"), keras.layers.Rescaling(1 / 127.5, offset=-1)]
layers += [keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D(name="means")]
keras.Sequential(layers, name="net").save(sys.argv[1])
"""


@pytest.mark.extra("keras")
def test_preprocessing_layers_of_keras_let_the_net_take_pictures(tmp_path, monkeypatch):
    path = tmp_path / "pictures.keras"
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    subprocess.run([sys.executable, "-c", PICTURES, path], check=True, timeout=100, capture_output=True)
    artifact = import_model(path, Options(), tmp_path / "store")
    assert [spec.name for spec in artifact.outputs] == ["means"]
    (image,) = artifact.images
    assert (image.height, image.width, image.channels, image.layout, image.mean) == (8, 8, "RGB", "NHWC", ())
    assert artifact.service_inputs[0].datatype == "UINT8"
    shown = " ".join(words for _, words in describe(inspect_model(artifact)))
    assert "pictures of 8 x 8 as RGB bytes for 'picture'" in shown
    assert "preprocessing inside the net: Rescaling {'scale': 0.00784" in shown
    assert "'offset': -1}; feed it pictures as they are" in shown
