"""The ONNX operations that Caffe, MXNet and Caffe2 share, with their shapes; windows are given begin and end pads.

All work on ``[N, C, d1, d2, ...]`` and leave the batch axis alone, so that a graph made of them serves any batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.errors import ModelError
from whet.models.importers.onnx_graph import Array, Graph, Value

MAX_WINDOW = 1 << 16
"""Largest number in a window; a tensor of the files it comes from has far shorter axes."""


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window, one number a spatial axis.

    Attributes:
        kernel: size.
        stride: step.
        begin: padding in front.
        end: padding behind; may reach further than the data so that the last window is whole.
        dilation: distance of the kernel's elements.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    dilation: tuple[int, ...]

    def bounded(self, where: str) -> "Window":
        """Return the window itself; ``where`` names the layer in errors.

        Raises:
            ModelError: one of its numbers is past :data:`MAX_WINDOW`.
        """
        largest = max((*self.kernel, *self.stride, *self.begin, *self.end, *self.dilation))
        if largest > MAX_WINDOW:
            raise ModelError(f"{where}: a kernel, stride, pad or dilation is {largest}; the bound is {MAX_WINDOW}")
        return self

    @property
    def reach(self) -> tuple[int, ...]:
        """Elements from the first to the last one the kernel touches, a spatial axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def slid(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How many whole windows fit, a spatial axis (rounded down)."""
        return tuple(
            (size + b + e - reach) // s + 1
            for size, b, e, reach, s in zip(sizes, self.begin, self.end, self.reach, self.stride, strict=True)
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the ONNX operation, the kernel's dilation apart."""
        return {"kernel_shape": self.kernel, "strides": self.stride, "pads": (*self.begin, *self.end)}


def convolution(g: Graph, x: Value, weight: Array, bias: Array | None, window: Window, group: int = 1) -> Value:
    """``Conv``: ``weight`` is ``[outputs, channels / group, *kernel]``, ``bias`` ``[outputs]``."""
    shape = (x.shape[0], weight.shape[0], *window.slid(x.shape[2:]))
    inputs = [x, g.constant(weight, "weight"), None if bias is None else g.constant(bias, "bias")]
    attributes = {**window.attributes, "dilations": window.dilation, "group": group}
    return g.op("Conv", inputs if bias is not None else inputs[:2], shape, **attributes)


def deconvolution(
    g: Graph, x: Value, weight: Array, bias: Array | None, window: Window, group: int = 1, extra: tuple[int, ...] = ()
) -> Value:
    """``ConvTranspose``: ``weight`` is ``[channels, outputs / group, *kernel]``; ``extra`` grows the output behind."""
    extra = extra or (0,) * len(window.kernel)
    spatial = tuple(
        s * (size - 1) + reach - b - e + more
        for size, s, reach, b, e, more in zip(
            x.shape[2:], window.stride, window.reach, window.begin, window.end, extra, strict=True
        )
    )
    inputs = [x, g.constant(weight, "weight"), *([] if bias is None else [g.constant(bias, "bias")])]
    attributes = {**window.attributes, "dilations": window.dilation, "group": group}
    if any(extra):
        attributes["output_padding"] = extra
    return g.op("ConvTranspose", inputs, (x.shape[0], weight.shape[1] * group, *spatial), **attributes)


def max_pool(g: Graph, x: Value, window: Window) -> Value:
    """``MaxPool``; padding never wins, also where it is as wide as the kernel."""
    if all(pad < k for pad, k in zip((*window.begin, *window.end), window.kernel * 2, strict=True)):
        return g.op("MaxPool", [x], (*x.shape[:2], *window.slid(x.shape[2:])), **window.attributes)
    padded, bare = _padded(g, x, window, float(np.finfo(np.float32).min))
    return g.op("MaxPool", [padded], (*x.shape[:2], *bare.slid(padded.shape[2:])), **bare.attributes)


def average_pool(g: Graph, x: Value, window: Window, overhang: tuple[int, ...], count_pads: bool) -> Value:
    """``AveragePool`` where the last ``overhang`` elements of the end padding never count.

    With ``count_pads`` the other padding counts as zeros, as in Caffe; ONNX cannot say "some of it", so that the
    padding that counts becomes a ``Pad`` of its own.
    """
    shape = (*x.shape[:2], *window.slid(x.shape[2:]))
    zeros = (0,) * len(overhang)
    if count_pads and any(overhang) and any((*window.begin, *window.end)):
        counted = tuple(e - o for e, o in zip(window.end, overhang, strict=True))
        x, _ = _padded(g, x, Window(window.kernel, window.stride, window.begin, counted, window.dilation), 0.0)
        window, count_pads = Window(window.kernel, window.stride, zeros, overhang, window.dilation), False
    if not all(pad < k for pad, k in zip((*window.begin, *window.end), window.kernel * 2, strict=True)):
        return _counted_pool(g, x, window, shape, count_pads)
    return g.op("AveragePool", [x], shape, **window.attributes, count_include_pad=int(count_pads))


def sum_pool(g: Graph, x: Value, window: Window) -> Value:
    """Sum each window; ONNX has only the mean, which is multiplied by the window's size."""
    padded, bare = _padded(g, x, window, 0.0)
    # Multiplied before the pooling: ONNX Runtime would fuse a Pad right before it and then refuse the wide pads.
    scaled = g.op("Mul", [padded, g.constant(math.prod(window.kernel), "size")], padded.shape)
    return g.op("AveragePool", [scaled], (*x.shape[:2], *window.slid(x.shape[2:])), **bare.attributes)


def _counted_pool(g: Graph, x: Value, window: Window, shape: Sequence[int], count_pads: bool) -> Value:
    """Average where windows may lie wholly in padding, which runtimes refuse: a sum over counts; no elements give 0."""
    counts = np.ones((), np.float32)
    for size, k, s, b, e in zip(x.shape[2:], window.kernel, window.stride, window.begin, window.end, strict=True):
        starts = np.arange((size + b + e - k) // s + 1) * s - b
        low, high = (starts, starts + k) if count_pads else (starts.clip(0, size), (starts + k).clip(0, size))
        counts = np.multiply.outer(counts, (high - low).astype(np.float32))
    factor = np.divide(1, counts, out=np.zeros_like(counts), where=counts > 0)
    return g.op("Mul", [sum_pool(g, x, window), g.constant(factor[None, None], "shares")], shape)


def global_pool(g: Graph, x: Value, average: bool) -> Value:
    """Pool all spatial axes to one element each."""
    return g.op("GlobalAveragePool" if average else "GlobalMaxPool", [x], (*x.shape[:2], *(1 for _ in x.shape[2:])))


def _padded(g: Graph, x: Value, window: Window, value: float) -> tuple[Value, Window]:
    """Pad the spatial axes explicitly; return the padded tensor and the window without pads."""
    zeros = (0,) * len(window.kernel)
    shape = (
        *x.shape[:2],
        *(size + b + e for size, b, e in zip(x.shape[2:], window.begin, window.end, strict=True)),
    )
    pads = g.indices((0, 0, *window.begin, 0, 0, *window.end), "pads")
    padded = g.op("Pad", [x, pads, g.constant(value, "filler")], shape, mode="constant")
    return padded, Window(window.kernel, window.stride, zeros, zeros, window.dilation)


def reshape(g: Graph, x: Value, shape: Sequence[int], dims: Sequence[int] | None = None) -> Value:
    """``Reshape`` to ``shape``, said by ``dims`` (0 copies the axis, -1 is the rest), which keep the batch free.

    Without ``dims`` the first axis is kept: ``shape[0]`` must be the input's.

    Raises:
        ModelError: the shapes hold different numbers of elements.
    """
    if math.prod(shape) != math.prod(x.shape):
        raise ModelError(f"{g.where} cannot reshape {x} to {list(shape)}: the numbers of elements differ")
    if tuple(shape) == x.shape and (dims is None or list(dims) == [0] * len(shape)):
        return x
    said = (0, *shape[1:]) if dims is None else tuple(dims)
    return g.op("Reshape", [x, g.indices(said)], shape)


def transpose(g: Graph, x: Value, order: Sequence[int]) -> Value:
    """``Transpose``: axis ``i`` of the output is axis ``order[i]`` of the input."""
    return g.op("Transpose", [x], [x.shape[axis] for axis in order], perm=tuple(order))


def spread(g: Graph, array: Array, axis: int, rank: int, what: str = "value") -> Value:
    """Add a constant that broadcasts against a tensor of ``rank`` axes with its first axis at ``axis``."""
    return g.constant(array.reshape((*array.shape, *(1,) * (rank - axis - array.ndim))), what)


def batch_norm(g: Graph, x: Value, statistics: Sequence[Array], epsilon: float) -> Value:
    """``BatchNormalization`` at inference from (gamma, beta, mean, variance), each ``[channels]``."""
    named = zip(statistics, ("gamma", "beta", "mean", "variance"), strict=True)
    return g.op("BatchNormalization", [x, *(g.constant(a, n) for a, n in named)], x.shape, epsilon=float(epsilon))


def lrn(g: Graph, x: Value, size: int, alpha: float, beta: float, k: float) -> Value:
    """``LRN`` across channels: ``x / (k + alpha / size * sum of squares over size channels) ** beta``."""
    if len(x.shape) != 4:
        raise ModelError(f"{g.where} normalises images [N, C, H, W] across channels but gets {x}")
    if k == int(k) or k < 0:
        return g.op("LRN", [x], x.shape, size=size, alpha=float(alpha), beta=float(beta), bias=float(k))
    # OpenVINO's CPU plugin takes the whole part of the bias only, so a broken one is moved out of the operation.
    with np.errstate(over="ignore"):
        factor = np.float32(np.float64(k) ** -beta)
    if not np.isfinite(factor):
        raise ModelError(f"{g.where} divides by {k:g} ** {beta:g}, which float32 does not hold; the file is damaged")
    y = g.op("LRN", [x], x.shape, size=size, alpha=float(alpha / k), beta=float(beta), bias=1.0)
    return g.op("Mul", [y, g.constant(factor, "bias")], x.shape)


def dense(g: Graph, x: Value, weight: Array, bias: Array | None, axis: int = 1) -> Value:
    """Flatten from ``axis`` on and multiply by ``weight`` ``[outputs, elements]`` transposed."""
    outputs, elements = weight.shape
    if math.prod(x.shape[axis:]) != elements:
        raise ModelError(
            f"{g.where} has weights for {elements} numbers a sample, but gets {math.prod(x.shape[axis:])}: {x}."
            " Another input size changes this: give the size the net was trained with in --input-shape"
        )
    rows = math.prod(x.shape[:axis])
    flat = x if x.shape == (rows, elements) else g.op("Flatten", [x], (rows, elements), axis=axis)
    inputs = [flat, g.constant(weight, "weight"), *([] if bias is None else [g.constant(bias, "bias")])]
    y = g.op("Gemm", inputs, (rows, outputs), transB=1)
    if axis == 1:
        return y
    shape = (*x.shape[:axis], outputs)
    return reshape(g, y, shape, (-1, *shape[1:]))


def same_shapes(g: Graph, values: Sequence[Value], doing: str, except_axis: int | None = None) -> None:
    """Refuse tensors whose shapes differ, naming the two layers at fault.

    Raises:
        ModelError: two shapes differ (apart from ``except_axis``).
    """
    first = values[0]
    for other in values[1:]:
        pairs = enumerate(zip(first.shape, other.shape, strict=False))
        alike = len(first.shape) == len(other.shape) and all(a == b or i == except_axis for i, (a, b) in pairs)
        if not alike:
            raise ModelError(
                f"{g.where} {doing} {first} and {other}: the shapes do not fit. One of the two pads or rounds in a way"
                " the file does not say, or the input has another size than the net was made for"
            )
