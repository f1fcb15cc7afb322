"""Runs parents in frameworks that live beside Whet: each function takes what is asked and returns the outputs."""

from pathlib import Path
from typing import Any

import numpy as np

from whet.models.importers import tf_signature, trees
from whet.models.importers.onnx_load import load_onnx
from whet.models.importers.parents.request import Request, Samples, by_place
from whet.models.importers.reference import Runner, open_openvino
from whet.tensors import Array


def run_onnx(asked: Request, samples: Samples) -> Samples:
    """The file as it came, in the first runtime that opens it."""
    from whet.models.importers.onnx_clean import runners

    path = Path(asked.path)
    opened = runners(path, load_onnx(path))
    runner = next((one for one in opened.values() if isinstance(one, Runner)), None)
    if runner is None:
        raise RuntimeError("; ".join(map(str, opened.values())))
    return [runner.run(sample) for sample in samples]


def run_tflite(asked: Request, samples: Samples) -> Samples:
    """TensorFlow Lite's interpreter."""
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
        found.append(named or by_place(asked.outputs, list(values.values())))
    return found


def run_savedmodel(asked: Request, samples: Samples) -> Samples:
    """The chosen signature in TensorFlow; features travel as serialized examples where it takes those."""
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


def run_frozen(asked: Request, samples: Samples) -> Samples:
    """The graph between the artifact's inputs and outputs, in TensorFlow."""
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
        by_place(asked.outputs, [v.numpy() for v in pruned(*(tf.constant(sample[n]) for n in asked.inputs))])
        for sample in samples
    ]


def run_keras(asked: Request, samples: Samples) -> Samples:
    """Keras on the backend its environment names."""
    import keras

    model = keras.models.load_model(asked.path, compile=False, safe_mode=True)
    found = []
    for sample in samples:
        fed = [sample[name] for name in asked.inputs]
        result = model(fed[0] if len(fed) == 1 else fed, training=False)
        values = result if isinstance(result, list | tuple) else [result]
        found.append(by_place(asked.outputs, [keras.ops.convert_to_numpy(value) for value in values]))
    return found


def run_torch(asked: Request, samples: Samples) -> Samples:
    """A TorchScript file or an exported program in PyTorch."""
    import torch

    from whet.models.importers.torch_file import load_module

    module = load_module(Path(asked.path))
    return _run_torch(torch, module, asked, samples)


def run_torch_entry(asked: Request, samples: Samples) -> Samples:
    """The module that the user's function returns, in PyTorch."""
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
            found.append(by_place(asked.outputs, [value.numpy() for value in values]))
    return found


def run_ir(asked: Request, samples: Samples) -> Samples:
    """The file as it came, in OpenVINO."""
    runner = open_openvino(Path(asked.path), asked.inputs, asked.outputs)
    return [runner.run(sample) for sample in samples]


def run_trees(asked: Request, samples: Samples) -> Samples:
    """A file of XGBoost or LightGBM in the library that wrote it."""
    if trees.is_lightgbm(Path(asked.path)):
        import lightgbm

        light = lightgbm.Booster(model_file=asked.path)
        return [_classes(asked, light.predict(sample[trees.INPUT])) for sample in samples]
    import xgboost

    booster = xgboost.Booster(model_file=asked.path)
    booster.feature_names = None
    return [_classes(asked, booster.predict(xgboost.DMatrix(sample[trees.INPUT]))) for sample in samples]


def run_sklearn(asked: Request, samples: Samples) -> Samples:
    """A pickled estimator in scikit-learn; the import had the permission to open it."""
    import joblib

    model = joblib.load(asked.path)
    found = []
    for sample in samples:
        values = {"label": np.asarray(model.predict(sample[trees.INPUT]))}
        if hasattr(model, "predict_proba"):
            values["probabilities"] = np.asarray(model.predict_proba(sample[trees.INPUT]))
        elif "label" not in asked.outputs:
            values = {asked.outputs[0]: values["label"].reshape(len(values["label"]), -1)}
        found.append(values)
    return found


def _classes(asked: Request, predicted: Any) -> dict[str, Array]:
    """Return what a booster predicts under the converted net's names: probabilities and the likeliest, or one value."""
    values = np.asarray(predicted)
    if "probabilities" not in asked.outputs:
        return {asked.outputs[0]: values.reshape(len(values), -1)}
    both = np.stack([1 - values, values], axis=1) if values.ndim == 1 else values
    return {"label": both.argmax(axis=1), "probabilities": both}
