"""Each format of the table: its file goes in, is served, and answers over HTTP what its own framework says."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import np_to_triton_dtype

from whet.errors import UsageError
from whet.host import read_host
from whet.load.launcher import Server
from whet.models.importers import Options, import_model
from whet.models.importers.reference import open_openvino
from whet.serve.sources import resolve
from whet.settings import ServeSettings

HALF = "tensorflow/serving/saved_model_half_plus_two_tf2_cpu/00000123"
SSD = "caffe/ssd_face/yufacedetectnet-open-v1"
FILES = {
    "onnx": ["caffe/ultraface/version-RFB-320_simplified.onnx"],
    "savedmodel": [f"{HALF}/saved_model.pb", f"{HALF}/variables"],
    "frozen": ["tensorflow/frozen.pb"],
    "tflite-float": ["caffe/ultraface/version-RFB-320_without_postprocessing.tflite"],
    "tflite-uint8": ["tflite/mobilenet_v1_0.25_128_quant.tflite"],
    "paddle": ["paddle/old.pdmodel", "paddle/old.pdiparams", "paddle/old.pdiparams.info"],
    "caffe": ["caffe/squeezenet/SqueezeNet_deploy.prototxt", "caffe/squeezenet/SqueezeNet.caffemodel"],
    "caffe-ssd": [f"{SSD}.prototxt", f"{SSD}.caffemodel"],
    "caffe2": ["caffe2/superres/predict_net.pb", "caffe2/superres/init_net.pb"],
}
"""Model -> what its folder in the repository holds; MXNet and IR join them, imported before."""


def run_whet(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "whet", *map(str, arguments)], capture_output=True, text=True, timeout=110, check=False
    )


def ask(server: Server, name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Send the only input in binary form; return the outputs by name."""
    with tritonclient.http.InferenceServerClient(server.http.removeprefix("http://"), network_timeout=60) as client:
        described = client.get_model_metadata(name)
        (asked,) = described["inputs"]
        tensor = tritonclient.http.InferInput(asked["name"], list(x.shape), np_to_triton_dtype(x.dtype))
        assert asked["datatype"] == np_to_triton_dtype(x.dtype)
        tensor.set_data_from_numpy(x)
        answer = client.infer(name, [tensor])
        return {output["name"]: answer.as_numpy(output["name"]) for output in described["outputs"]}


def copy(sources: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, folder / source.name)
        else:
            shutil.copyfile(source, folder / source.name)


def write_module(micro: Path, folder: Path) -> None:
    """Import a symbol and its arrays as MXNet's Module saves them: an epoch in the name."""
    made = folder.parent.parent.parent / "module"
    made.mkdir()
    shutil.copyfile(micro / "bn_fg0-symbol.json", made / "net-symbol.json")
    shutil.copyfile(micro / "bn_fg0.params", made / "net-0007.params")
    shape = ",".join(map(str, np.load(micro / "bn_fg0.npz")["x"].shape))
    done = run_whet("import", made / "net-symbol.json", "--input-shape", shape, "-o", folder)
    assert done.returncode == 0, done.stderr


OLD_WEIGHT = np.linspace(-1, 1, 6, dtype="<f4").reshape(2, 3, 1, 1)
OLD_LAYER = {
    0: 'layer { name: "c" type: "conv" num_output: 2 kernelsize: 1 biasterm: false } bottom: "data" top: "c"',
    1: 'name: "c" type: CONVOLUTION bottom: "data" top: "c"'
    " convolution_param { num_output: 2 kernel_size: 1 bias_term: false }",
}


def write_old_caffe(version: int, folder: Path) -> None:
    """Write a convolution as Caffe's first (2013) and second (2014) forms have it, text and weights."""

    def field(number: int, body: bytes | int) -> bytes:
        if isinstance(body, int):
            return bytes([number << 3, body])
        tag = number << 3 | 2
        return (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + bytes([len(body)]) + body

    blob = b"".join(field(i + 1, n) for i, n in enumerate(OLD_WEIGHT.shape)) + field(5, OLD_WEIGHT.tobytes())
    layer = (
        field(4, b"c") + field(5, 4) + field(6, blob)
        if version
        else field(1, field(1, b"c") + field(2, b"conv") + field(50, blob)) + field(2, b"data") + field(3, b"c")
    )
    folder.mkdir(parents=True)
    inputs = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 4\n'
    (folder / "net.prototxt").write_text(f"{inputs}layers {{ {OLD_LAYER[version]} }}\n")
    (folder / "net.caffemodel").write_bytes(field(2, layer))


@pytest.fixture(scope="module")
def served(shared_data, tmp_path_factory):
    """One server of a repository that holds a model of each format as their tools write them."""
    root = tmp_path_factory.mktemp("formats")
    for name, files in FILES.items():
        copy([shared_data / file for file in files], root / "models" / name / "1")
    ir = import_model(shared_data / FILES["tflite-float"][0], Options(to="ir"), root / "store")
    copy([ir.path, ir.path.with_suffix(".bin")], root / "models/ir/1")
    symbol = shared_data / "mxnet/mobilenet0.25-symbol.json"
    # A symbol holds no shape of its input, and a repository has no place to say it.
    done = run_whet("import", symbol, "--input-shape", "-1,3,224,224", "-o", root / "models/mxnet/1")
    assert done.returncode == 0, done.stderr
    write_module(shared_data / "mxnet/micro", root / "models/mxnet-module/1")
    for version in (0, 1):
        write_old_caffe(version, root / f"models/caffe-v{version}/1")
    # A signature is said of one model, so what takes tf.Example comes in before.
    saved = shared_data / HALF
    done = run_whet("import", saved, "--signature", "regress_x_to_y2", "-o", root / "models/example/1")
    assert done.returncode == 0, done.stderr
    with Server([str(root / "models"), "--cache-dir", str(root / "cache")], ready_s=110) as server:
        yield server


def reference(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    arrays = dict(np.load(path))
    return arrays.pop("x"), arrays


REFERENCES = {
    "tflite-float": "caffe/ultraface/tflite-reference.npz",
    "ir": "caffe/ultraface/tflite-reference.npz",
    "tflite-uint8": "tflite/mobilenet_v1_0.25_128_quant.tflite.tfliteref.npz",
    "paddle": "paddle/old.reference.npz",
    "caffe": "caffe/squeezenet/reference.npz",
    "mxnet": "mxnet/mobilenet0.25.npz",
    "mxnet-module": "mxnet/micro/bn_fg0.npz",
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_format_answers_what_its_framework_answered(shared_data, served, name):
    x, wanted = reference(shared_data / REFERENCES[name])
    found = ask(served, name, x)
    assert len(found) == len(wanted)
    for expected in wanted.values():
        (value,) = [value for value in found.values() if value.shape == expected.shape]
        assert value.dtype == expected.dtype
        # One level of a quantised answer is rounding; kernels differ in the order of sums.
        atol = 2 if expected.dtype == np.uint8 else 2e-5
        np.testing.assert_allclose(value.astype(float), expected.astype(float), rtol=0, atol=atol)


@pytest.mark.parametrize("version", [0, 1])
def test_old_caffe_answers_what_its_weights_say(served, version):
    x = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    (found,) = ask(served, f"caffe-v{version}", x).values()
    np.testing.assert_allclose(found, np.einsum("nchw,oc->nohw", x, OLD_WEIGHT[:, :, 0, 0]), rtol=0, atol=1e-5)


def test_ssd_answers_the_faces_opencv_found(shared_data, served):
    x, wanted = reference(shared_data / "caffe/ssd_face/reference.npz")
    (found,) = ask(served, "caffe-ssd", x).values()
    real = wanted["y"][0, 0]
    real = real[real[:, 2] > 0]  # the reference fills up with rows of zeros
    assert found.shape == (1, 1, len(real), 7)
    for row in real:
        assert np.abs(found[0, 0] - row).max(1).min() < 1e-4


def test_a_signature_of_examples_takes_their_features(served):
    x = np.array([[1.0], [2.0], [5.0]], np.float32)
    (found,) = ask(served, "example", x).values()
    np.testing.assert_allclose(found.ravel(), x.ravel() / 2 + 3)


def test_onnx_answers_what_onnx_runtime_answers(shared_data, served):
    import onnxruntime

    path = shared_data / FILES["onnx"][0]
    x = np.random.default_rng(0).normal(size=(2, 3, 240, 320)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = [dict(zip(names, session.run(names, {"input": row[None]}), strict=True)) for row in x]
    found = ask(served, "onnx", x)
    assert set(found) == set(names)
    for name in names:
        np.testing.assert_allclose(found[name], np.concatenate([row[name] for row in rows]), rtol=0, atol=2e-5)


def test_a_saved_model_computes_half_plus_two(served):
    x = np.array([1.0, 2.0, 5.0], np.float32)
    (found,) = ask(served, "savedmodel", x).values()
    np.testing.assert_allclose(found, [2.5, 3.0, 4.5])


def test_a_frozen_graph_answers_what_its_saved_model_answers(shared_data, served, tmp_path):
    twin = import_model(shared_data / "tensorflow/keras_savedmodel", Options(), tmp_path)
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    (expected,) = (
        open_openvino(twin.path, [twin.inputs[0].name], [twin.outputs[0].name]).run({twin.inputs[0].name: x}).values()
    )
    (found,) = ask(served, "frozen", x).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_caffe2_answers_what_its_onnx_twin_answers(shared_data, served):
    x = np.random.default_rng(0).random((1, 1, 224, 224), np.float32)
    (found,) = ask(served, "caffe2", x).values()
    import openvino as ov

    twin = ov.Core().compile_model(
        shared_data / "caffe2/superres/super_resolution.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(found, twin([x])[0], rtol=0, atol=1e-5)


REFUSED = {
    "an IR of version 4": ("caffe/ssd_face/yufacedetectnet-open-v1-320x240.xml", "IR version 4"),
    "a TensorRT plan": (b"ptrt" + bytes(64), "TensorRT plan"),
    "a language model": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "llama.cpp"),
}


@pytest.mark.parametrize(("source", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_served_is_refused_in_one_line(shared_data, tmp_path, source, said):
    path = tmp_path / "model"
    if isinstance(source, bytes):
        path.write_bytes(source)
    else:
        path = shared_data / source
    done = run_whet("serve", path, "--http-port", 0, "--grpc-port", 0, "--cache-dir", tmp_path / "cache")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert said in line


def settings(tmp_path: Path, *sources: Path, **more: object) -> ServeSettings:
    return ServeSettings(sources=tuple(map(str, sources)), cache_dir=str(tmp_path / "cache"), **more)


def test_what_is_said_about_the_one_model_reaches_its_importer(shared_data, tmp_path):
    folder = shared_data / "mxnet/micro"
    symbol = next(iter(sorted(folder.glob("*-symbol.json"))))
    x = np.load(folder / f"{symbol.name.removesuffix('-symbol.json')}.npz")["x"]
    weights = tmp_path / "elsewhere.params"
    shutil.copyfile(next(iter(sorted(folder.glob(f"{symbol.name.removesuffix('-symbol.json')}*.params")))), weights)
    said = {"input_shape": (",".join(map(str, x.shape)),), "weights": str(weights), "name": "net"}
    (one,) = resolve(settings(tmp_path, symbol, **said), read_host())
    assert one.name == "net"
    saved = shared_data / HALF
    (one,) = resolve(settings(tmp_path, saved, signature="regress_x_to_y2"), read_host())
    assert "regress_x_to_y2" in (Path(one.artifact) / "artifact.json").read_text()


@pytest.mark.parametrize("flag", ["weights", "input_shape", "signature", "preprocess"])
def test_what_describes_one_model_is_refused_for_several_and_for_what_is_imported(kit, shared_data, tmp_path, flag):
    said = {flag: ("1,2",) if flag == "input_shape" else "x"}
    several = settings(tmp_path, shared_data / "tensorflow/frozen.pb", shared_data / "tflite/small.tflite", **said)
    with pytest.raises(UsageError, match=f"--{flag.replace('_', '-')} describes one model file.* hold 2"):
        resolve(several, read_host())
    with pytest.raises(UsageError, match=f"--{flag.replace('_', '-')} is given for .*imported already"):
        resolve(settings(tmp_path, kit.make_bundle(tmp_path / "echo"), **said), read_host())


ENTRY = """
import torch
def net():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval(), torch.zeros(1, 3, 8, 8)
"""


def write_torch(models: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write one net as an exported program, traced and scripted; return what PyTorch answers by model."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
    net.eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        pair = (x.numpy(), net(x).numpy())
    names = ("exported/net.pt2", "traced/net.pt", "scripted/net.pt")
    for name in names:
        (models / name).parent.mkdir(parents=True)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), models / names[0])
    torch.jit.trace(net, x).save(models / names[1])
    torch.jit.script(net).save(models / names[2])
    return dict.fromkeys((name.partition("/")[0] for name in names), pair)


def write_tables(models: Path) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Write a pickle of scikit-learn and trees of XGBoost and LightGBM; return what they answer by model."""
    import joblib
    import lightgbm
    import xgboost
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) + (x[:, 3] > 1)
    for name in ("sklearn", "xgboost", "lightgbm"):
        (models / name).mkdir(parents=True)
    linear = LogisticRegression().fit(x, y)
    joblib.dump(linear, models / "sklearn/model.joblib")
    data = xgboost.DMatrix(x, label=y)
    boosted = xgboost.train({"objective": "multi:softprob", "num_class": 3, "max_depth": 3}, data, 5)
    boosted.save_model(str(models / "xgboost/model.json"))
    told = {"objective": "multiclass", "num_class": 3, "verbose": -1}
    light = lightgbm.train(told, lightgbm.Dataset(x, label=y), 5)
    light.save_model(str(models / "lightgbm/model.txt"))
    answers = {"sklearn": linear.predict_proba(x), "xgboost": boosted.predict(data), "lightgbm": light.predict(x)}
    return {name: (x, {"probabilities": p, "label": p.argmax(axis=1)}) for name, p in answers.items()}


def write_int8(saved: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Let TensorFlow quantise a SavedModel to int8, inputs and outputs too; return an input and what it answers."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([generator.random((1, 32, 32, 3), np.float32)] for _ in range(20))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(converter.convert())
    interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
    interpreter.allocate_tensors()
    x = generator.integers(-128, 128, (1, 32, 32, 3)).astype(np.int8)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return x, interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


needs_extras = [
    pytest.mark.extra("torch", "keras", "sklearn", "tensorflow"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def extras(shared_data, tmp_path_factory):
    """One server of what the training frameworks write, and what they answer."""
    root = tmp_path_factory.mktemp("extras")
    answers = {**write_torch(root / "models"), **write_tables(root / "models")}
    keras = "keras/fer2013_mini_XCEPTION.102-0.66.hdf5"
    copy([shared_data / keras], root / "models/keras-1")
    answers["keras-1"] = tuple(np.load(shared_data / "keras/fer2013_mini_XCEPTION.reference.npz")[key] for key in "xy")
    copy([shared_data / "keras/m.keras"], root / "models/keras-3")
    copy([shared_data / "keras/m.h5"], root / "models/keras-2")
    answers["tflite-int8"] = write_int8(shared_data / "tensorflow/keras_savedmodel", root / "models/tflite-int8")
    copy([shared_data / "tensorflow/frozen.pb"], root / "models/twin")
    (root / "nets_of_mine.py").write_text(ENTRY)
    sources = [str(root / "models"), "nets_of_mine:net", "--allow-pickle", "--cache-dir", str(root / "cache")]
    with Server(sources, env={"PYTHONPATH": str(root)}, ready_s=300) as server:
        yield server, answers


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs_extras)
        for name in ("exported", "traced", "scripted", "keras-1", "sklearn", "xgboost", "lightgbm")
    ],
)
def test_a_framework_s_file_answers_what_the_framework_answers(extras, name):
    server, answers = extras
    x, wanted = answers[name]
    found = ask(server, name, x)
    if not isinstance(wanted, dict):
        (only,) = found
        wanted = {only: wanted}
    assert set(found) == set(wanted)
    for output, expected in wanted.items():
        np.testing.assert_allclose(found[output], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param("tflite-int8", marks=needs_extras)])
def test_an_int8_net_answers_what_tensorflow_lite_answers(extras, name):
    server, answers = extras
    x, wanted = answers[name]
    (found,) = ask(server, name, x).values()
    assert found.dtype == wanted.dtype == np.int8
    assert np.abs(found.astype(int) - wanted).max() <= 2


@pytest.mark.parametrize("name", [pytest.param(f"keras-{version}", marks=needs_extras) for version in (2, 3)])
def test_keras_answers_what_the_frozen_graph_answers(extras, name):
    server, _ = extras
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    (found,), (expected,) = ask(server, name, x).values(), ask(server, "twin", x).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param("net", marks=needs_extras)])
def test_an_entry_point_answers_what_its_net_answers(extras, name):
    import torch

    server, _ = extras
    space: dict = {}
    exec(ENTRY, space)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = space["net"]()[0](x).numpy()
    (found,) = ask(server, name, x.numpy()).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
