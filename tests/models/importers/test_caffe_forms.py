"""Caffe's three generations of files, its phases and its preprocessing; what is refused is refused by name."""

import shutil

import numpy as np
import onnx
import pytest

from whet.errors import ModelError, Unsupported, UsageError
from whet.models.importers import caffe, recognise
from whet.models.importers.base import Options
from whet.models.importers.caffe.net import read_net
from whet.models.importers.caffe.prototxt import MAX_DEPTH, parse

INPUT = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n'
V0 = (
    INPUT
    + """layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "padded" }
layers { layer { name: "c" type: "conv" num_output: 2 kernelsize: 3 biasterm: false } bottom: "padded" top: "c" }
layers { layer { name: "r" type: "relu" } bottom: "c" top: "c" }
layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 8 stride: 1 } bottom: "c" top: "p" }
layers { layer { name: "s" type: "softmax" } bottom: "p" top: "s" }"""
)
V1 = (
    INPUT
    + """layers { name: "c" type: CONVOLUTION bottom: "data" top: "c"
  convolution_param { num_output: 2 kernel_size: 3 pad: 1 bias_term: false } }
layers { name: "r" type: RELU bottom: "c" top: "c" }
layers { name: "p" type: POOLING bottom: "c" top: "p" pooling_param { pool: AVE kernel_size: 8 } }
layers { name: "s" type: SOFTMAX bottom: "p" top: "s" }"""
)


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, body):
    if isinstance(body, int):
        return varint(number << 3) + varint(body)
    return varint(number << 3 | 2) + varint(len(body)) + body


def legacy_blob(array, number):
    """A blob of the old form: num, channels, height, width; values packed, unpacked or double."""
    dims = b"".join(field(i + 1, d) for i, d in enumerate(array.shape))
    if number == 0:
        return dims + b"".join(b"\x2d" + value.tobytes() for value in array.astype("<f4").ravel())
    if number == 1:
        return dims + field(5, array.astype("<f4").tobytes())
    return dims + field(8, array.astype("<f8").tobytes())


def convert(folder, text, weights=b"", **options):
    (folder / "net.prototxt").write_text(text)
    (folder / "net.caffemodel").write_bytes(weights)
    return caffe.convert(folder / "net.prototxt", Options(**options), folder)


@pytest.mark.parametrize("storage", [0, 1, 2])
@pytest.mark.parametrize("version", [0, 1])
def test_old_layers_with_old_blobs_compute_what_new_ones_do(tmp_path, run_net, version, storage):
    rng = np.random.default_rng(1)
    weight = rng.uniform(-1, 1, (2, 3, 3, 3)).astype(np.float32)
    blob = legacy_blob(weight, storage)
    if version:
        weights = field(2, field(4, b"c") + field(5, 4) + field(6, blob))
    else:
        weights = field(2, field(1, field(1, b"c") + field(2, b"conv") + field(50, blob)) + field(2, b"data"))
    x = rng.uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)
    converted = convert(tmp_path, V1 if version else V0, weights)
    assert f"V{version} layers" in converted.notes[0]
    found = run_net("onnxruntime", converted.model, x)["s"]
    padded = np.pad(x[0], ((0, 0), (1, 1), (1, 1)))
    y = np.zeros((2, 8, 8))
    for i in range(8):
        for j in range(8):
            y[:, i, j] = (padded[:, i : i + 3, j : j + 3] * weight).sum((1, 2, 3))
    mean = np.maximum(y, 0).mean((1, 2))
    np.testing.assert_allclose(found.ravel(), np.exp(mean) / np.exp(mean).sum(), rtol=1e-5)


def old_weights(version, blob):
    if version == 0:
        return field(2, field(1, field(1, b"c") + field(2, b"conv") + field(50, blob)) + field(2, b"data"))
    if version == 1:
        return field(2, field(2, b"data") + field(3, b"c") + field(4, b"c") + field(5, 4) + field(6, blob))
    return field(100, field(1, b"c") + field(2, b"Convolution") + field(7, blob))


@pytest.mark.parametrize(
    "front", [b"", field(1, b"net"), field(1, b"n") + field(3, b"data") + field(4, 3) + field(5, 1)]
)
@pytest.mark.parametrize("version", range(3))
def test_weights_of_every_generation_are_known_by_what_they_hold(tmp_path, version, front):
    path = tmp_path / "model.dat"
    path.write_bytes(front + old_weights(version, legacy_blob(np.ones((2, 3, 3, 3), np.float32), 1)))
    assert recognise(path).name == "caffe"
    assert caffe.accompanies(path)
    (tmp_path / "net.prototxt").write_text(V1)
    with pytest.raises(Unsupported, match=r"'model.dat' holds the weights; give the prototxt.*net.prototxt"):
        caffe.convert(path, Options(), tmp_path)


def test_a_name_alone_makes_no_weights(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"no model at all")
    with pytest.raises(Unsupported, match="no format Whet knows"):
        recognise(path)


def test_layers_for_training_loss_and_accuracy_are_left_out(tmp_path):
    text = """layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN } }
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST } transform_param { crop_size: 8 } }
layer { name: "drop" type: "Dropout" bottom: "data" top: "data" include { phase: TRAIN } }
layer { name: "f" type: "Flatten" bottom: "data" top: "f" }
layer { name: "only" type: "ReLU" bottom: "f" top: "g" include { stage: "other" } }
layer { name: "acc" type: "Accuracy" bottom: "f" bottom: "label" top: "acc" exclude { phase: TRAIN } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "loss" }"""
    with pytest.raises(ModelError, match=r"--input-shape data=1,3,224,224"):
        convert(tmp_path, text)
    converted = convert(tmp_path, text, input_shapes={"": (1, 3, 8, 8)})
    graph = onnx.load(converted.model).graph
    assert [spec.name for spec in graph.input] == ["data"]
    assert [spec.name for spec in graph.output] == ["f"]
    assert "Data (1), Dropout (1), ReLU (1)" in converted.notes[0]


def test_preprocessing_is_carried(tmp_path):
    text = """layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 6 } }
  transform_param { scale: 0.5 mean_value: 104 mean_value: 117 mean_value: 123 } }
layer { name: "r" type: "ReLU" bottom: "data" top: "r" }"""
    (image,) = convert(tmp_path, text).images
    assert (image.input, image.height, image.width, image.channels) == ("data", 8, 6, "BGR")
    assert image.mean == (104, 117, 123)
    assert image.scale == (2.0, 2.0, 2.0)  # Caffe multiplies by 0.5 after the subtraction; the artifact divides
    assert image.layout == "NCHW"


def test_a_mean_picture_beside_the_net_becomes_one_mean_a_channel(tmp_path):
    mean = np.stack([np.full((10, 12), value) for value in (104.0, 117.0, 123.0)])[None]
    text = """layer { name: "d" type: "Data" top: "data" top: "label"
  transform_param { mean_file: "../elsewhere/mean.binaryproto" crop_size: 8 } }
layer { name: "r" type: "ReLU" bottom: "data" top: "r" }"""
    converted = convert(tmp_path, text, input_shapes={"data": (1, 3, 8, 8)})
    assert converted.images[0].mean == ()
    assert "'mean.binaryproto', which does not lie beside it" in converted.notes[-1]
    (tmp_path / "mean.binaryproto").write_bytes(legacy_blob(mean, 1))
    (image,) = convert(tmp_path, text, input_shapes={"data": (1, 3, 8, 8)}).images
    assert image.mean == (104, 117, 123)
    assert image.resize == (10, 12)


def layer(kind, params="", bottoms=("data",), name="x"):
    quoted = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "{name}" type: "{kind}" {quoted} top: "{name}" {params} }}\n'


HALVED = layer("Pooling", "pooling_param { kernel_size: 2 }", name="p")
MORE = layer("Tile", "tile_param { tiles: 1000 }", ("x",), "y")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (layer("Pooling", "pooling_param { pool: AVE_EXC_PAD }"), Unsupported, r"'x' \(Pooling\).*AVE_EXC_PAD"),
        (layer("Reorg") + layer("Python") + layer("Reorg"), Unsupported, r"Reorg \(2.*Python \(1"),
        (layer("Convolution", "convolution_param { num_output: 2 kernel_size: 3 }"), ModelError, "'x'.*holds 0 blobs"),
        (layer("ReLU", bottoms=("nothing",)), ModelError, r"layer 'x' \(ReLU\) reads 'nothing'"),
        (layer("ReLU", "relu_param { negative_slope: nan }"), ModelError, "negative_slope is 'nan', a finite number"),
        (layer("Pooling", "pooling_param { kernel_size: 3 stride: 0 }"), ModelError, "stride is '0', an integer"),
        (layer("Pooling", "pooling_param { kernel_size: 3 pad: 3 }"), ModelError, "pad .3, 3. must be smaller"),
        (layer("Tile", "tile_param { tiles: 1000000 }") + MORE, ModelError, r"'y'.*at most"),
        ("input_dim: 1000000000000", ModelError, "holds no layers"),
        (HALVED + layer("Eltwise", bottoms=("data", "p")), ModelError, r"'data' .*input 'data' and 'p.* from layer 'p"),
        ('net: "train.prototxt" base_lr: 0.1', ModelError, "solver file"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(tmp_path, text, error, said):
    with pytest.raises(error, match=said):
        convert(tmp_path, text if "input_dim" in text or "net:" in text else INPUT + text)


def test_an_absurd_input_is_refused(tmp_path):
    with pytest.raises(ModelError, match="at most"):
        convert(tmp_path, INPUT.replace("8", "1000000") + layer("ReLU"))


def test_weights_that_do_not_fit_or_are_missing_are_named(tmp_path, shared_data):
    source = shared_data / "caffe/micro"
    shutil.copyfile(source / "deconv_pad.prototxt", tmp_path / "net.prototxt")
    with pytest.raises(ModelError, match=r"no caffemodel lies beside.*--weights"):
        caffe.convert(tmp_path / "net.prototxt", Options(), tmp_path)
    for name in ("a", "b"):
        shutil.copyfile(source / "deconv_pad.caffemodel", tmp_path / f"{name}.caffemodel")
    with pytest.raises(ModelError, match=r"a\.caffemodel, b\.caffemodel.*--weights"):
        caffe.convert(tmp_path / "net.prototxt", Options(), tmp_path)
    caffe.convert(tmp_path / "net.prototxt", Options(weights=tmp_path / "b.caffemodel"), tmp_path)
    with pytest.raises(ModelError, match=r"holds 0 blobs for that name"):
        caffe.convert(tmp_path / "net.prototxt", Options(weights=source / "elt_prod.caffemodel"), tmp_path)
    with pytest.raises(Unsupported, match=r"net\.prototxt"):
        caffe.convert(tmp_path / "a.caffemodel", Options(), tmp_path)


def test_a_shape_for_no_input_and_a_variable_size_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"'image'.*\['data'\]"):
        convert(tmp_path, INPUT + layer("ReLU"), input_shapes={"image": (1, 3, 8, 8)})
    with pytest.raises(UsageError, match="only the first axis"):
        convert(tmp_path, INPUT + layer("ReLU"), input_shapes={"data": (1, 3, -1, 8)})
    mixing = layer("Reduction", "reduction_param { axis: 0 }")
    with pytest.raises(Unsupported, match="mixes the samples"):
        convert(tmp_path, INPUT + mixing, input_shapes={"data": (-1, 3, 8, 8)})


def test_text_is_read_leniently():
    root = parse(
        b"""# comment
a: 1, b: -2.5f; c: "x" 'y\\n\\x41\\101' d: WORD e: [1, 2] f { g: 3 } f < g: 4 > h: { i: true } [ext.name]: 7 a: 0x10""",
        "'net'",
    )
    assert root.integers("a", 0) == [1, 16]
    assert root.number("b", 0) == -2.5
    assert root.text("c") == "xy\nAA"
    assert root.text("d") == "WORD"
    assert root.integers("e", 0) == [1, 2]
    assert [inner.integer("g", 0) for inner in root.messages("f")] == [3, 4]
    assert root.message("h").flag("i", False)
    assert root.integer("ext.name", 0) == 7
    assert root.message("none").integer("a", 5) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a {", "line 1 has the end of the file inside a block"),
        ("\n\na: }", r"line 3 has '}' where a value of 'a'"),
        ("a 1", "where ':'"),
        ("}", "where a field's name"),
        ('a: "open', "begins no name"),
        ("a { " * (MAX_DEPTH + 1), "blocks within each other"),
        ("a: [1, {", "where a value"),
    ],
)
def test_text_that_cannot_be_read_names_the_line(text, said):
    with pytest.raises(ModelError, match=said):
        parse(text.encode(), "'net'")


def test_a_layer_is_filtered_by_level_and_stage():
    text = """state { phase: TEST level: 2 stage: "deploy" }
layer { name: "a" type: "ReLU" include { min_level: 1 max_level: 3 stage: "deploy" } }
layer { name: "b" type: "ReLU" include { min_level: 3 } }
layer { name: "c" type: "ReLU" include { not_stage: "deploy" } }
layer { name: "d" type: "ReLU" exclude { stage: "deploy" } }
layer { name: "e" type: "ReLU" include { phase: TRAIN } include { phase: TEST } }"""
    assert [layer.name for layer in read_net(parse(text.encode(), "'n'"), "'n'").layers] == ["a", "e"]
