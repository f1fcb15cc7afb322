"""Caffe's layers with learned weights over windows or whole samples, and pooling and local response normalisation.

Each function adds one layer to the graph and returns its tops. Definitions: BVLC/caffe ``src/caffe/layers/*.cpp`` and
``caffe.proto`` for the defaults; a fork's layer says whose definition it follows.
"""

import math
from collections.abc import Sequence

from whet.errors import ModelError, Unsupported
from whet.models.importers import onnx_ops as ops
from whet.models.importers.caffe.context import Context, axis_of
from whet.models.importers.caffe.net import Layer
from whet.models.importers.caffe.prototxt import Message
from whet.models.importers.onnx_graph import Array, Value

Values = Sequence[Value]


def _spatial(block: Message, stem: str, plural: str, default: int | None, rank: int, low: int = 1) -> tuple[int, ...]:
    """Return one number a spatial axis from ``kernel_size`` (one for all, or one each) or ``kernel_h``/``kernel_w``."""
    each = [block.integers(f"{stem}_{axis}", low, 1 << 16) for axis in "hw"]
    if rank == 2 and any(each):
        return tuple(found[-1] if found else (default or 0) for found in each)
    found = block.integers(plural, low, 1 << 16)
    if len(found) not in (0, 1, rank) or (not found and default is None):
        raise ModelError(f"{block.where}: {plural} {found} does not give one size for each of {rank} spatial axes")
    return tuple(found) if len(found) == rank else tuple((found or [default or 0]) * rank)


def _window(block: Message, rank: int, *, pooled: bool = False) -> ops.Window:
    kernel = _spatial(block, "kernel", "kernel_size", None, rank)
    stride = _spatial(block, "stride", "stride", 1, rank)
    pad = _spatial(block, "pad", "pad", 0, rank, low=0)
    dilation = (1,) * rank if pooled else _spatial(block, "dilation", "dilation", 1, rank)
    if 0 in kernel:
        raise ModelError(f"{block.where}: kernel {list(kernel)} lacks kernel_h or kernel_w")
    return ops.Window(kernel, stride, pad, pad, dilation)


def _convolved(c: Context, layer: Layer, values: Values) -> tuple[Value, Message, ops.Window, int, int]:
    x = c.images(layer, values)
    block = layer.param("convolution_param")
    if axis_of(block, "axis", 1, len(x.shape)) != 1:
        raise Unsupported(f"{layer.where}: axis {block.integer('axis', 1, -9)} is not supported, only 1 (the channels)")
    outputs, group = block.integer("num_output", 0, 1, 1 << 20), block.integer("group", 1, 1, 1 << 20)
    if not outputs or x.shape[1] % group or outputs % group:
        raise ModelError(
            f"{layer.where}: num_output {outputs} and group {group} do not divide the {x.shape[1]} channels of {x}"
        )
    return x, block, _window(block, len(x.shape) - 2), outputs, group


def _bias(c: Context, layer: Layer, block: Message, outputs: int, index: int = 1) -> Array | None:
    return c.blob(layer, index, (outputs,)) if block.flag("bias_term", True) else None


def convolution(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Groups, dilation, any number of spatial axes; sizes rounded down."""
    x, block, window, outputs, group = _convolved(c, layer, values)
    weight = c.blob(layer, 0, (outputs, x.shape[1] // group, *window.kernel))
    return [ops.convolution(c.graph, x, weight, _bias(c, layer, block, outputs), window, group)]


def depthwise_convolution(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Fork layer: a convolution with one group a channel, whether or not ``group`` says so."""
    block = layer.param("convolution_param")
    x, _, window, outputs, group = _convolved(c, layer, values)
    if group == 1 and outputs % x.shape[1] == 0:
        group = x.shape[1]
    weight = c.blob(layer, 0, (outputs, x.shape[1] // group, *window.kernel))
    return [ops.convolution(c.graph, x, weight, _bias(c, layer, block, outputs), window, group)]


def deconvolution(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Groups and dilation; size ``stride * (in - 1) + reach - 2 * pad``."""
    x, block, window, outputs, group = _convolved(c, layer, values)
    weight = c.blob(layer, 0, (x.shape[1], outputs // group, *window.kernel))
    return [ops.deconvolution(c.graph, x, weight, _bias(c, layer, block, outputs), window, group)]


def pooling(c: Context, layer: Layer, values: Values) -> list[Value]:
    """MAX and AVE, global or windowed; sizes rounded up (or down by ``round_mode``/``ceil_mode``).

    A window that starts behind the padded data is dropped. AVE divides by the window clipped to the padded data.
    """
    x = c.images(layer, values)
    block = layer.param("pooling_param")
    average = block.choice("pool", "MAX", ("MAX", "AVE", "0", "1")) in ("AVE", "1")
    if len(layer.tops) != 1:
        raise Unsupported(f"{layer.where} has a second top, the mask of the winners; only SegNet's fork reads it back")
    if block.flag("global_pooling", False):
        return [ops.global_pool(c.graph, x, average)]
    window = _window(block, len(x.shape) - 2, pooled=True)
    if any(pad >= k for pad, k in zip(window.begin, window.kernel, strict=True)):
        raise ModelError(f"{layer.where}: pad {list(window.begin)} must be smaller than kernel {list(window.kernel)}")
    up = block.choice("round_mode", "CEIL", ("CEIL", "FLOOR", "0", "1")) in ("CEIL", "0")
    counts = _pooled(x.shape[2:], window, up=up and block.flag("ceil_mode", True))
    reached = [(n - 1) * s + k for n, s, k in zip(counts, window.stride, window.kernel, strict=True)]
    sides = list(zip(reached, x.shape[2:], window.begin, strict=True))
    needed = tuple(max(0, end - size - p) for end, size, p in sides)
    overhang = tuple(max(0, end - size - 2 * p) for end, size, p in sides)
    if any(n < 1 for n in counts) or any(e >= k for e, k in zip(overhang, window.kernel, strict=True)):
        raise ModelError(f"{layer.where}: window {list(window.kernel)} lies outside {x}; the input is too small")
    if not average:
        whole = ops.Window(window.kernel, window.stride, window.begin, needed, window.dilation)
        return [ops.max_pool(c.graph, x, whole)]
    end = tuple(p + o if o else e for p, o, e in zip(window.begin, overhang, needed, strict=True))
    wide = ops.Window(window.kernel, window.stride, window.begin, end, window.dilation)
    return [ops.average_pool(c.graph, x, wide, overhang, count_pads=True)]


def _pooled(sizes: Sequence[int], window: ops.Window, *, up: bool) -> tuple[int, ...]:
    counts = []
    for size, k, s, p in zip(sizes, window.kernel, window.stride, window.begin, strict=True):
        free = size + 2 * p - k
        count = (-(-free // s) if up else free // s) + 1
        if p and (count - 1) * s >= size + p:
            count -= 1
        counts.append(count)
    return tuple(counts)


def inner_product(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Flattened from ``axis`` on; ``transpose`` tells how the weights lie."""
    (x,) = c.bottoms(layer, values, 1)
    block = layer.param("inner_product_param")
    axis = axis_of(block, "axis", 1, len(x.shape))
    outputs, elements = block.integer("num_output", 0, 1, 1 << 24), math.prod(x.shape[axis:])
    if not outputs:
        raise ModelError(f"{layer.where} lacks num_output")
    weight = (
        c.blob(layer, 0, (elements, outputs)).T
        if block.flag("transpose", False)
        else c.blob(layer, 0, (outputs, elements))
    )
    return [ops.dense(c.graph, x, weight, _bias(c, layer, block, outputs), axis)]


def lrn(c: Context, layer: Layer, values: Values) -> list[Value]:
    """ACROSS_CHANNELS with ``k``; WITHIN_CHANNEL as ``x * (1 + alpha * mean of squares) ** -beta``."""
    block = layer.param("lrn_param")
    size = block.integer("local_size", 5, 1, 1 << 16)
    alpha, beta = block.number("alpha", 1.0), block.number("beta", 0.75)
    if size % 2 == 0:
        raise ModelError(f"{layer.where}: local_size {size} is even; Caffe takes odd windows only")
    if block.choice("norm_region", "ACROSS_CHANNELS", ("ACROSS_CHANNELS", "WITHIN_CHANNEL", "0", "1")) in (
        "ACROSS_CHANNELS",
        "0",
    ):
        (x,) = c.bottoms(layer, values, 1)
        return [ops.lrn(c.graph, x, size, alpha, beta, block.number("k", 1.0))]
    x, g = c.images(layer, values), c.graph
    rank = len(x.shape) - 2
    half = ((size - 1) // 2,) * rank
    squares = g.op("Mul", [x, x], x.shape)
    mean = ops.average_pool(
        g, squares, ops.Window((size,) * rank, (1,) * rank, half, half, (1,) * rank), (0,) * rank, count_pads=True
    )
    scaled = g.op("Add", [g.op("Mul", [mean, g.constant(alpha)], x.shape), g.constant(1.0)], x.shape)
    return [g.op("Mul", [x, g.op("Pow", [scaled, g.constant(-beta)], x.shape)], x.shape)]
