"""Caffe's layers that keep the shape: normalisation, scales, sums, activations.

Each function adds one layer to the graph and returns its tops. Definitions: BVLC/caffe ``src/caffe/layers/*.cpp`` and
``caffe.proto`` for the defaults; a fork's layer says whose definition it follows.
"""

import math
from collections.abc import Sequence

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers import onnx_ops as ops
from whet.models.importers.caffe.context import Context, LayerFunction, axis_of
from whet.models.importers.caffe.net import Layer
from whet.models.importers.caffe.prototxt import Message
from whet.models.importers.onnx_graph import Value

Values = Sequence[Value]


def batch_norm(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Blobs mean and variance, both divided by blob 2 (0 means all zeros); no scale of its own."""
    (x,) = c.bottoms(layer, values, 1)
    channels = x.shape[1] if len(x.shape) > 1 else 1
    if len(x.shape) < 2:
        raise ModelError(f"{layer.where} normalises channels [N, C, ...] but gets {x}")
    sums = float(c.blob(layer, 2, (1,))[0])
    with np.errstate(all="ignore"):  # numbers of the file, as meaningless as it gives them
        factor = np.float32(1 / sums if sums else 0)
        mean, variance = (c.blob(layer, index, (channels,)) * factor for index in (0, 1))
    ones = np.ones(channels, np.float32)
    epsilon = layer.param("batch_norm_param").number("eps", 1e-5)
    return [ops.batch_norm(c.graph, x, (ones, np.zeros(channels, np.float32), mean, variance), epsilon)]


def fork_bn(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Fork layer: SegNet's (blobs scale, shift) or PSPNet's (blobs scale, shift, mean, variance) by their number."""
    (x,) = c.bottoms(layer, values, 1)
    count = len(c.blobs(layer))
    if len(x.shape) < 2 or count not in (0, 2, 4):
        raise Unsupported(f"{layer.where} has {count} blobs on {x}; known are SegNet's BN with 2 and PSPNet's with 4")
    blobs = [c.blob(layer, index, (x.shape[1],)) for index in range(count or 2)]
    if count == 4:
        return [ops.batch_norm(c.graph, x, blobs, layer.param("bn_param").number("eps", 1e-5))]
    scale, shift = (ops.spread(c.graph, blob, 1, len(x.shape)) for blob in blobs)
    return [c.graph.op("Add", [c.graph.op("Mul", [x, scale], x.shape), shift], x.shape)]


def _against(c: Context, layer: Layer, values: Values, block: Message) -> tuple[Value, Value, int]:
    """Return (x, what it meets broadcast to x's axes, first axis) for Scale and Bias: a second bottom or a blob."""
    x, *others = c.bottoms(layer, values, 1, 2)
    axis = axis_of(block, "axis", 1, len(x.shape))
    if others:
        (other,) = others
        span = len(other.shape)
        if other.shape != x.shape[axis : axis + span]:
            raise ModelError(f"{layer.where} meets {x} and {other} at axis {axis}: the shapes do not fit")
        shape = (*(1,) * axis, *other.shape, *(1,) * (len(x.shape) - axis - span))
        return x, ops.reshape(c.graph, other, shape, None if axis == 0 and span else shape), axis
    span = block.integer("num_axes", 1, -1, 32)
    shape = x.shape[axis:] if span == -1 else x.shape[axis : axis + span]
    if span > len(x.shape) - axis:
        raise ModelError(f"{layer.where}: num_axes {span} from axis {axis} is more than {x} has")
    return x, ops.spread(c.graph, c.blob(layer, 0, shape), axis, len(x.shape), "factor"), axis


def scale(c: Context, layer: Layer, values: Values) -> list[Value]:
    """By a learned blob or a second bottom, from ``axis`` on; with ``bias_term`` a learned shift."""
    block = layer.param("scale_param")
    x, factor, axis = _against(c, layer, values, block)
    y = c.graph.op("Mul", [x, factor], x.shape)
    if not block.flag("bias_term", False):
        return [y]
    span = len(values[1].shape) if len(values) > 1 else block.integer("num_axes", 1, -1, 32)
    shape = x.shape[axis:] if span == -1 else x.shape[axis : axis + span]
    shift = ops.spread(c.graph, c.blob(layer, 2 - len(values), shape), axis, len(x.shape), "shift")
    return [c.graph.op("Add", [y, shift], x.shape)]


def bias(c: Context, layer: Layer, values: Values) -> list[Value]:
    """A learned blob or a second bottom is added, from ``axis`` on."""
    x, shift, _ = _against(c, layer, values, layer.param("bias_param"))
    return [c.graph.op("Add", [x, shift], x.shape)]


def eltwise(c: Context, layer: Layer, values: Values) -> list[Value]:
    """PROD, SUM with ``coeff``, MAX of tensors of one shape."""
    xs = c.bottoms(layer, values, 1, 1000)
    ops.same_shapes(c.graph, xs, "joins")
    block = layer.param("eltwise_param")
    operation = block.choice("operation", "SUM", ("PROD", "SUM", "MAX", "0", "1", "2"))
    coefficients = block.numbers("coeff")
    if coefficients and (len(coefficients) != len(xs) or operation not in ("SUM", "1")):
        raise ModelError(f"{layer.where} has {len(coefficients)} coeff for {len(xs)} bottoms; SUM takes one a bottom")
    g, shape = c.graph, xs[0].shape
    if coefficients:
        xs = [
            x if factor == 1 else g.op("Mul", [x, g.constant(factor, "coeff")], shape)
            for x, factor in zip(xs, coefficients, strict=True)
        ]
    name = {"PROD": "Mul", "0": "Mul", "MAX": "Max", "2": "Max"}.get(operation, "Add")
    total = xs[0]
    for x in xs[1:]:
        total = g.op(name, [total, x], shape)
    return [total]


def softmax(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Along ``axis`` (1)."""
    (x,) = c.bottoms(layer, values, 1)
    axis = axis_of(layer.param("softmax_param"), "axis", 1, len(x.shape))
    return [c.graph.op("Softmax", [x], x.shape, axis=axis)]


def simple(op: str, said: str) -> LayerFunction:
    """Make the function of a layer that is one ONNX operation without parameters."""

    def convert(c: Context, layer: Layer, values: Values) -> list[Value]:
        (x,) = c.bottoms(layer, values, 1)
        return [c.graph.op(op, [x], x.shape)]

    convert.__doc__ = said
    return convert


def relu(c: Context, layer: Layer, values: Values) -> list[Value]:
    """With ``negative_slope``."""
    (x,) = c.bottoms(layer, values, 1)
    slope = layer.param("relu_param").number("negative_slope", 0.0)
    return [c.graph.op("LeakyRelu", [x], x.shape, alpha=slope) if slope else c.graph.op("Relu", [x], x.shape)]


def prelu(c: Context, layer: Layer, values: Values) -> list[Value]:
    """One learned slope a channel, or one for all (``channel_shared``)."""
    (x,) = c.bottoms(layer, values, 1)
    if len(x.shape) < 2:
        raise ModelError(f"{layer.where} wants channels [N, C, ...] but gets {x}")
    shared = layer.param("prelu_param").flag("channel_shared", False)
    slope = c.blob(layer, 0, (1 if shared else x.shape[1],))
    return [c.graph.op("PRelu", [x, ops.spread(c.graph, slope, 1, len(x.shape), "slope")], x.shape)]


def elu(c: Context, layer: Layer, values: Values) -> list[Value]:
    """With ``alpha``."""
    (x,) = c.bottoms(layer, values, 1)
    return [c.graph.op("Elu", [x], x.shape, alpha=layer.param("elu_param").number("alpha", 1.0))]


def _clip(c: Context, x: Value, low: float, high: float) -> Value:
    return c.graph.op("Clip", [x, c.graph.constant(low, "low"), c.graph.constant(high, "high")], x.shape)


def clip(c: Context, layer: Layer, values: Values) -> list[Value]:
    """To ``min`` .. ``max``."""
    (x,) = c.bottoms(layer, values, 1)
    block = layer.param("clip_param")
    if "min" not in block or "max" not in block:
        raise ModelError(f"{layer.where} lacks min or max, which have no default")
    return [_clip(c, x, block.number("min", 0), block.number("max", 0))]


def relu6(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Fork layer: to 0 .. 6."""
    (x,) = c.bottoms(layer, values, 1)
    return [_clip(c, x, 0.0, 6.0)]


def swish(c: Context, layer: Layer, values: Values) -> list[Value]:
    """``x * sigmoid(beta * x)``."""
    (x,) = c.bottoms(layer, values, 1)
    beta = c.graph.constant(layer.param("swish_param").number("beta", 1.0), "beta")
    gate = c.graph.op("Sigmoid", [c.graph.op("Mul", [x, beta], x.shape)], x.shape)
    return [c.graph.op("Mul", [x, gate], x.shape)]


def _affine(c: Context, x: Value, factor: float, shift: float) -> Value:
    if factor != 1:
        x = c.graph.op("Mul", [x, c.graph.constant(factor, "scale")], x.shape)
    return c.graph.op("Add", [x, c.graph.constant(shift, "shift")], x.shape) if shift else x


def power(c: Context, layer: Layer, values: Values) -> list[Value]:
    """``(shift + scale * x) ** power``."""
    (x,) = c.bottoms(layer, values, 1)
    block = layer.param("power_param")
    y = _affine(c, x, block.number("scale", 1.0), block.number("shift", 0.0))
    exponent = block.number("power", 1.0)
    return [y if exponent == 1 else c.graph.op("Pow", [y, c.graph.constant(exponent, "power")], x.shape)]


def _log_of(block: Message) -> float:
    base = block.number("base", -1.0)
    if base != -1 and base <= 0:
        raise ModelError(f"{block.where}: base {base} has no logarithm; -1 stands for e")
    return 1.0 if base == -1 else math.log(base)


def exponential(c: Context, layer: Layer, values: Values) -> list[Value]:
    """``base ** (shift + scale * x)``; base -1 is e."""
    (x,) = c.bottoms(layer, values, 1)
    block = layer.param("exp_param")
    log = _log_of(block)
    return [
        c.graph.op("Exp", [_affine(c, x, block.number("scale", 1.0) * log, block.number("shift", 0.0) * log)], x.shape)
    ]


def logarithm(c: Context, layer: Layer, values: Values) -> list[Value]:
    """``log_base(shift + scale * x)``; base -1 is e."""
    (x,) = c.bottoms(layer, values, 1)
    block = layer.param("log_param")
    log = _log_of(block)
    if not log:
        raise ModelError(f"{layer.where}: base 1 has no logarithm; -1 stands for e")
    inner = _affine(c, x, block.number("scale", 1.0), block.number("shift", 0.0))
    return [_affine(c, c.graph.op("Log", [inner], x.shape), 1 / log, 0.0)]


def threshold(c: Context, layer: Layer, values: Values) -> list[Value]:
    """1 where ``x > threshold``, else 0."""
    (x,) = c.bottoms(layer, values, 1)
    bound = c.graph.constant(layer.param("threshold_param").number("threshold", 0.0), "threshold")
    return [c.graph.op("Cast", [c.graph.op("Greater", [x, bound], x.shape)], x.shape, to=1)]


def mvn(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Each channel (or sample, ``across_channels``) to mean 0 and, with ``normalize_variance``, deviation 1."""
    (x,) = c.bottoms(layer, values, 1)
    block, g = layer.param("mvn_param"), c.graph
    first = 1 if block.flag("across_channels", False) else 2
    axes = tuple(range(min(first, len(x.shape)), len(x.shape)))
    if not axes:
        raise ModelError(f"{layer.where} wants images [N, C, H, W] but gets {x}")
    kept = tuple(1 if axis in axes else d for axis, d in enumerate(x.shape))
    centred = g.op("Sub", [x, g.op("ReduceMean", [x], kept, axes=axes, keepdims=1)], x.shape)
    if not block.flag("normalize_variance", True):
        return [centred]
    variance = g.op("ReduceMean", [g.op("Mul", [centred, centred], x.shape)], kept, axes=axes, keepdims=1)
    deviation = g.op("Add", [g.op("Sqrt", [variance], kept), g.constant(block.number("eps", 1e-9), "eps")], kept)
    return [g.op("Div", [centred, deviation], x.shape)]


def normalize(c: Context, layer: Layer, values: Values) -> list[Value]:
    """SSD's: divided by the root of the sum of squares (over channels, or all), times learned scales."""
    x, g = c.images(layer, values), c.graph
    block = layer.param("norm_param")
    across = block.flag("across_spatial", True)
    axes = tuple(range(1, len(x.shape))) if across else (1,)
    kept = tuple(1 if axis in axes else d for axis, d in enumerate(x.shape))
    total = g.op("ReduceSum", [g.op("Mul", [x, x], x.shape), g.indices(list(axes), "axes")], kept, keepdims=1)
    root = g.op("Sqrt", [g.op("Add", [total, g.constant(block.number("eps", 1e-10), "eps")], kept)], kept)
    shared = block.flag("channel_shared", True)
    factor = ops.spread(g, c.blob(layer, 0, (1 if shared else x.shape[1],)), 1, len(x.shape), "factor")
    return [g.op("Mul", [g.op("Div", [x, root], x.shape), factor], x.shape)]


def axpy(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Fork layer (SENet): ``a * x + y`` with one ``a`` a channel."""
    a, x, y = c.bottoms(layer, values, 3)
    ops.same_shapes(c.graph, (x, y), "adds")
    if a.shape[:2] != x.shape[:2] or math.prod(a.shape[2:]) != 1 or len(x.shape) < 2:
        raise ModelError(f"{layer.where} scales the channels of {x} by {a}: the shapes do not fit")
    factor = ops.reshape(c.graph, a, (*x.shape[:2], *(1 for _ in x.shape[2:])))
    return [c.graph.op("Add", [c.graph.op("Mul", [factor, x], x.shape), y], x.shape)]
