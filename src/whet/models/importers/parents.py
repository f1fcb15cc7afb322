"""Runs the file an artifact came from in its own framework, in a process of its own, to compare outputs with.

One function a format; each takes the file, the options and the samples and returns outputs by the artifact's names.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import WhetError
from whet.models.artifact import Artifact
from whet.models.importers import isolated, tf_signature
from whet.models.importers.base import Options
from whet.models.importers.isolated import Limits
from whet.models.importers.onnx_load import load_onnx
from whet.models.importers.reference import Runner
from whet.models.importers.worker import decode, encode
from whet.tensors import Array

Samples = list[dict[str, Array]]


@dataclass(frozen=True, slots=True)
class ParentAnswer:
    """What the parent gave.

    Attributes:
        framework: that ran it.
        outputs: by the artifact's output names, one mapping a sample.
    """

    framework: str
    outputs: Samples


@dataclass(frozen=True, slots=True)
class Request:
    """What the child is asked; arrays travel in ``.npz`` files named ``<index>/<tensor>``.

    Attributes:
        format: name of the parent's format.
        path: the parent, or ``module:function``.
        options: with which it was imported.
        inputs: the artifact's input names, in order.
        outputs: the artifact's output names, in order.
        feeds: file with the samples.
        answers: file to write.
    """

    format: str
    path: str
    options: Options
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    feeds: str
    answers: str


def run_parent(
    parent: Path, artifact: Artifact, options: Options, feeds: Samples, limits: Limits
) -> ParentAnswer | str:
    """Return the parent's outputs on ``feeds``, or in words why it cannot be run."""
    first = artifact.lineage[0].settings if artifact.lineage else {}
    format_name = str(first.get("format", ""))
    way = _WAYS.get(format_name)
    if way is None:
        return f"no maintained framework runs the format '{format_name}'"
    if importlib.util.find_spec(way.package) is None:
        return f"{way.package} is not installed (pip install 'whet[{way.extra}]')"
    with tempfile.TemporaryDirectory(prefix="whet-parent-") as folder:
        given, back = Path(folder, "feeds.npz"), Path(folder, "answers.npz")
        _save(given, feeds)
        request = Request(
            format=format_name,
            path=str(parent),
            options=options,
            inputs=tuple(spec.name for spec in artifact.inputs),
            outputs=tuple(spec.name for spec in artifact.outputs),
            feeds=str(given),
            answers=str(back),
        )
        try:
            isolated.call(f"{__name__}:answer", encode(request), limits, way.environment)
        except WhetError as error:
            return str(error)
        return ParentAnswer(way.framework, _load(back))


def answer(request: bytes) -> bytes:
    """Run the parent; the target of :func:`whet.models.importers.isolated.call`."""
    asked: Request = decode(request, Request)
    _save(Path(asked.answers), _WAYS[asked.format].run(asked, _load(Path(asked.feeds))))
    return b"{}"


def _save(path: Path, samples: Samples) -> None:
    arrays: dict[str, Any] = {
        f"{index}/{name}": value.astype(np.bytes_) if value.dtype == object else value
        for index, sample in enumerate(samples)
        for name, value in sample.items()
    }
    # savez treats keyword "file" as its own; tensor names may be anything, so they carry an index in front.
    np.savez(path, **arrays)


def _load(path: Path) -> Samples:
    samples: dict[int, dict[str, Array]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition("/")
            value = arrays[key]
            samples.setdefault(int(index), {})[name] = value.astype(object) if value.dtype.kind == "S" else value
    return [samples[index] for index in sorted(samples)]


def _by_place(names: tuple[str, ...], values: list[Any]) -> dict[str, Array]:
    return dict(zip(names, (np.asarray(value) for value in values), strict=False))


def _onnx(asked: Request, samples: Samples) -> Samples:
    from whet.models.importers.onnx_clean import runners

    path = Path(asked.path)
    opened = runners(path, load_onnx(path))
    runner = next((one for one in opened.values() if isinstance(one, Runner)), None)
    if runner is None:
        raise RuntimeError("; ".join(map(str, opened.values())))
    return [runner.run(sample) for sample in samples]


def _tflite(asked: Request, samples: Samples) -> Samples:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=asked.path)
    interpreter.allocate_tensors()
    inputs = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    outputs = interpreter.get_output_details()
    found = []
    for sample in samples:
        for place, name in enumerate(asked.inputs):
            index = inputs.get(name, list(inputs.values())[place])
            interpreter.set_tensor(index, sample[name])
        interpreter.invoke()
        values = {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in outputs}
        named = {name: values[name] for name in asked.outputs if name in values}
        found.append(named or _by_place(asked.outputs, list(values.values())))
    return found


def _savedmodel(asked: Request, samples: Samples) -> Samples:
    import tensorflow as tf

    loaded = tf.saved_model.load(asked.path)
    signatures = tf_signature.read_signatures(Path(asked.path) / "saved_model.pb")
    chosen = tf_signature.choose(signatures, asked.options.signature, asked.path)
    function = loaded.signatures[chosen.name]
    keys = {info.key for info in chosen.inputs}
    found = []
    for sample in samples:
        if keys == set(sample):
            feeds = {name: tf.constant(value) for name, value in sample.items()}
        else:  # features that Whet feeds as tensors travel as serialized examples here
            feeds = {key: tf.constant(_examples(tf, sample)) for key in keys}
        found.append({name: value.numpy() for name, value in function(**feeds).items()})
    return found


def _examples(tf: Any, sample: dict[str, Array]) -> list[bytes]:
    rows = len(next(iter(sample.values())))
    serialized = []
    for row in range(rows):
        features = {}
        for name, value in sample.items():
            flat = value[row].reshape(-1)
            if value.dtype.kind == "f":
                features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=flat))
            elif value.dtype == object:
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=list(flat)))
            else:
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=flat))
        serialized.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return serialized


def _frozen(asked: Request, samples: Samples) -> Samples:
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString(Path(asked.path).read_bytes())

    def tensor(name: str) -> str:
        return name if ":" in name else f"{name}:0"

    def imported() -> None:
        tf.import_graph_def(graph, name="")

    wrapped = tf.compat.v1.wrap_function(imported, [])
    pruned = wrapped.prune(
        [wrapped.graph.as_graph_element(tensor(name)) for name in asked.inputs],
        [wrapped.graph.as_graph_element(tensor(name)) for name in asked.outputs],
    )
    return [
        _by_place(asked.outputs, [v.numpy() for v in pruned(*(tf.constant(sample[n]) for n in asked.inputs))])
        for sample in samples
    ]


def _keras(asked: Request, samples: Samples) -> Samples:
    import keras

    model = keras.models.load_model(asked.path, compile=False, safe_mode=True)
    found = []
    for sample in samples:
        fed = [sample[name] for name in asked.inputs]
        result = model(fed[0] if len(fed) == 1 else fed, training=False)
        values = result if isinstance(result, list | tuple) else [result]
        found.append(_by_place(asked.outputs, [keras.ops.convert_to_numpy(value) for value in values]))
    return found


def _torch(asked: Request, samples: Samples) -> Samples:
    import torch

    from whet.models.importers.torch_file import load_module

    module = load_module(Path(asked.path))
    return _run_torch(torch, module, asked, samples)


def _torch_entry(asked: Request, samples: Samples) -> Samples:
    import torch

    from whet.models.importers.torch_entry import load_entry

    return _run_torch(torch, load_entry(asked.path).module, asked, samples)


def _run_torch(torch: Any, module: Any, asked: Request, samples: Samples) -> Samples:
    found = []
    with torch.no_grad():
        for sample in samples:
            result = module(*(torch.from_numpy(sample[name]) for name in asked.inputs))
            values = list(result.values()) if isinstance(result, dict) else result
            values = values if isinstance(values, list | tuple) else [values]
            found.append(_by_place(asked.outputs, [value.numpy() for value in values]))
    return found


@dataclass(frozen=True, slots=True)
class _Way:
    framework: str
    package: str
    extra: str
    run: Callable[[Request, Samples], Samples]
    environment: dict[str, str] | None = None


_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
_WAYS: dict[str, _Way] = {
    "onnx": _Way("the original file", "onnx", "", _onnx),
    "tflite": _Way("TensorFlow Lite", "tensorflow", "tensorflow", _tflite, _QUIET),
    "tf-savedmodel": _Way("TensorFlow", "tensorflow", "tensorflow", _savedmodel, _QUIET),
    "tf-frozen": _Way("TensorFlow", "tensorflow", "tensorflow", _frozen, _QUIET),
    "keras": _Way("Keras on TensorFlow", "tensorflow", "tensorflow", _keras, {**_QUIET, "KERAS_BACKEND": "tensorflow"}),
    "torch": _Way("PyTorch", "torch", "torch", _torch),
    "torch-entry": _Way("PyTorch", "torch", "torch", _torch_entry),
}
