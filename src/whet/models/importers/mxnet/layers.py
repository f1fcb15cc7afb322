"""MXNet's neural-network operators.

Each function adds one node to the graph and returns its outputs. Definitions: apache/mxnet 1.9 ``src/operator/nn/*``,
``src/operator/*-inl.h``; the defaults are those of the ``DMLC_DECLARE_FIELD`` lines there.
"""

import math
from collections.abc import Sequence

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers import onnx_ops as ops
from whet.models.importers.mxnet.context import (
    Context,
    Operand,
    OperatorFunction,
    Weight,
    axis_of,
    one,
    operands,
    ranked,
)
from whet.models.importers.mxnet.symbol import Node
from whet.models.importers.onnx_graph import UNKNOWN, Array, Value

Operands = Sequence[Operand]
_LAYOUTS = ("NCHW", "NCW", "NCDHW", "None", "")


def _window(node: Node, rank: int, *, dilated: bool = True) -> ops.Window:
    kernel, ones = node.integers("kernel", (), 1), (1,) * rank
    stride = node.integers("stride", ones, 1) or ones
    pad = node.integers("pad", (0,) * rank, 0) or (0,) * rank
    dilation = (node.integers("dilate", ones, 1) or ones) if dilated else ones
    if {len(kernel), len(stride), len(pad), len(dilation)} != {rank}:
        raise ModelError(f"{node.where}: kernel {kernel}, stride {stride}, pad {pad} do not fit {rank} spatial axes")
    return ops.Window(kernel, stride, pad, pad, dilation).bounded(node.where)


def _convolved(c: Context, node: Node, given: Operands, *, bare: bool) -> tuple[Value, ops.Window, int, int, Operands]:
    found = operands(node, given, 2 if node.flag("no_bias", bare) else 3, 3)
    x = ranked(node, c.value(found[0]), 3)
    node.text("layout", "None", _LAYOUTS)
    outputs, group = node.integer("num_filter", 0, 1), node.integer("num_group", 1, 1)
    if not outputs or x.shape[1] % group or outputs % group:
        raise ModelError(f"{node.where}: num_filter {outputs} and num_group {group} do not divide the channels of {x}")
    return x, _window(node, len(x.shape) - 2), outputs, group, found[1:]


def _bias(c: Context, node: Node, weights: Operands, outputs: int, *, bare: bool) -> Array | None:
    return None if node.flag("no_bias", bare) else c.array(node, weights[1], (outputs,))


def convolution(c: Context, node: Node, given: Operands) -> list[Value]:
    """Groups, dilation, any number of spatial axes; layout NCHW."""
    x, window, outputs, group, weights = _convolved(c, node, given, bare=False)
    weight = c.array(node, weights[0], (outputs, x.shape[1] // group, *window.kernel))
    return [ops.convolution(c.graph, x, weight, _bias(c, node, weights, outputs, bare=False), window, group)]


def deconvolution(c: Context, node: Node, given: Operands) -> list[Value]:
    """Groups, dilation, ``adj``; no bias by default; ``target_shape`` is refused."""
    x, window, outputs, group, weights = _convolved(c, node, given, bare=True)
    if any(node.integers("target_shape")):
        raise Unsupported(f"{node.where}: target_shape is not supported; save the net with pad and adj instead")
    extra = node.integers("adj", (), 0)
    if len(extra) not in (0, len(window.kernel)) or any(e >= s for e, s in zip(extra, window.stride, strict=False)):
        raise ModelError(
            f"{node.where}: adj {extra} must be one number a spatial axis, each below stride {window.stride}"
        )
    weight = c.array(node, weights[0], (x.shape[1], outputs // group, *window.kernel))
    bias = _bias(c, node, weights, outputs, bare=True)
    return [ops.deconvolution(c.graph, x, weight, bias, window, group, extra)]


def fully_connected(c: Context, node: Node, given: Operands) -> list[Value]:
    """Flattens each sample, or works on the last axis with ``flatten=False``."""
    bare = node.flag("no_bias", False)
    x, *weights = operands(node, given, 2 if bare else 3, 3)
    x = ranked(node, c.value(x), 1 if node.flag("flatten", True) else 2)
    axis = min(1, len(x.shape)) if node.flag("flatten", True) else len(x.shape) - 1
    outputs = node.integer("num_hidden", 0, 1)
    if not outputs:
        raise ModelError(f"{node.where} lacks num_hidden")
    weight = c.array(node, weights[0], (outputs, math.prod(x.shape[axis:])))
    return [ops.dense(c.graph, x, weight, None if bare else c.array(node, weights[1], (outputs,)), axis)]


def batch_norm(c: Context, node: Node, given: Operands) -> list[Value]:
    """``fix_gamma`` (the default) takes gamma as 1 whatever the file holds; eps 1e-3 by default."""
    found = list(given)
    if len(found) == 3:  # version 0.8 does not list the running statistics
        for name in (f"{node.name}_moving_mean", f"{node.name}_moving_var"):
            if name not in c.params:
                raise ModelError(f"{node.where} needs '{name}', which the weights do not hold")
            found.append(Weight(name, c.params[name]))
    x, *weights = operands(node, found, 5)
    x = ranked(node, c.value(x), 1)
    axis = axis_of(node, "axis", min(1, len(x.shape) - 1), len(x.shape))
    gamma, beta, mean, variance = (c.array(node, weight, (x.shape[axis],)) for weight in weights)
    if node.flag("fix_gamma", True):
        gamma = np.ones_like(gamma)
    epsilon = node.number("eps", 1e-3)
    if axis == 1:
        return [ops.batch_norm(c.graph, x, (gamma, beta, mean, variance), epsilon)]
    with np.errstate(all="ignore"):  # numbers of the file, as meaningless as it gives them
        factor = gamma / np.sqrt(variance + np.float32(epsilon))
        shift = beta - mean * factor
    rank = len(x.shape)
    y = c.graph.op("Mul", [x, ops.spread(c.graph, factor, axis, rank, "factor")], x.shape)
    return [c.graph.op("Add", [y, ops.spread(c.graph, shift, axis, rank, "shift")], x.shape)]


def pooling(c: Context, node: Node, given: Operands) -> list[Value]:
    """max, avg, sum; global or windowed; ``valid`` (down) and ``full`` (up, keeping windows wholly in padding)."""
    x = one(c, node, given, 3)
    node.text("layout", "None", _LAYOUTS)
    kind = node.text("pool_type", "max", ("max", "avg", "sum"))
    if node.flag("global_pool", False):
        if kind == "sum":
            axes = list(range(2, len(x.shape)))
            shape = (*x.shape[:2], *(1 for _ in axes))
            return [c.graph.op("ReduceSum", [x, c.graph.indices(axes, "axes")], shape, keepdims=1)]
        return [ops.global_pool(c.graph, x, kind == "avg")]
    window = _window(node, len(x.shape) - 2, dilated=False)
    up = node.text("pooling_convention", "valid", ("valid", "full")) == "full"
    sides = list(zip(x.shape[2:], window.kernel, window.stride, window.begin, strict=True))
    if any(size + 2 * p < k for size, k, _, p in sides):
        raise ModelError(f"{node.where}: window {window.kernel} is larger than {x}; the input is too small")
    overhang = tuple(-(size + 2 * p - k) % s if up else 0 for size, k, s, p in sides)
    end = tuple(p + more for p, more in zip(window.end, overhang, strict=True))
    wide = ops.Window(window.kernel, window.stride, window.begin, end, window.dilation)
    if kind == "max":
        return [ops.max_pool(c.graph, x, wide)]
    if kind == "sum":
        return [ops.sum_pool(c.graph, x, wide)]
    return [ops.average_pool(c.graph, x, wide, overhang, node.flag("count_include_pad", True))]


_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}


def activation(c: Context, node: Node, given: Operands) -> list[Value]:
    """relu, sigmoid, tanh, softrelu, softsign."""
    x = one(c, node, given)
    return [c.graph.op(_ACTIVATIONS[node.text("act_type", "", _ACTIVATIONS)], [x], x.shape)]


def leaky_relu(c: Context, node: Node, given: Operands) -> list[Value]:
    """Leaky (slope 0.25), prelu, elu, selu, gelu; rrelu with its mean slope."""
    kind = node.text("act_type", "leaky", ("leaky", "prelu", "elu", "selu", "gelu", "rrelu"))
    x, *weights = operands(node, given, 2 if kind == "prelu" else 1)
    x, g = c.value(x), c.graph
    if kind == "prelu":
        ranked(node, x, 2)
        count = math.prod(weights[0].shape)
        if count not in (1, x.shape[1]):
            raise ModelError(f"{node.where} has {count} slopes for the {x.shape[1]} channels of {x}")
        return [g.op("PRelu", [x, ops.spread(g, c.array(node, weights[0], (count,)), 1, len(x.shape))], x.shape)]
    slope = node.number("slope", 0.25)
    if kind == "elu":
        return [g.op("Elu", [x], x.shape, alpha=slope)]
    if kind == "selu":
        return [g.op("Selu", [x], x.shape)]
    if kind == "gelu":  # x * (1 + erf(x / sqrt 2)) / 2
        erf = g.op("Erf", [g.op("Mul", [x, g.constant(math.sqrt(0.5))], x.shape)], x.shape)
        half = g.op("Mul", [x, g.constant(0.5)], x.shape)
        return [g.op("Mul", [half, g.op("Add", [erf, g.constant(1.0)], x.shape)], x.shape)]
    if kind == "rrelu":
        slope = (node.number("lower_bound", 0.125) + node.number("upper_bound", 0.334)) / 2
    return [g.op("LeakyRelu", [x], x.shape, alpha=slope)]


def lrn(c: Context, node: Node, given: Operands) -> list[Value]:
    """Across channels: ``x / (knorm + alpha / nsize * sum of squares) ** beta``."""
    x, size = one(c, node, given, 2), node.integer("nsize", 0, 1)
    if size % 2 == 0:
        raise ModelError(f"{node.where}: nsize {size} must be odd")
    return [ops.lrn(c.graph, x, size, node.number("alpha", 1e-4), node.number("beta", 0.75), node.number("knorm", 2.0))]


def instance_norm(c: Context, node: Node, given: Operands) -> list[Value]:
    """Each channel of each sample; eps 1e-3 by default."""
    x, *weights = operands(node, given, 3)
    x = ranked(node, c.value(x), 3)
    scale, shift = (c.graph.constant(c.array(node, weight, (x.shape[1],)), "affine") for weight in weights)
    return [c.graph.op("InstanceNormalization", [x, scale, shift], x.shape, epsilon=node.number("eps", 1e-3))]


def l2_normalization(c: Context, node: Node, given: Operands) -> list[Value]:
    """instance, channel or spatial: divided by the root of the sum of squares plus eps."""
    mode = node.text("mode", "instance", ("instance", "channel", "spatial"))
    x, g = one(c, node, given, 2 if mode == "instance" else 3), c.graph  # as MXNet asks; no axes would mean all of them
    axes = {"instance": range(1, len(x.shape)), "channel": (1,), "spatial": range(2, len(x.shape))}[mode]
    kept = tuple(1 if axis in axes else d for axis, d in enumerate(x.shape))
    squares = g.op("Mul", [x, x], x.shape)
    total = g.op("ReduceSum", [squares, g.indices(list(axes), "axes")], kept, keepdims=1)
    total = g.op("Add", [total, g.constant(node.number("eps", 1e-10), "eps")], kept)
    return [g.op("Div", [x, g.op("Sqrt", [total], kept)], x.shape)]


def softmax(c: Context, node: Node, given: Operands) -> list[Value]:
    """Along ``axis`` (the last); ``temperature``."""
    x = one(c, node, given, 1)
    axis = axis_of(node, "axis", -1, len(x.shape))
    heat = node.number("temperature", 1.0)
    if not heat or node.flag("use_length", False):
        raise Unsupported(f"{node.where}: temperature {heat} or use_length is not supported")
    if heat != 1:
        x = c.graph.op("Div", [x, c.graph.constant(heat, "temperature")], x.shape)
    return [c.graph.op("LogSoftmax" if node.op == "log_softmax" else "Softmax", [x], x.shape, axis=axis)]


def softmax_activation(c: Context, node: Node, given: Operands) -> list[Value]:
    """instance: all of a sample; channel: axis 1."""
    x = one(c, node, given, 2)
    if node.text("mode", "instance", ("instance", "channel")) == "channel":
        return [c.graph.op("Softmax", [x], x.shape, axis=1)]
    return [_softmax_of_samples(c, x)]


def softmax_output(c: Context, node: Node, given: Operands) -> list[Value]:
    """The label is dropped: all of a sample, axis 1 (``multi_output``), or the last axis (``preserve_shape``)."""
    x = ranked(node, c.value(operands(node, given, 1, 2)[0]), 2)
    if node.flag("multi_output", False):
        return [c.graph.op("Softmax", [x], x.shape, axis=1)]
    if node.flag("preserve_shape", False):
        return [c.graph.op("Softmax", [x], x.shape, axis=len(x.shape) - 1)]
    return [_softmax_of_samples(c, x)]


def _softmax_of_samples(c: Context, x: Value) -> Value:
    if len(x.shape) == 2:
        return c.graph.op("Softmax", [x], x.shape, axis=1)
    flat = ops.reshape(c.graph, x, (x.shape[0], math.prod(x.shape[1:])))
    return ops.reshape(c.graph, c.graph.op("Softmax", [flat], flat.shape, axis=1), x.shape)


def regression_output(c: Context, node: Node, given: Operands) -> list[Value]:
    """The label is dropped: the input itself, or its sigmoid for LogisticRegressionOutput."""
    x = c.value(operands(node, given, 1, 2)[0])
    return [c.graph.op("Sigmoid", [x], x.shape) if node.op.startswith("Logistic") else x]


def up_sampling(c: Context, node: Node, given: Operands) -> list[Value]:
    """nearest, an integer ``scale``."""
    x = one(c, node, given, 4)
    node.text("sample_type", "", ("nearest",))
    factor = node.integer("scale", 0, 1)
    if not 0 < factor <= 64 or len(x.shape) != 4:
        raise ModelError(f"{node.where}: scale {factor} of {x}; 1 to 64 and four axes belong there")
    scales = c.graph.constant([1, 1, factor, factor], "scales")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [c.graph.op("Resize", [x, None, scales], (*x.shape[:2], *(d * factor for d in x.shape[2:])), **how)]


def embedding(c: Context, node: Node, given: Operands) -> list[Value]:
    """A stored row for each index; indices come as floats."""
    x, weight = operands(node, given, 2)
    x, rows = c.value(x), node.integer("input_dim", 0, 1)
    table = c.array(node, weight, (rows, UNKNOWN))
    where = c.graph.op("Cast", [x], x.shape, to=7)
    return [c.graph.op("Gather", [c.graph.constant(table, "weight"), where], (*x.shape, table.shape[1]), axis=0)]


def simple(op: str, said: str) -> OperatorFunction:
    """Make the function of an operator that is one ONNX operation without parameters."""

    def convert(c: Context, node: Node, given: Operands) -> list[Value]:
        x = one(c, node, given)
        return [c.graph.op(op, [x], x.shape)]

    convert.__doc__ = said
    return convert
