"""Caffe's layers that move, cut, join, resize or reduce tensors.

Each function adds one layer to the graph and returns its tops. Definitions: BVLC/caffe ``src/caffe/layers/*.cpp`` and
``caffe.proto`` for the defaults; a fork's layer says whose definition it follows.
"""

import math
from collections.abc import Sequence

from whet.errors import ModelError, Unsupported
from whet.models.importers import onnx_ops as ops
from whet.models.importers.caffe.context import Context, axis_of
from whet.models.importers.caffe.net import Layer
from whet.models.importers.onnx_graph import Value

Values = Sequence[Value]


def concat(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Along ``axis`` (1) or the older ``concat_dim``."""
    xs = c.bottoms(layer, values, 1, 1000)
    block, rank = layer.param("concat_param"), len(xs[0].shape)
    axis = axis_of(block, "concat_dim" if "concat_dim" in block else "axis", 1, rank)
    ops.same_shapes(c.graph, xs, "joins", except_axis=axis)
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    return [c.graph.op("Concat", xs, shape, axis=axis)]


def slice_(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Along ``axis`` (1) or the older ``slice_dim``, at ``slice_point`` or in equal parts."""
    (x,) = c.bottoms(layer, values, 1)
    block, count = layer.param("slice_param"), len(layer.tops)
    axis = axis_of(block, "slice_dim" if "slice_dim" in block else "axis", 1, len(x.shape))
    size, points = x.shape[axis], block.integers("slice_point", 1)
    if not points and count and size % count == 0:
        points = list(range(size // count, size, size // count))
    parts = [end - start for start, end in zip([0, *points], [*points, size], strict=True)]
    if len(parts) != count or min(parts) < 1:
        raise ModelError(f"{layer.where} cuts {size} at {points} into {count} tops; the numbers do not fit")
    if count == 1:
        return [x]
    shapes = [(*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in parts]
    return c.graph.ops("Split", [x, c.graph.indices(parts, "parts")], shapes, axis=axis)


def passing(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Nothing to compute at inference: every top is the bottom."""
    (x,) = c.bottoms(layer, values, 1)
    return [x] * len(layer.tops)


def silence(c: Context, layer: Layer, values: Values) -> list[Value]:  # noqa: ARG001  (the table's signature)
    """Swallows its bottoms."""
    return []


def flatten(c: Context, layer: Layer, values: Values) -> list[Value]:
    """From ``axis`` (1) to ``end_axis`` (the last)."""
    (x,) = c.bottoms(layer, values, 1)
    block, rank = layer.param("flatten_param"), len(x.shape)
    start, end = axis_of(block, "axis", 1, rank), axis_of(block, "end_axis", -1, rank)
    if end < start:
        raise ModelError(f"{layer.where}: end_axis {end} is before axis {start}")
    shape = (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])
    return [ops.reshape(c.graph, x, shape, None if start else (-1, *shape[1:]))]


def reshape(c: Context, layer: Layer, values: Values) -> list[Value]:
    """``dim`` 0 copies, -1 is the rest; ``axis`` and ``num_axes`` say which axes are replaced.

    A first ``dim`` that spells out the declared batch is read as "the batch", so that the batch stays free.
    """
    (x,) = c.bottoms(layer, values, 1)
    block, rank = layer.param("reshape_param"), len(x.shape)
    axis, count = block.integer("axis", 0, -rank - 1, rank), block.integer("num_axes", -1, -1, rank)
    start = axis if axis >= 0 else rank + 1 + axis
    end = rank if count == -1 else start + count
    dims = block.message("shape").integers("dim", -1)
    if start == 0 and dims and rank and dims[0] == x.shape[0] - c.extra:
        dims[0] = 0
    if end > rank or dims.count(-1) > 1 or any(d == 0 and start + i >= rank for i, d in enumerate(dims)):
        raise ModelError(f"{layer.where} cannot replace axes {start}..{end - 1} of {x} by {dims}")
    said = [*x.shape[:start], *(d or x.shape[start + i] for i, d in enumerate(dims)), *x.shape[end:]]
    shape = list(said)
    if -1 in shape:
        rest = -math.prod(shape)
        if math.prod(x.shape) % rest:
            raise ModelError(f"{layer.where} cannot reshape {x} to {dims}: the numbers of elements differ")
        shape[shape.index(-1)] = math.prod(x.shape) // rest
    if said and (start or dims[:1] == [0] or not (dims or end)):
        said[0] = 0  # the batch is copied, whatever it is
    return [ops.reshape(c.graph, x, shape, said)]


def permute(c: Context, layer: Layer, values: Values) -> list[Value]:
    """SSD's: ``order`` first, then the axes it leaves out."""
    (x,) = c.bottoms(layer, values, 1)
    order = layer.param("permute_param").integers("order", 0, 31)
    order += [axis for axis in range(len(x.shape)) if axis not in order]
    if sorted(order) != list(range(len(x.shape))):
        raise ModelError(f"{layer.where}: order {order} is no order of the axes of {x}")
    return [ops.transpose(c.graph, x, order)]


def crop(c: Context, layer: Layer, values: Values) -> list[Value]:
    """To the size of the second bottom from ``axis`` (2) on, at one ``offset`` or one an axis."""
    x, like = c.bottoms(layer, values, 2)
    block, rank = layer.param("crop_param"), len(x.shape)
    axis = axis_of(block, "axis", 2, rank)
    given = block.integers("offset", 0)
    offsets = (given or [0]) * (rank - axis) if len(given) <= 1 else given
    if len(offsets) != rank - axis or len(like.shape) != rank:
        raise ModelError(f"{layer.where} has {len(given)} offsets for axes {axis}..{rank - 1} of {x} and {like}")
    ends = [offset + like.shape[axis + i] for i, offset in enumerate(offsets)]
    if any(end > x.shape[axis + i] for i, end in enumerate(ends)):
        raise ModelError(f"{layer.where} cuts {like} at {offsets} out of {x}: it does not lie within")
    g, axes = c.graph, list(range(axis, rank))
    bounds = [g.indices(offsets, "starts"), g.indices(ends, "ends"), g.indices(axes, "axes")]
    return [g.op("Slice", [x, *bounds], (*x.shape[:axis], *like.shape[axis:]))]


def tile(c: Context, layer: Layer, values: Values) -> list[Value]:
    """``tiles`` copies along ``axis`` (1)."""
    (x,) = c.bottoms(layer, values, 1)
    block = layer.param("tile_param")
    axis, count = axis_of(block, "axis", 1, len(x.shape)), block.integer("tiles", 0, 1, 1 << 20)
    if not count:
        raise ModelError(f"{layer.where} lacks tiles")
    repeats = [count if i == axis else 1 for i in range(len(x.shape))]
    shape = [d * r for d, r in zip(x.shape, repeats, strict=True)]
    return [c.graph.op("Tile", [x, c.graph.indices(repeats, "repeats")], shape)]


def argmax(c: Context, layer: Layer, values: Values) -> list[Value]:
    """The ``top_k`` largest along ``axis``, or of each sample as ``[N, 1 or 2, top_k]``; indices are floats."""
    (x,) = c.bottoms(layer, values, 1)
    block, g = layer.param("argmax_param"), c.graph
    k, with_values = block.integer("top_k", 1, 1), block.flag("out_max_val", False)
    flat = "axis" not in block
    if flat:
        x = ops.reshape(g, x, (x.shape[0], math.prod(x.shape[1:])))
    axis = 1 if flat else axis_of(block, "axis", 1, len(x.shape))
    if k > x.shape[axis]:
        raise ModelError(f"{layer.where}: top_k {k} is more than the {x.shape[axis]} values of {x}")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    best, where = g.ops("TopK", [x, g.indices([k], "k")], [shape, shape], axis=axis)
    if not flat and with_values:
        return [best]
    numbers = g.op("Cast", [where], shape, to=1)
    if not flat:
        return [numbers]
    parts = [ops.reshape(g, part, (x.shape[0], 1, k)) for part in ([numbers, best] if with_values else [numbers])]
    return [g.op("Concat", parts, (x.shape[0], 2, k), axis=1)] if with_values else parts


def reduction(c: Context, layer: Layer, values: Values) -> list[Value]:
    """SUM, ASUM, SUMSQ or MEAN over ``axis`` and all behind it, times ``coeff``."""
    (x,) = c.bottoms(layer, values, 1)
    block, g = layer.param("reduction_param"), c.graph
    axis = axis_of(block, "axis", 0, len(x.shape))
    operation = block.choice("operation", "SUM", ("SUM", "ASUM", "SUMSQ", "MEAN", "1", "2", "3", "4"))
    if operation in ("ASUM", "2"):
        x = g.op("Abs", [x], x.shape)
    elif operation in ("SUMSQ", "3"):
        x = g.op("Mul", [x, x], x.shape)
    axes = list(range(axis, len(x.shape)))
    if operation in ("MEAN", "4"):
        y = g.op("ReduceMean", [x], x.shape[:axis], axes=axes, keepdims=0)
    else:
        y = g.op("ReduceSum", [x, g.indices(axes, "axes")], x.shape[:axis], keepdims=0)
    factor = block.number("coeff", 1.0)
    return [y if factor == 1 else g.op("Mul", [y, g.constant(factor, "coeff")], y.shape)]


def embed(c: Context, layer: Layer, values: Values) -> list[Value]:
    """A learned row for each index; indices come as floats."""
    (x,) = c.bottoms(layer, values, 1)
    block, g = layer.param("embed_param"), c.graph
    rows, outputs = block.integer("input_dim", 0, 1, 1 << 28), block.integer("num_output", 0, 1, 1 << 24)
    if not rows or not outputs:
        raise ModelError(f"{layer.where} lacks input_dim or num_output")
    table = g.constant(c.blob(layer, 0, (rows, outputs)), "weight")
    y = g.op("Gather", [table, g.op("Cast", [x], x.shape, to=7)], (*x.shape, outputs), axis=0)
    if not block.flag("bias_term", True):
        return [y]
    return [g.op("Add", [y, g.constant(c.blob(layer, 1, (outputs,)), "bias")], y.shape)]


def _resize(c: Context, x: Value, sizes: tuple[int, int], **how: str) -> Value:
    """``Resize`` to fixed spatial sizes with the batch taken from the tensor, so that it stays free."""
    g = c.graph
    head = g.op("Slice", [g.op("Shape", [x], (4,)), g.indices([0]), g.indices([2])], (2,))
    target = g.op("Concat", [head, g.indices(list(sizes), "sizes")], (4,), axis=0)
    return g.op("Resize", [x, None, None, target], (*x.shape[:2], *sizes), **how)


def interp(c: Context, layer: Layer, values: Values) -> list[Value]:
    """DeepLab's fork: bilinear with aligned corners; zoom, shrink, a fixed size or that of a second bottom."""
    x, *like = c.bottoms(layer, values, 1, 2)
    block = layer.param("interp_param")
    if len(x.shape) != 4 or (like and len(like[0].shape) != 4):
        raise ModelError(f"{layer.where} resizes images [N, C, H, W] but gets {x}")
    begin, end = (block.integer(name, 0, -(1 << 16), 0) for name in ("pad_beg", "pad_end"))
    if begin or end:
        raise Unsupported(f"{layer.where}: pad_beg {begin} and pad_end {end} are not supported, only 0")
    zoom, shrink = (block.integer(name, 1, 1, 1 << 12) for name in ("zoom_factor", "shrink_factor"))
    height, width = x.shape[2:]
    if like:
        height, width = like[0].shape[2:]
    elif "height" in block or "width" in block:
        height, width = block.integer("height", 0, 1, 1 << 16), block.integer("width", 0, 1, 1 << 16)
    else:
        height, width = ((size - 1) // shrink + 1 for size in (height, width))
        height, width = (size + (size - 1) * (zoom - 1) for size in (height, width))
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    return [_resize(c, x, (height, width), **how)]


def upsample(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Fork layer (YOLO): nearest neighbour, ``scale`` times; SegNet's, which reads a pooling mask, is refused."""
    if len(values) != 1:
        raise Unsupported(f"{layer.where} has {len(values)} bottoms: SegNet's unpooling by a mask is not supported")
    (x,) = c.bottoms(layer, values, 1)
    factor = layer.param("upsample_param").integer("scale", 0, 1, 64)
    if len(x.shape) != 4 or not factor:
        raise ModelError(f"{layer.where} needs an integer scale and images [N, C, H, W], but gets {x}")
    scales = c.graph.constant([1, 1, factor, factor], "scales")
    shape = (*x.shape[:2], x.shape[2] * factor, x.shape[3] * factor)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [c.graph.op("Resize", [x, None, scales], shape, **how)]


def shuffle_channel(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Fork layer (ShuffleNet): channel ``g * n + i`` of ``group`` g goes to ``i * group + g``."""
    x = c.images(layer, values)
    group = layer.param("shuffle_channel_param").integer("group", 1, 1, 1 << 16)
    if x.shape[1] % group:
        raise ModelError(f"{layer.where}: group {group} does not divide the {x.shape[1]} channels of {x}")
    parted = ops.reshape(c.graph, x, (x.shape[0], group, x.shape[1] // group, *x.shape[2:]))
    order = (0, 2, 1, *range(3, len(parted.shape)))
    return [ops.reshape(c.graph, ops.transpose(c.graph, parted, order), x.shape)]
