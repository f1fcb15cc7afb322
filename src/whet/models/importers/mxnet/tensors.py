"""MXNet's operators on tensors: arithmetic, shapes, cutting and joining.

Each function adds one node to the graph and returns its outputs. Definitions: apache/mxnet 1.9
``src/operator/tensor/*``; the defaults are those of the ``DMLC_DECLARE_FIELD`` lines there.
"""

import math
from collections.abc import Sequence

from whet.errors import ModelError, Unsupported
from whet.models.importers import onnx_ops as ops
from whet.models.importers.mxnet.context import Context, Operand, OperatorFunction, axis_of, one, operands, ranked
from whet.models.importers.mxnet.symbol import Node
from whet.models.importers.onnx_graph import Value

Operands = Sequence[Operand]


def passing(c: Context, node: Node, given: Operands) -> list[Value]:
    """Nothing to compute at inference."""
    return [one(c, node, given)]


def joined(op: str, said: str, *, spread: bool = False) -> OperatorFunction:
    """Make the function of an element-by-element operator on two tensors (or more, for sums)."""

    def convert(c: Context, node: Node, given: Operands) -> list[Value]:
        xs = [
            c.value(operand) for operand in operands(node, given, 1 if op == "Add" else 2, 1000 if op == "Add" else 2)
        ]
        if not spread:
            ops.same_shapes(c.graph, xs, "joins")
        total = xs[0]
        for x in xs[1:]:
            total = c.graph.op(op, [total, x], _broadcast(node, total, x))
        return [total]

    convert.__doc__ = said
    return convert


def _broadcast(node: Node, left: Value, right: Value) -> tuple[int, ...]:
    rank = max(len(left.shape), len(right.shape))
    padded = [(1,) * (rank - len(x.shape)) + x.shape for x in (left, right)]
    if any(a != b and 1 not in (a, b) for a, b in zip(*padded, strict=True)):
        raise ModelError(f"{node.where} joins {left} and {right}: the shapes do not fit")
    return tuple(max(a, b) for a, b in zip(*padded, strict=True))


def scalar(op: str, said: str, *, turned: bool = False) -> OperatorFunction:
    """Make the function of an operator on a tensor and the number in ``scalar``; ``turned`` puts the number first."""

    def convert(c: Context, node: Node, given: Operands) -> list[Value]:
        x = one(c, node, given)
        number = c.graph.constant(node.number("scalar", 0.0), "scalar")
        return [c.graph.op(op, [number, x] if turned else [x, number], x.shape)]

    convert.__doc__ = said
    return convert


def square(c: Context, node: Node, given: Operands) -> list[Value]:
    """``x * x``."""
    x = one(c, node, given)
    return [c.graph.op("Mul", [x, x], x.shape)]


def clip(c: Context, node: Node, given: Operands) -> list[Value]:
    """To ``a_min`` .. ``a_max``."""
    x = one(c, node, given)
    if not {"a_min", "a_max"} <= node.attributes.keys():
        raise ModelError(f"{node.where} lacks a_min or a_max, which have no default")
    bounds = [c.graph.constant(node.number(key, 0), key) for key in ("a_min", "a_max")]
    return [c.graph.op("Clip", [x, *bounds], x.shape)]


def cast(c: Context, node: Node, given: Operands) -> list[Value]:
    """To float32 only, which every tensor here is."""
    node.text("dtype", "", ("float32", "0"))
    return [one(c, node, given)]


def flatten(c: Context, node: Node, given: Operands) -> list[Value]:
    """All axes but the first."""
    x = one(c, node, given, 1)
    return [ops.reshape(c.graph, x, (x.shape[0], math.prod(x.shape[1:])))]


def reshape(c: Context, node: Node, given: Operands) -> list[Value]:
    """All codes: 0 copies, -1 is the rest, -2 all that is left, -3 joins two axes, -4 splits one."""
    x = one(c, node, given)
    codes = node.integers("shape", ()) or node.integers("target_shape", ())
    if node.flag("reverse", False) or not codes:
        raise Unsupported(f"{node.where}: reverse, or no shape at all, is not supported; give a shape")
    said = _resolved(node, x, codes)
    shape = list(said)
    if -1 in shape:
        rest = -math.prod(shape)
        if said.count(-1) > 1 or rest <= 0 or math.prod(x.shape) % rest:
            raise ModelError(f"{node.where} cannot reshape {x} to {list(codes)}: the numbers of elements differ")
        shape[shape.index(-1)] = math.prod(x.shape) // rest
    if codes[0] in (0, -2):
        said[0] = 0  # the batch is copied, whatever it is
    return [ops.reshape(c.graph, x, shape, said)]


def _resolved(node: Node, x: Value, codes: Sequence[int]) -> list[int]:
    """Turn the codes into sizes, leaving at most -1."""
    sizes: list[int] = []
    left, todo = list(x.shape), list(codes)
    try:
        while todo:
            code = todo.pop(0)
            if code == -2:
                sizes, left = sizes + left, []
            elif code == -3:
                sizes.append(left.pop(0) * left.pop(0))
            elif code == -4:
                whole, parts = left.pop(0), [todo.pop(0), todo.pop(0)]
                if -1 in parts and max(parts) > 0 and whole % max(parts) == 0:
                    parts[parts.index(-1)] = whole // max(parts)
                if math.prod(parts) != whole:
                    raise ModelError(f"{node.where}: -4 splits an axis of {whole} into {parts}; the product differs")
                sizes += parts
            elif code >= -1:
                taken = left.pop(0) if left else 0
                sizes.append(code or taken)
            else:
                raise ModelError(f"{node.where}: {code} is no code of a shape")
    except IndexError:
        raise ModelError(f"{node.where}: shape {list(codes)} asks for more axes than {x} has") from None
    return sizes


def transpose(c: Context, node: Node, given: Operands) -> list[Value]:
    """``axes``, or reversed without."""
    x = one(c, node, given)
    rank = len(x.shape)
    order = node.integers("axes") or tuple(reversed(range(rank)))
    if sorted(axis % rank if rank else axis for axis in order) != list(range(rank)):
        raise ModelError(f"{node.where}: axes {list(order)} is no order of the axes of {x}")
    return [ops.transpose(c.graph, x, [axis % rank for axis in order])]


def swap_axis(c: Context, node: Node, given: Operands) -> list[Value]:
    """``dim1`` and ``dim2`` change places."""
    x = one(c, node, given, 1)
    order = list(range(len(x.shape)))
    first, second = (axis_of(node, key, 0, len(order)) for key in ("dim1", "dim2"))
    order[first], order[second] = order[second], order[first]
    return [ops.transpose(c.graph, x, order)]


def expand_dims(c: Context, node: Node, given: Operands) -> list[Value]:
    """A new axis of size 1 at ``axis``."""
    x = one(c, node, given)
    axis = axis_of(node, "axis", 0, len(x.shape) + 1)
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    return [c.graph.op("Unsqueeze", [x, c.graph.indices([axis], "axes")], shape)]


def squeeze(c: Context, node: Node, given: Operands) -> list[Value]:
    """The axes of size 1 in ``axis``; without it, all but the first, which is the batch's."""
    x = one(c, node, given, 1)
    rank = len(x.shape)
    said = node.integers("axis", tuple(i for i, d in enumerate(x.shape) if i and d == 1))
    axes = sorted({axis % rank for axis in said})
    if any(x.shape[axis] != 1 for axis in axes):
        raise ModelError(f"{node.where} removes axes {axes} of {x}; only axes of size 1 can go")
    shape = [d for axis, d in enumerate(x.shape) if axis not in axes]
    return [c.graph.op("Squeeze", [x, c.graph.indices(axes, "axes")], shape) if axes else x]


def concat(c: Context, node: Node, given: Operands) -> list[Value]:
    """Along ``dim`` (1)."""
    xs = [c.value(operand) for operand in operands(node, given, 1, 10_000)]
    axis = axis_of(node, "dim", 1, len(xs[0].shape))
    ops.same_shapes(c.graph, xs, "joins", except_axis=axis)
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    return [c.graph.op("Concat", xs, shape, axis=axis)]


def slice_channel(c: Context, node: Node, given: Operands) -> list[Value]:
    """``num_outputs`` equal parts along ``axis`` (1); ``squeeze_axis`` removes it where the parts have size 1."""
    x, g = one(c, node, given, 1), c.graph
    axis, count = axis_of(node, "axis", 1, len(x.shape)), node.integer("num_outputs", 0, 1)
    if not 0 < count <= x.shape[axis] or x.shape[axis] % count:
        raise ModelError(f"{node.where} cuts axis {axis} of {x} into {count} equal parts; the sizes do not fit")
    part = x.shape[axis] // count
    shape = (*x.shape[:axis], part, *x.shape[axis + 1 :])
    parts = g.ops("Split", [x, g.indices([part] * count, "parts")], [shape] * count, axis=axis) if count > 1 else [x]
    if not node.flag("squeeze_axis", False) or part != 1:
        return parts
    bare = (*shape[:axis], *shape[axis + 1 :])
    return [g.op("Squeeze", [one_part, g.indices([axis], "axes")], bare) for one_part in parts]


def slice_axis(c: Context, node: Node, given: Operands) -> list[Value]:
    """From ``begin`` to ``end`` along ``axis``."""
    x = one(c, node, given, 1)
    axis = axis_of(node, "axis", 0, len(x.shape))
    size = x.shape[axis]
    begin, end = node.integer("begin", 0), node.integer("end", size)
    begin, end = (place + size if place < 0 else min(place, size) for place in (begin, end))
    return [_cut(c, node, x, {axis: (begin, end)})]


def crop(c: Context, node: Node, given: Operands) -> list[Value]:
    """To ``h_w`` or the size of a second input, at ``offset`` or in the middle."""
    x, *like = (c.value(operand) for operand in operands(node, given, 1, 2))
    ranked(node, x, 4)
    sizes = like[0].shape[2:] if like else node.integers("h_w", (), 1)
    offsets = node.integers("offset", (0, 0), 0)
    if len(sizes) != 2 or len(offsets) != 2 or len(x.shape) != 4:
        raise ModelError(f"{node.where}: sizes {list(sizes)} at {list(offsets)} do not fit {x}")
    if node.flag("center_crop", False):
        offsets = tuple((full - size) // 2 for full, size in zip(x.shape[2:], sizes, strict=True))
    return [_cut(c, node, x, {axis + 2: (offsets[axis], offsets[axis] + sizes[axis]) for axis in range(2)})]


def _cut(c: Context, node: Node, x: Value, bounds: dict[int, tuple[int, int]]) -> Value:
    if any(not 0 <= low < high <= x.shape[axis] for axis, (low, high) in bounds.items()):
        raise ModelError(f"{node.where} cuts {bounds} (axis: begin, end) out of {x}: it does not lie within")
    g = c.graph
    shape = [bounds[axis][1] - bounds[axis][0] if axis in bounds else d for axis, d in enumerate(x.shape)]
    columns = ([low for low, _ in bounds.values()], [high for _, high in bounds.values()], list(bounds))
    return g.op("Slice", [x, *(g.indices(column) for column in columns)], shape)


def pad(c: Context, node: Node, given: Operands) -> list[Value]:
    """constant, edge or reflect; ``pad_width`` is (before, after) of each axis."""
    x = one(c, node, given)
    mode, widths = node.text("mode", "", ("constant", "edge", "reflect")), node.integers("pad_width", (), 0)
    if len(widths) != 2 * len(x.shape):
        raise ModelError(f"{node.where}: pad_width {list(widths)} needs two numbers for each axis of {x}")
    before, after = widths[::2], widths[1::2]
    if mode == "reflect" and any(max(b, a) >= d for b, a, d in zip(before, after, x.shape, strict=True)):
        raise ModelError(f"{node.where} reflects {list(widths)} around {x}: more than there is")
    shape = [b + d + a for b, d, a in zip(before, x.shape, after, strict=True)]
    filler = c.graph.constant(node.number("constant_value", 0.0), "filler")
    return [c.graph.op("Pad", [x, c.graph.indices([*before, *after], "pads"), filler], shape, mode=mode)]


def reduction(op: str, said: str) -> OperatorFunction:
    """Make the function of a reduction over ``axis`` (all without), with ``keepdims`` and ``exclude``."""

    def convert(c: Context, node: Node, given: Operands) -> list[Value]:
        x = one(c, node, given)
        rank = len(x.shape)
        said_axes = node.integers("axis", tuple(range(rank)))
        if any(not -rank <= axis < rank for axis in said_axes):
            raise ModelError(f"{node.where}: axis {list(said_axes)} is no axis of {x}")
        axes = sorted({axis % rank for axis in said_axes})
        if node.flag("exclude", False):
            axes = [axis for axis in range(rank) if axis not in axes]
        keep = node.flag("keepdims", False)
        shape = [1 if axis in axes else d for axis, d in enumerate(x.shape) if keep or axis not in axes]
        if not axes:
            return [x]
        if op == "ReduceSum":  # the only one whose axes are an input in this opset
            return [c.graph.op(op, [x, c.graph.indices(axes, "axes")], shape, keepdims=int(keep))]
        return [c.graph.op(op, [x], shape, axes=axes, keepdims=int(keep))]

    convert.__doc__ = said
    return convert
