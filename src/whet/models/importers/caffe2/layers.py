"""Caffe2's operators.

Each function adds one operator to the graph and returns its first output. Definitions: ``caffe2/operators/*.cc`` in
pytorch up to 2.0; sizes of windows are rounded down.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers import onnx_ops as ops
from whet.models.importers.caffe2.fills import Blobs
from whet.models.importers.caffe2.netdef import Operator
from whet.models.importers.onnx_graph import Array, Graph, Value


@dataclass(frozen=True, slots=True)
class Context:
    """One conversion: the graph, the filled blobs, and the tensors computed so far by blob name."""

    graph: Graph
    blobs: Blobs
    values: Mapping[str, Value]

    def x(self, op: Operator, index: int = 0, rank: int = 0) -> Value:
        """Return an input as a tensor with at least ``rank`` axes.

        Raises:
            ModelError: there is no such input, or it has fewer axes.
        """
        name = op.inputs[index] if index < len(op.inputs) else ""
        if name in self.values:
            value = self.values[name]
        elif name in self.blobs:
            value = self.graph.constant(self.blobs[name], "blob")
        else:
            raise ModelError(f"{op.where} reads input {index} '{name}', which nothing before it writes")
        if len(value.shape) < rank:
            raise ModelError(f"{op.where} needs at least {rank} axes but gets {value}")
        return value

    def blob(self, op: Operator, index: int, shape: Sequence[int]) -> Array:
        """Return a stored input as float32 of ``shape``.

        Raises:
            ModelError: it is missing, computed, or of another size.
        """
        name = op.inputs[index] if index < len(op.inputs) else None
        if name not in self.blobs or name in self.values:
            raise ModelError(f"{op.where}: weight '{name}' is not filled by the init_net; name it: --weights FILE")
        array = np.asarray(self.blobs[name], np.float32)
        if array.size != math.prod(shape):
            raise ModelError(f"{op.where} needs '{name}' {list(shape)}, the init_net holds {list(array.shape)}")
        return array.reshape(tuple(shape))


OperatorFunction = Callable[[Context, Operator], Value]
"""Adds one operator to the graph and returns its first output."""


def _each(op: Operator, stem: str, default: int | None, rank: int, low: int) -> tuple[int, ...]:
    """Return one number a spatial axis from ``kernels``, ``kernel`` or ``kernel_h``/``kernel_w``."""
    found = op.integers(f"{stem}s", low)
    if not found and rank == 2 and f"{stem}_h" in op.arguments:
        found = (op.integer(f"{stem}_h", 0, low), op.integer(f"{stem}_w", 0, low))
    if not found and (default is not None or stem in op.arguments):
        found = (op.integer(stem, default or 0, low),) * rank
    if len(found) != rank:
        raise ModelError(f"{op.where}: {stem} {list(found)} does not give one number for each of {rank} spatial axes")
    return found


def _window(op: Operator, rank: int) -> ops.Window:
    op.text("order", "NCHW", ("NCHW",))
    if op.integer("legacy_pad", 0):
        raise Unsupported(
            f"{op.where}: legacy_pad {op.integer('legacy_pad', 0)} is not supported; save the net with pads"
        )
    pads = op.integers("pads", 0)
    if not pads and rank == 2 and "pad_t" in op.arguments:
        pads = tuple(op.integer(f"pad_{side}", 0, 0) for side in "tlbr")
    pads = pads or (op.integer("pad", 0, 0),) * (2 * rank)
    if len(pads) != 2 * rank:
        raise ModelError(f"{op.where}: pads {list(pads)} must be two for each of {rank} spatial axes")
    stride, dilation = _each(op, "stride", 1, rank, 1), _each(op, "dilation", 1, rank, 1)
    kernel = _each(op, "kernel", None, rank, 1)
    return ops.Window(kernel, stride, pads[:rank], pads[rank:], dilation).bounded(op.where)


def _weight_shape(c: Context, op: Operator) -> tuple[int, ...]:
    name = op.inputs[1] if len(op.inputs) > 1 else ""
    if name not in c.blobs or c.blobs[name].ndim < 2:
        raise ModelError(f"{op.where}: weight '{name}' is not filled by the init_net; name it: --weights FILE")
    return c.blobs[name].shape


def conv(c: Context, op: Operator) -> Value:
    """Groups, dilation, any number of spatial axes; order NCHW; legacy_pad is refused."""
    x, group = c.x(op, rank=3), op.integer("group", 1, 1)
    window, outputs = _window(op, len(x.shape) - 2), _weight_shape(c, op)[0]
    if x.shape[1] % group or outputs % group:
        raise ModelError(f"{op.where}: group {group} does not divide the channels of {x}")
    weight = c.blob(op, 1, (outputs, x.shape[1] // group, *window.kernel))
    bias = c.blob(op, 2, (outputs,)) if len(op.inputs) > 2 else None
    return ops.convolution(c.graph, x, weight, bias, window, group)


def conv_transpose(c: Context, op: Operator) -> Value:
    """One group, ``adj``; order NCHW."""
    x = c.x(op, rank=3)
    window, outputs = _window(op, len(x.shape) - 2), _weight_shape(c, op)[1]
    extra = _each(op, "adj", 0, len(window.kernel), 0)
    if op.integer("group", 1, 1) != 1 or any(e >= s for e, s in zip(extra, window.stride, strict=True)):
        raise Unsupported(f"{op.where}: groups, or adj {list(extra)} of stride and more, are not supported")
    weight = c.blob(op, 1, (x.shape[1], outputs, *window.kernel))
    bias = c.blob(op, 2, (outputs,)) if len(op.inputs) > 2 else None
    return ops.deconvolution(c.graph, x, weight, bias, window, 1, extra)


def pool(c: Context, op: Operator) -> Value:
    """Windowed or ``global_pooling``; AveragePool leaves the padding out unless ``count_include_pad``."""
    x, average = c.x(op, rank=3), op.type == "AveragePool"
    if op.integer("global_pooling", 0):
        op.text("order", "NCHW", ("NCHW",))
        return ops.global_pool(c.graph, x, average)
    window = _window(op, len(x.shape) - 2)
    if set(window.dilation) != {1}:
        raise Unsupported(f"{op.where}: dilation {list(window.dilation)} of a pooling is not supported")
    if average:
        zeros = (0,) * len(window.kernel)
        return ops.average_pool(c.graph, x, window, zeros, bool(op.integer("count_include_pad", 0)))
    return ops.max_pool(c.graph, x, window)


def fc(c: Context, op: Operator) -> Value:
    """Flattens from ``axis`` (1); weights ``[outputs, inputs]``."""
    x = c.x(op, rank=1)
    axis, shape = _axis(op, "axis", 1, len(x.shape)), _weight_shape(c, op)
    if op.integer("axis_w", 1) != 1:
        raise Unsupported(f"{op.where}: axis_w {op.integer('axis_w', 1)} is not supported, only 1")
    weight = c.blob(op, 1, (shape[0], math.prod(shape[1:])))
    return ops.dense(c.graph, x, weight, c.blob(op, 2, (shape[0],)), axis)


def _axis(op: Operator, name: str, default: int, rank: int) -> int:
    axis = op.integer(name, default)
    if not -rank <= axis < rank:
        raise ModelError(f"{op.where}: {name} {axis} is no axis of a tensor with {rank} axes")
    return axis % rank


def softmax(c: Context, op: Operator) -> Value:
    """Over all elements from ``axis`` (1) on together."""
    x = c.x(op, rank=1)
    axis = _axis(op, "axis", 1 if len(x.shape) > 1 else 0, len(x.shape))
    if axis == len(x.shape) - 1:
        return c.graph.op("Softmax", [x], x.shape, axis=axis)
    flat = ops.reshape(c.graph, x, (*x.shape[:axis], math.prod(x.shape[axis:])), None if axis else (-1,))
    return ops.reshape(c.graph, c.graph.op("Softmax", [flat], flat.shape, axis=axis), x.shape)


def lrn(c: Context, op: Operator) -> Value:
    """Across channels: ``x / (bias + alpha / size * sum of squares) ** beta``."""
    x, size = c.x(op, rank=2), op.integer("size", 0, 1)
    op.text("order", "NCHW", ("NCHW",))
    if size % 2 == 0:
        raise ModelError(f"{op.where}: size {size} must be odd")
    return ops.lrn(c.graph, x, size, op.number("alpha", 0.0), op.number("beta", 0.0), op.number("bias", 1.0))


def spatial_bn(c: Context, op: Operator) -> Value:
    """At test: scale, bias, mean, variance from the init_net; epsilon 1e-5 by default."""
    x = c.x(op, rank=2)
    op.text("order", "NCHW", ("NCHW",))
    return ops.batch_norm(c.graph, x, [c.blob(op, i, (x.shape[1],)) for i in range(1, 5)], op.number("epsilon", 1e-5))


def joined(onnx_op: str, said: str) -> OperatorFunction:
    """Make the function of an operator on two tensors with ``broadcast`` and ``axis``."""

    def convert(c: Context, op: Operator) -> Value:
        x, y = c.x(op), c.x(op, 1)
        if op.integer("broadcast", 0) and "axis" in op.arguments and op.integer("axis", -1) != -1:
            axis = _axis(op, "axis", -1, len(x.shape))
            if x.shape[axis : axis + len(y.shape)] == y.shape and axis:
                shape = (*y.shape, *(1 for _ in x.shape[axis + len(y.shape) :]))
                y = ops.reshape(c.graph, y, shape, shape)
        rank = max(len(x.shape), len(y.shape))
        left, right = ((1,) * (rank - len(v.shape)) + v.shape for v in (x, y))
        if any(a != b and 1 not in (a, b) for a, b in zip(left, right, strict=True)):
            raise ModelError(f"{op.where} joins {x} and {y}: the shapes do not fit")
        return c.graph.op(onnx_op, [x, y], [max(a, b) for a, b in zip(left, right, strict=True)])

    convert.__doc__ = said
    return convert


def total(c: Context, op: Operator) -> Value:
    """Sum of tensors of one shape."""
    xs = [c.x(op, index) for index in range(max(1, len(op.inputs)))]
    ops.same_shapes(c.graph, xs, "joins")
    value = xs[0]
    for x in xs[1:]:
        value = c.graph.op("Add", [value, x], x.shape)
    return value


def concat(c: Context, op: Operator) -> Value:
    """Along ``axis`` (1)."""
    xs = [c.x(op, index, 1) for index in range(max(1, len(op.inputs)))]
    op.text("order", "NCHW", ("NCHW",))
    if op.integer("add_axis", 0):
        raise Unsupported(f"{op.where}: add_axis is not supported; save the net with ExpandDims before Concat")
    axis = _axis(op, "axis", 1, len(xs[0].shape))
    ops.same_shapes(c.graph, xs, "joins", except_axis=axis)
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    return c.graph.op("Concat", xs, shape, axis=axis)


def reshape(c: Context, op: Operator) -> Value:
    """``shape``: 0 copies, -1 is the rest."""
    x = c.x(op)
    dims = op.integers("shape", -1)
    if len(op.inputs) != 1 or dims.count(-1) > 1 or any(d == 0 and i >= len(x.shape) for i, d in enumerate(dims)):
        raise Unsupported(f"{op.where} reshapes {x} to {list(dims)}: a stored shape with at most one -1 belongs there")
    shape = [d or x.shape[i] for i, d in enumerate(dims)]
    said = [0 if i == 0 and d == 0 else full for i, (d, full) in enumerate(zip(dims, shape, strict=True))]
    if -1 in shape:
        rest = -math.prod(shape)
        if math.prod(x.shape) % rest:
            raise ModelError(f"{op.where} cannot reshape {x} to {list(dims)}: the numbers of elements differ")
        shape[shape.index(-1)] = math.prod(x.shape) // rest
    return ops.reshape(c.graph, x, shape, said)


def flatten(c: Context, op: Operator) -> Value:
    """To two axes, cut at ``axis`` (1)."""
    x = c.x(op, rank=1)
    axis = op.integer("axis", 1, 0)
    if axis > len(x.shape):
        raise ModelError(f"{op.where}: axis {axis} is past the {len(x.shape)} axes of {x}")
    shape = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    return ops.reshape(c.graph, x, shape, (-1, shape[1]) if axis > 1 else (1, -1) if axis == 0 else None)


def transpose(c: Context, op: Operator) -> Value:
    """``axes``, or reversed without."""
    x = c.x(op)
    order = op.integers("axes", 0) or tuple(reversed(range(len(x.shape))))
    if sorted(order) != list(range(len(x.shape))):
        raise ModelError(f"{op.where}: axes {list(order)} is no order of the axes of {x}")
    return ops.transpose(c.graph, x, order)


def passing(c: Context, op: Operator) -> Value:
    """Nothing to compute at inference."""
    return c.x(op)


def simple(onnx_op: str, said: str) -> OperatorFunction:
    """Make the function of an operator that is one ONNX operation without arguments."""

    def convert(c: Context, op: Operator) -> Value:
        x = c.x(op)
        return c.graph.op(onnx_op, [x], x.shape)

    convert.__doc__ = said
    return convert


def sloped(onnx_op: str, default: float, said: str) -> OperatorFunction:
    """Make the function of an activation with ``alpha``."""

    def convert(c: Context, op: Operator) -> Value:
        x = c.x(op)
        return c.graph.op(onnx_op, [x], x.shape, alpha=op.number("alpha", default))

    convert.__doc__ = said
    return convert


def prelu(c: Context, op: Operator) -> Value:
    """One stored slope a channel, or one for all."""
    x = c.x(op, rank=2)
    op.text("order", "NCHW", ("NCHW",))
    count = c.blobs[op.inputs[1]].size if len(op.inputs) > 1 and op.inputs[1] in c.blobs else x.shape[1]
    if count not in (1, x.shape[1]):
        raise ModelError(f"{op.where} has {count} slopes for the {x.shape[1]} channels of {x}")
    slope = ops.spread(c.graph, c.blob(op, 1, (count,)), 1, len(x.shape), "slope")
    return c.graph.op("PRelu", [x, slope], x.shape)


def clip(c: Context, op: Operator) -> Value:
    """To ``min`` .. ``max``, each unbounded by default."""
    x, most = c.x(op), float(np.finfo(np.float32).max)
    bounds = [c.graph.constant(op.number("min", -most), "low"), c.graph.constant(op.number("max", most), "high")]
    return c.graph.op("Clip", [x, *bounds], x.shape)


SUPPORTED: dict[str, OperatorFunction] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool,
    "AveragePool": pool,
    "FC": fc,
    "Softmax": softmax,
    "LRN": lrn,
    "SpatialBN": spatial_bn,
    "Relu": simple("Relu", "``max(x, 0)``."),
    "Sigmoid": simple("Sigmoid", "``1 / (1 + exp(-x))``."),
    "Tanh": simple("Tanh", "Hyperbolic tangent."),
    "LeakyRelu": sloped("LeakyRelu", 0.01, "``alpha`` 0.01 by default."),
    "Elu": sloped("Elu", 1.0, "``alpha`` 1 by default."),
    "PRelu": prelu,
    "Clip": clip,
    "Sum": total,
    "Add": joined("Add", "``broadcast`` with ``axis``."),
    "Sub": joined("Sub", "``broadcast`` with ``axis``."),
    "Mul": joined("Mul", "``broadcast`` with ``axis``."),
    "Div": joined("Div", "``broadcast`` with ``axis``."),
    "Concat": concat,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Dropout": passing,
    "Copy": passing,
    "StopGradient": passing,
}
"""Operator type -> function. The fills of an init_net are read in ``fills``."""

DETECTORS = frozenset(
    (
        "GenerateProposals",
        "GenerateProposalsCPP",
        "RoIAlign",
        "BoxWithNMSLimit",
        "BBoxTransform",
        "If",
    )
)
"""Operators of Detectron's nets, which branch on what they find."""
