"""What a TensorFlow Lite file says around its net becomes the artifact's; checked against TensorFlow's own readers."""

import shutil
import struct

import numpy as np
import openvino
import pytest
from flatbuffers_made import metadata, model, tensor, tensor_metadata, with_archive
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import ModelError
from whet.models.around import apply_images
from whet.models.importers import Options, import_model
from whet.models.importers.tflite import to_levels
from whet.models.importers.tflite_facts import TensorFacts, parse_facts, read_facts
from whet.models.inspect import describe, inspect_model


def facts(data):
    return parse_facts(memoryview(data), "'made'")


def test_quantization_normalization_and_labels_are_read():
    said = metadata([tensor_metadata((1, 2, 3), (4, 5, 6))], [tensor_metadata(image=False, labels="names.txt")])
    tensors = [tensor("in", 3, scale=0.5, zero_point=128), tensor("weights"), tensor("out", 9, (1, 2), 0.25, -3)]
    data = with_archive(model(tensors, [0], [2], said), {"names.txt": "cat\n dog \n\n"})
    ((first,), (last,)) = facts(data)
    assert (first.name, first.levels, first.scale, first.zero_point) == ("in", "u8", 0.5, 128)
    assert (first.is_image, first.mean, first.std) == (True, (1, 2, 3), (4, 5, 6))
    assert (last.name, last.levels, last.scale, last.zero_point) == ("out", "i8", 0.25, -3)
    assert last.labels == ("cat", "dog")


def test_a_file_without_metadata_says_what_it_can():
    ((first,), (last,)) = facts(model([tensor("in"), tensor("out", 3)], [0], [1]))
    assert (first.levels, first.mean, first.labels) == ("", (), ())
    assert (last.levels, last.scale) == ("u8", 0)


def test_metadata_of_another_number_of_tensors_is_left_alone():
    said = metadata([tensor_metadata((1,), (2,))] * 2, [])
    ((first,), (last,)) = facts(model([tensor("in"), tensor("out")], [0], [1], said))
    assert first.mean == last.labels == ()


def test_labels_that_are_named_but_not_packed_are_none():
    said = metadata([tensor_metadata()], [tensor_metadata(labels="gone.txt")])
    plain = model([tensor("in"), tensor("out")], [0], [1], said)
    for data in (plain, with_archive(plain, {"other.txt": "x"}), plain + b"PK\x05\x06" + bytes(18)):
        assert facts(data)[1][0].labels == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "leads to byte 0 of 0"),
        (b"\xff\xff\xff\x7fTFL3", "leads to byte 2147483647 of 8"),
        (model([tensor("in")], [3], [0]), "names tensor 3 of 1"),
        (model([tensor("in")], [-1], [0]), "names tensor -1 of 1"),
        (model([tensor("in")], [0], [0], metadata([tensor_metadata((1,), (0,))], [tensor_metadata()])), "std .0.0"),
        (model([tensor("in")], [0], [0], metadata([tensor_metadata((1,), (1, 2))], [tensor_metadata()])), "is none"),
        (model([tensor("in")], [0], [0], b"\x10\0\0\0"), "'made', metadata: an offset leads to byte 16 of 4"),
    ],
    ids=["empty", "root", "index", "below zero", "std", "lengths", "metadata"],
)  # fmt: skip
def test_damage_is_named(data, said):
    with pytest.raises(ModelError, match=said):
        facts(data)


def test_a_vector_of_absurd_length_is_refused_before_it_is_made():
    data = bytearray(model([tensor("in")], [0], [0]))
    place = data.index(struct.pack("<II", 1, 0))  # the list of inputs: one element, 0
    struct.pack_into("<I", data, place, 1 << 31)
    with pytest.raises(ModelError, match="vector of 2147483648 elements leads past the end"):
        facts(bytes(data))


def test_a_classifier_comes_with_its_labels_and_says_its_quantization(shared_data, tmp_path):
    artifact = import_model(shared_data / "tflite/mobilenet_v1_0.25_128_quant.tflite", Options(), tmp_path)
    assert artifact.outputs[0].labels[:3] == ("background", "tench, Tinca tinca", "goldfish, Carassius auratus")
    assert len(artifact.outputs[0].labels) == 1001
    shown = " ".join(words for _, words in describe(inspect_model(artifact)))
    assert "'input' is quantised: it carries u8 levels, value = (level - 128) * 0.0078125, from -1 to 0.9922" in shown
    assert "stands for the normalization (pixel - [127.5]) / [127.5]" in shown
    assert "pictures of 128 x 128 as RGB bytes for 'input'" in shown
    assert artifact.lineage[0].settings["quantised"]["input"] == {"levels": "u8", "scale": 0.0078125, "zero_point": 128}


@pytest.mark.extra("tensorflow")
@pytest.mark.filterwarnings("ignore")
def test_a_float_net_s_normalization_becomes_preprocessing(shared_data, tmp_path):
    source = shared_data / "tflite/small.tflite"
    bare = import_model(source, Options(), tmp_path / "store")
    assert bare.images == ()
    normal = tmp_path / "normal.tflite"
    shutil.copyfile(source, normal)
    add_metadata(normal, metadata([tensor_metadata((127.5,), (64.0,))], [tensor_metadata(image=False)]))
    artifact = import_model(normal, Options(), tmp_path / "store")
    (image,) = artifact.images
    assert (image.height, image.width, image.channels, image.layout) == (32, 32, "RGB", "NHWC")
    assert (image.mean, image.scale) == ((127.5,) * 3, (64.0,) * 3)
    assert artifact.service_inputs[0].datatype == "UINT8"
    words = dict(describe(inspect_model(artifact)))["takes"]
    assert "minus [127.5, 127.5, 127.5], divided by [64.0, 64.0, 64.0]" in words


@given(
    st.tuples(*[st.floats(0, 255)] * 3), st.tuples(*[st.floats(1, 255)] * 3), st.floats(1e-3, 1), st.integers(-128, 127)
)
def test_one_mean_and_scale_take_pixels_to_levels(mean, std, scale, zero_point):
    said = TensorFacts("x", "i8", scale, zero_point, mean=mean, std=std)
    shift, step = to_levels(mean, std, said)
    for pixel in (0, 1, 128, 255):
        for m, s, shifted, width in zip(mean, std, shift, step, strict=True):
            level = (pixel - m) / s / scale + zero_point
            assert (pixel - shifted) / width == pytest.approx(level, rel=1e-6, abs=1e-3)


@pytest.mark.extra("tensorflow")
@pytest.mark.filterwarnings("ignore")
def test_an_int8_net_of_pictures_answers_as_tensorflow_lite_does_of_quantised_ones(tmp_path):
    import tensorflow as tf

    path = tmp_path / "int8.tflite"
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 4)).astype(np.float32)
    net = tf.function(lambda x: tf.nn.relu(tf.nn.conv2d(x, weights, 1, "VALID")))
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [net.get_concrete_function(tf.TensorSpec((1, 8, 8, 3), tf.float32))]
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    converter.representative_dataset = lambda: ([((one[None] - 127.5) / 127.5).astype(np.float32)] for one in pixels)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())
    add_metadata(path, metadata([tensor_metadata((127.5,), (127.5,))], [tensor_metadata(image=False)]))

    artifact = import_model(path, Options(), tmp_path / "store")
    assert (artifact.inputs[0].datatype, artifact.service_inputs[0].datatype) == ("INT8", "UINT8")
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = entry["quantization"]
    levels = np.clip(np.rint((pixels[:1] - 127.5) / 127.5 / scale + zero_point), -128, 127).astype(np.int8)
    fed = apply_images(artifact, {artifact.inputs[0].name: pixels[:1]})[artifact.inputs[0].name]
    assert np.abs(fed.astype(int) - levels).max() <= 1  # ties round to even here, away from zero there
    interpreter.set_tensor(entry["index"], fed)
    interpreter.invoke()
    wanted = interpreter.get_tensor(exit_["index"]).astype(int)
    found = openvino.Core().compile_model(str(artifact.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(fed)[0]
    assert np.abs(found.astype(int) - wanted).max() <= 1


def add_metadata(path, said):
    """Let a real file carry metadata, as TensorFlow's tools do: a new buffer, named in the model's table."""
    from tensorflow.lite.python import schema_py_generated as schema

    flatbuffers = pytest.importorskip("flatbuffers")
    made = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(said, np.uint8)
    entry.name, entry.buffer = b"TFLITE_METADATA", len(made.buffers)
    made.buffers.append(buffer)
    made.metadata = [*(made.metadata or []), entry]
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


@pytest.mark.extra("tensorflow")
@pytest.mark.filterwarnings("ignore")
def test_every_fixture_says_what_tensorflow_lite_says(shared_data):
    import tensorflow as tf

    for path in sorted(shared_data.rglob("*.tflite")):
        interpreter = tf.lite.Interpreter(str(path))
        sides = (interpreter.get_input_details(), interpreter.get_output_details())
        for details, found in zip(sides, read_facts(path), strict=True):
            assert [one.name for one in found] == [detail["name"] for detail in details]
            for detail, one in zip(details, found, strict=True):
                if detail["dtype"] in {np.uint8, np.int8}:
                    assert (np.float32(one.scale), one.zero_point) == detail["quantization"]
