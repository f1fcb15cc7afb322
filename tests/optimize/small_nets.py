"""A small convolutional net that really classifies, made without a training framework, and pictures for it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 8
SIDE = 32


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gratings in eight directions under noise: float32[count, 1, 32, 32] and int64[count] labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    angle = (labels * np.pi / CLASSES)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    waves = np.sin(2 * np.pi * 5 * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    images = waves + rng.normal(0, 0.25, waves.shape)
    return images[:, None].astype(np.float32), labels.astype(np.int64)


def write_net(path: Path, *, outlier: float = 1.0, seed: int = 0) -> Path:
    """Write the net as ONNX: fixed random convolutions, and a last layer fitted by ridge regression.

    Args:
        path: file to write.
        outlier: scales one channel up before, and down again after, the second convolution: a net whose ranges int8
            per-tensor activations cannot hold.
        seed: of the random filters.
    """
    import onnxruntime

    rng = np.random.default_rng(seed)
    first = rng.normal(0, 0.5, (24, 1, 5, 5)).astype(np.float32)
    second = (rng.normal(0, 1, (48, 24, 3, 3)) / np.sqrt(24 * 9)).astype(np.float32)
    first[0] *= outlier
    second[:, 0] /= outlier
    weights = {"c1": first, "c2": second, "w": np.zeros((48, CLASSES), np.float32), "b": np.zeros(CLASSES, np.float32)}
    images, labels = pictures(1500, seed=99)
    session = onnxruntime.InferenceSession(_model(weights, "features").SerializeToString())
    features = np.asarray(session.run(["features"], {"x": images})[0], dtype=np.float64)
    design = np.hstack([features, np.ones((len(features), 1))])
    target = np.eye(CLASSES)[labels]
    solved = np.linalg.solve(design.T @ design + 1e-3 * np.eye(design.shape[1]), design.T @ target)
    weights["w"], weights["b"] = solved[:-1].astype(np.float32), solved[-1].astype(np.float32)
    onnx.save(_model(weights, "logits"), path)
    return path


def _model(weights: dict[str, np.ndarray], output: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "c1"], ["a"], name="first", strides=[1, 1], pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node("Conv", ["ar", "c2"], ["b2"], name="second", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b2"], ["br"]),
        helper.make_node("GlobalAveragePool", ["br"], ["p"]),
        helper.make_node("Flatten", ["p"], ["features"]),
        helper.make_node("Gemm", ["features", "w", "b"], ["logits"], name="last"),
    ]
    width = 48 if output == "features" else CLASSES
    graph = helper.make_graph(
        nodes if output == "logits" else nodes[:-1],
        "gratings",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_dense(path: Path, *, seed: int = 0) -> Path:
    """Write a net of three wide matrix products and a last layer: float32[n, 1, 32, 32] in, float32[n, 8] out."""
    rng, width, nodes, weights = np.random.default_rng(seed), SIDE * SIDE, [], []
    before = "flat"
    for place, out in enumerate((256, 256, 256, CLASSES)):
        matrix = (rng.normal(0, 1, (width, out)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{place}"))
        product = "logits" if out == CLASSES else f"m{place}"
        nodes.append(helper.make_node("MatMul", [before, f"w{place}"], [product], name=f"dense{place}"))
        if out != CLASSES:
            nodes.append(helper.make_node("Relu", [product], [f"r{place}"]))
        before, width = f"r{place}", out
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), *nodes],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
