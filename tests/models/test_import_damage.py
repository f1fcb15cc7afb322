"""Damaged, hostile and absent files end in one line of our own tree, and nothing half-written is left in the store."""

import io
import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from whet.errors import DataError, ModelError, OutputError, Unsupported, UsageError, WhetError
from whet.models.importers import Limits, Options, import_model, recognise
from whet.models.importers.tf_example import parse_example
from whet.models.importers.tf_graph import read_graph
from whet.models.importers.tf_parse import features_for
from whet.models.importers.tf_signature import serving_graph, signatures_of


def refuse(path: Path, store: Path, kind=ModelError, match=None, **options) -> str:
    with pytest.raises(kind, match=match) as raised:
        import_model(path, Options(**options), store)
    message = str(raised.value)
    assert "Traceback" not in message
    assert "\n" not in message
    assert len(message) < 900
    assert not store.exists() or list(store.iterdir()) == []
    return message


@pytest.mark.parametrize(
    "name",
    [
        "caffe/ultraface/version-RFB-320_simplified.onnx",
        "tensorflow/frozen.pb",
        "tflite/small.tflite",
        "tflite/mobilenet_v1_0.25_128_quant.tflite",
        "paddle/old.pdmodel",
    ],
)
@pytest.mark.parametrize("keep", [0.5, 0.9], ids=["half of it", "most of it"])
def test_truncated_files_are_refused(shared_data, tmp_path, name, keep):
    source = shared_data / name
    data = source.read_bytes()
    damaged = tmp_path / source.name
    damaged.write_bytes(data[: int(len(data) * keep)])
    if source.suffix == ".pdmodel":
        shutil.copy(source.with_suffix(".pdiparams"), tmp_path)
    refuse(damaged, tmp_path / "store")


@pytest.mark.parametrize(
    "part", ["saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"]
)
def test_a_saved_model_with_a_truncated_part_is_refused(shared_data, tmp_path, part):
    copy = tmp_path / "model"
    shutil.copytree(shared_data / "tensorflow/keras_savedmodel", copy)
    data = (copy / part).read_bytes()
    (copy / part).write_bytes(data[: len(data) // 2])
    refuse(copy, tmp_path / "store")


def test_a_saved_model_without_its_variables_is_refused(shared_data, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(shared_data / "tensorflow/keras_savedmodel", copy)
    shutil.rmtree(copy / "variables")
    refuse(copy, tmp_path / "store")


def test_weights_missing_beside_the_model_are_named(shared_data, tmp_path):
    shutil.copy(shared_data / "paddle/old.pdmodel", tmp_path / "net.pdmodel")
    refuse(tmp_path / "net.pdmodel", tmp_path / "store", match="net.pdiparams, which is missing")
    (tmp_path / "net.xml").write_text('<?xml version="1.0"?><net name="n" version="11"></net>')
    refuse(tmp_path / "net.xml", tmp_path / "store", match="net.bin, which is missing")
    (tmp_path / "net.bin").write_bytes(b"")
    refuse(tmp_path / "net.xml", tmp_path / "store")


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b"", ModelError, "is empty"),
        (b"hello, I am no model at all\n", Unsupported, "starts with 'hello, I am no model"),
        (np.random.default_rng(0).bytes(4096), Unsupported, "starts with the bytes"),
        (b"\x00" * 100, Unsupported, "starts with the bytes 00 00"),
        (b"ftrt" + bytes(64), Unsupported, "TensorRT plan: opaque.*ONNX"),
        ((20).to_bytes(4, "little") + b'{"imgsz": [640,640]}' + b"ftrt", Unsupported, "TensorRT plan"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), Unsupported, "GGUF language model.*llama.cpp"),
        (b"lmgg" + bytes(64), Unsupported, "ggml language model"),
        (
            (70).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1]}}' + bytes(64),
            Unsupported,
            "safetensors.*graph",
        ),
        (b"\x80\x04\x95\x0c\x00\x00\x00", Unsupported, "pickle.*--allow-pickle"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", Unsupported, "old torch.save file"),
    ],
    ids=[
        "empty",
        "text",
        "noise",
        "zeros",
        "plan",
        "plan with metadata",
        "gguf",
        "ggml",
        "safetensors",
        "pickle",
        "torch",
    ],
)
def test_what_is_no_model_is_refused_by_what_it_is(tmp_path, data, kind, said):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    refuse(path, tmp_path / "store", kind, said)


def test_absent_unreadable_and_empty_places(tmp_path):
    refuse(tmp_path / "absent.onnx", tmp_path / "store", match="does not exist")
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse(empty, tmp_path / "store", match="is empty")
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", tmp_path / "store", match="is a pipe, socket or device")
    refuse(Path("/dev/zero"), tmp_path / "store", match="is a pipe, socket or device")
    if os.geteuid():
        locked = tmp_path / "locked.onnx"
        locked.write_bytes(b"x")
        locked.chmod(0)
        refuse(locked, tmp_path / "store", match="cannot be read")


def test_a_hub_folder_is_named_and_pointed_on(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    refuse(folder, tmp_path / "store", Unsupported, "model hub's folder.*optimum-cli")


def test_a_store_that_cannot_be_written_says_so(shared_data, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="choose another -o"):
        import_model(shared_data / "tflite/small.tflite", Options(), blocked / "store")


def test_what_is_said_about_another_kind_of_model_is_refused(shared_data, tmp_path):
    lite, symbol = shared_data / "tflite/small.tflite", shared_data / "mxnet/squeezenet1.1-symbol.json"
    said = "--signature 'x' says nothing about .*small.tflite: it is tflite, and only tf-savedmodel have one"
    refuse(lite, tmp_path / "store", UsageError, said, signature="x")
    refuse(lite, tmp_path / "store", UsageError, "only openvino-ir, paddle, .*caffe2 have one", weights=lite)
    refuse(symbol, tmp_path / "store", UsageError, "only tf-savedmodel have one", signature="x")


def test_a_time_limit_ends_an_import(shared_data, tmp_path):
    with pytest.raises(ModelError, match=r"small.tflite.*longer than 0.05 s"):
        import_model(shared_data / "tflite/small.tflite", Options(), tmp_path / "store", Limits(seconds=0.05))
    assert list((tmp_path / "store").iterdir()) == []


def zipped(members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


@pytest.mark.extra("keras")
def test_keras_archives_that_lie_are_refused(tmp_path):
    path = tmp_path / "m.keras"
    path.write_bytes(zipped({"config.json": "{", "metadata.json": "{}"}))
    refuse(path, tmp_path / "store", match="damaged Keras file")
    lambdas = '{"class_name": "Functional", "config": {"layers": [{"class_name": "Lambda", "config": {}}]}}'
    path.write_bytes(zipped({"config.json": lambdas, "metadata.json": "{}"}))
    refuse(path, tmp_path / "store", Unsupported, "Lambda layers, which are Python code")


def test_a_plain_archive_is_no_model(tmp_path):
    path = tmp_path / "m.zip"
    path.write_bytes(zipped({"readme.txt": "hello"}))
    refuse(path, tmp_path / "store", Unsupported, "archive, but of no model format")


def external_model(tmp_path: Path, location: str, length: int = 12) -> Path:
    weights = numpy_helper.from_array(np.ones(3, np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [weights],
    )
    path = tmp_path / "model" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_external_data_is_read_from_the_models_folder_alone(tmp_path):
    np.full(3, 2, np.float32).tofile(tmp_path / "secret.bin")
    store = tmp_path / "store"
    refuse(external_model(tmp_path, "../secret.bin"), store, Unsupported, "outside the model's folder")
    refuse(external_model(tmp_path, str(tmp_path / "secret.bin")), store, Unsupported, "outside the model's folder")
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    refuse(external_model(tmp_path, "link.bin"), store, Unsupported, "outside the model's folder")
    refuse(external_model(tmp_path, "gone.bin"), store, ModelError, "'gone.bin', which is missing")
    np.full(3, 2, np.float32).tofile(tmp_path / "model" / "w.bin")
    refuse(external_model(tmp_path, "w.bin", length=1 << 40), store, ModelError, "file is truncated")
    artifact = import_model(external_model(tmp_path, "w.bin"), Options(), store)
    assert any("keeps its weights in 1 file" in note for note in artifact.notes)
    stored = onnx.load(artifact.path, load_external_data=False)
    assert numpy_helper.to_array(stored.graph.initializer[0]).tolist() == [2, 2, 2]


def test_an_onnx_file_without_inputs_or_nodes_is_refused(tmp_path):
    constant = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(2, np.float32)))
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])]
    for nodes, said in (([constant], "no inputs"), ([], "without a graph")):
        path = tmp_path / "m.onnx"
        onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], out)), path)
        refuse(path, tmp_path / "store", ModelError, said)


def test_a_damaged_preprocessing_file_leaves_nothing_behind(shared_data, tmp_path):
    shutil.copy(shared_data / "tflite/small.tflite", tmp_path / "net.tflite")
    (tmp_path / "net.preprocess.toml").write_text("[outputs.nothing]\n")
    refuse(tmp_path / "net.tflite", tmp_path / "store", DataError, "outputs.nothing names no tensor of the model")


def seeds(shared_data):
    root = shared_data / "tensorflow/serving"
    return [path.read_bytes() for path in sorted(root.rglob("saved_model.pb"))]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_mutated_saved_models_end_in_our_tree_or_a_value(shared_data, data):
    raw = bytearray(data.draw(st.sampled_from(seeds(shared_data))))
    for _ in range(data.draw(st.integers(0, 8))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(1, len(raw)))] if data.draw(st.booleans()) else raw
    with suppress(WhetError):
        meta = serving_graph(memoryview(bytes(raw)), "a file")
        for signature in signatures_of(meta, "a file"):
            graph = read_graph(meta, "a file")
            features_for(graph, [info.tensor for info in signature.outputs])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_example_but_never_an_error_of_another_tree(noise):
    with suppress(WhetError):
        assert isinstance(parse_example(noise), dict)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noise=st.binary(min_size=1, max_size=300),
    start=st.sampled_from([b"", b"\x08\x08", b"\x0a", b"PK\x03\x04", b"<?xml", b"{"]),
)
def test_sniffing_noise_raises_nothing_but_unknown(tmp_path, noise, start):
    path = tmp_path / "noise"
    path.write_bytes(start + noise)
    with suppress(Unsupported):
        recognise(path)
