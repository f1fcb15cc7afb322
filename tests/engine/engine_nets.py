"""Small nets and the artifacts around them, built without the importers; weights are drawn from a seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whet.models.artifact import Artifact, ImageInput, OutputStep, seal
from whet.tensors import TensorSpec

FLOAT = TensorProto.FLOAT
LARGE = 700_000
"""Hidden units of the wide net: about 34 MB of weights."""
OPSET = [helper.make_opsetid("", 17)]


def weights(name, *shape, seed=0):
    rng = np.random.default_rng([seed, *map(ord, name)])
    scale = 1 / np.sqrt(np.prod(shape[1:]) or 1)
    return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)


def save(store: Path, model, artifact: Artifact) -> Artifact:
    onnx.checker.check_model(model)
    path = store / "model.onnx"
    onnx.save(model, path)
    return seal(replace(artifact, model=path.name, format="onnx"), [path], store)


def graph(nodes, inputs, outputs, tensors):
    def info(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    built = helper.make_graph(nodes, "net", [info(*i) for i in inputs], [info(*o) for o in outputs], tensors)
    return helper.make_model(built, opset_imports=OPSET, ir_version=8)


def described(inputs, outputs, **more):
    return Artifact(Path(), "", "onnx", "", tuple(inputs), tuple(outputs), **{"batched": True, **more})


def mlp(store, seed=0, width=16):
    """x [N, 8] -> y [N, 4], rows independent."""
    model = graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"]),
        ],
        [("x", FLOAT, ["n", 8])],
        [("y", FLOAT, ["n", 4])],
        [weights("a", 8, width, seed=seed), weights("b", width, 4, seed=seed)],
    )
    return save(store, model, described([TensorSpec("x", "FP32", (-1, 8))], [TensorSpec("y", "FP32", (-1, 4))]))


def conv(store, side=16, channels=8, images=(), post=()):
    """pixels [N, 3, side, side] -> scores [N, 5]."""
    model = graph(
        [
            helper.make_node("Conv", ["pixels", "k"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Conv", ["r", "k2"], ["c2"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["c2"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["scores"]),
        ],
        [("pixels", FLOAT, ["n", 3, side, side])],
        [("scores", FLOAT, ["n", 5])],
        [weights("k", channels, 3, 3, 3), weights("k2", channels, channels, 3, 3), weights("w", channels, 5)],
    )
    specs = (
        [TensorSpec("pixels", "FP32", (-1, 3, side, side))],
        [TensorSpec("scores", "FP32", (-1, 5), ("cat", "dog", "cow", "hen", "pig"))],
    )
    return save(store, model, described(*specs, images=images, post=post))


def picture(side=16, **more):
    return ImageInput("pixels", side, side, **{"mean": (120.0, 110.0, 100.0), "scale": (60.0, 61.0, 62.0), **more})


BEST_TWO = (OutputStep("scores", "softmax"), OutputStep("scores", "top_k", k=2))


def pictures(store, post=BEST_TWO, **more):
    return conv(store, images=(picture(**more),), post=post)


def two_inputs(store):
    """a [N, 3], b [N, 3] -> sum [N, 3] (a + 2 b), product [N, 3]."""
    model = graph(
        [
            helper.make_node("Mul", ["b", "two"], ["bb"]),
            helper.make_node("Add", ["a", "bb"], ["sum"]),
            helper.make_node("Mul", ["a", "b"], ["product"]),
        ],
        [("a", FLOAT, ["n", 3]), ("b", FLOAT, ["n", 3])],
        [("sum", FLOAT, ["n", 3]), ("product", FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.float32(2), "two")],
    )
    specs = [TensorSpec(name, "FP32", (-1, 3)) for name in ("a", "b", "sum", "product")]
    return save(store, model, described(specs[:2], specs[2:]))


def unbatched(store):
    """x [4, 4] -> y [4, 4] (x times itself): every row depends on every other."""
    model = graph([helper.make_node("MatMul", ["x", "x"], ["y"])], [("x", FLOAT, [4, 4])], [("y", FLOAT, [4, 4])], [])
    specs = [TensorSpec("x", "FP32", (4, 4))], [TensorSpec("y", "FP32", (4, 4))]
    return save(store, model, described(*specs, batched=False))


def variable(store):
    """x [N, T, 4] -> y [N, T, 4]: the second axis varies from request to request."""
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n", "t", 4])],
        [("y", FLOAT, ["n", "t", 4])],
        [weights("w", 4, 4)],
    )
    specs = [TensorSpec("x", "FP32", (-1, -1, 4))], [TensorSpec("y", "FP32", (-1, -1, 4))]
    return save(store, model, described(*specs))


def brittle(store):
    """x [1, T] -> y [1, 2, 4]: fails at run time unless T is 8."""
    shape = numpy_helper.from_array(np.array([1, 2, 4], np.int64), "shape")
    model = graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", FLOAT, ["n", "t"])],
        [("y", FLOAT, ["n", 2, 4])],
        [shape],
    )
    return save(store, model, described([TensorSpec("x", "FP32", (-1, -1))], [TensorSpec("y", "FP32", (-1, 2, 4))]))


X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))


def fake(inputs=(X,), outputs=(Y,), **more):
    """An artifact for the fake runtime; nothing on disk."""
    return Artifact(Path(), "fake", "fake", "fa" * 32, tuple(inputs), tuple(outputs), **{"batched": True, **more})


def reference(artifact: Artifact, inputs):
    """What the reference evaluator of ONNX itself answers, without what surrounds the net."""
    from onnx.reference import ReferenceEvaluator

    names = [spec.name for spec in artifact.outputs]
    return dict(zip(names, ReferenceEvaluator(str(artifact.path)).run(names, dict(inputs)), strict=True))
