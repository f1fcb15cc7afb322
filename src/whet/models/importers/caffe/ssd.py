"""SSD's layers: prior boxes folded to constants, and detection written in standard ONNX operations.

Definitions: weiliu89/caffe, branch ssd: ``prior_box_layer.cpp``, ``detection_output_layer.cpp``, ``bbox_util.cpp``.
``DetectionOutput`` has no counterpart in ONNX. It becomes decode -> best ``top_k`` a class -> NonMaxSuppression ->
best ``keep_top_k`` an image, so that one file runs on every runtime. Rows are Caffe's (image, label, score, xmin,
ymin, xmax, ymax); they come by falling score where Caffe orders by label first, and nothing found is no row where
Caffe writes a row of -1.
"""

import math
from collections.abc import Sequence

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers import onnx_ops as ops
from whet.models.importers.caffe.context import Context
from whet.models.importers.caffe.net import Layer
from whet.models.importers.caffe.prototxt import Message
from whet.models.importers.onnx_graph import UNKNOWN, Value

Values = Sequence[Value]
MAX_PRIORS = 1 << 22
_NOTHING = -1e30
"""Stands for "suppressed" in a table of scores; far below any score."""


def prior_box(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Boxes around each cell of the first bottom, relative to the picture (the second); variances beside them."""
    cells, image = c.bottoms(layer, values, 2)
    block = layer.param("prior_box_param")
    if len(cells.shape) != 4 or len(image.shape) != 4:
        raise ModelError(f"{layer.where} reads the sizes of images [N, C, H, W] but gets {cells} and {image}")
    (rows, columns), (image_h, image_w) = cells.shape[2:], _sizes(block, "img", image.shape[2:])
    step_h, step_w = _steps(block, (image_h / rows, image_w / columns))
    sizes = _prior_sizes(layer, block)
    if rows * columns * len(sizes) > MAX_PRIORS:
        raise ModelError(f"{layer.where} makes {rows * columns * len(sizes)} boxes; the bound is {MAX_PRIORS}")
    offset = block.number("offset", 0.5)
    x, y = np.meshgrid((np.arange(columns) + offset) * step_w, (np.arange(rows) + offset) * step_h)
    centres = np.stack([x, y], -1)[:, :, None, :]
    half = np.asarray(sizes, np.float64) / 2
    corners = np.concatenate([centres - half, centres + half], -1) / (image_w, image_h, image_w, image_h)
    if block.flag("clip", False):
        corners = corners.clip(0, 1)
    spread = block.numbers("variance") or [0.1]
    if len(spread) not in (1, 4) or min(spread) <= 0:
        raise ModelError(f"{layer.where}: variance {spread} must be one or four numbers above 0")
    variances = np.tile(np.asarray(spread * (4 // len(spread))), rows * columns * len(sizes))
    return [c.graph.constant(np.stack([corners.reshape(-1), variances])[None], "priors")]


def _sizes(block: Message, stem: str, default: Sequence[int]) -> tuple[int, int]:
    if f"{stem}_size" in block:
        return (block.integer(f"{stem}_size", 0, 1, 1 << 16),) * 2
    height, width = (
        block.integer(f"{stem}_{axis}", size, 1, 1 << 16) for axis, size in zip("hw", default, strict=True)
    )
    return height, width


def _steps(block: Message, default: tuple[float, float]) -> tuple[float, float]:
    both = block.number("step", 0.0)
    height, width = (block.number(f"step_{axis}", both) or size for axis, size in zip("hw", default, strict=True))
    return height, width


def _prior_sizes(layer: Layer, block: Message) -> list[tuple[float, float]]:
    """Return (width, height) of one cell's boxes in SSD's order: for each min_size itself, its max, the ratios."""
    smallest, largest = block.numbers("min_size"), block.numbers("max_size")
    if not smallest or min(smallest) <= 0 or (largest and len(largest) != len(smallest)):
        raise ModelError(
            f"{layer.where}: {len(smallest)} min_size and {len(largest)} max_size; SSD wants one or as many"
        )
    ratios = [1.0]
    for ratio in block.numbers("aspect_ratio"):
        if ratio <= 0:
            raise ModelError(f"{layer.where}: aspect_ratio {ratio} must be above 0")
        if not any(abs(ratio - known) < 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if block.flag("flip", True) else [ratio]
    sizes = []
    for index, low in enumerate(smallest):
        sizes.append((low, low))
        if largest:
            if largest[index] <= low:
                raise ModelError(f"{layer.where}: max_size {largest[index]} must be above min_size {low}")
            sizes.append((math.sqrt(low * largest[index]),) * 2)
        sizes += [(low * math.sqrt(r), low / math.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
    return sizes


def detection_output(c: Context, layer: Layer, values: Values) -> list[Value]:
    """Decode, suppress a class at a time, keep the best: ``[1, 1, found, 7]``; all code types, shared boxes or not."""
    location, confidence, priors = c.bottoms(layer, values, 3, 4)[:3]
    block, g = layer.param("detection_output_param"), c.graph
    classes, background = block.integer("num_classes", 0, 1, 1 << 16), block.integer("background_label_id", 0, -1)
    labels = [label for label in range(classes) if label != background]
    count, images = priors.shape[-1] // 4, location.shape[0]
    shared = block.flag("share_location", True)
    wanted = {
        "location": (location, count * 4 * (1 if shared else classes)),
        "confidence": (confidence, count * classes),
    }
    for what, (value, size) in wanted.items():
        if value.shape[:1] != (images,) or math.prod(value.shape[1:]) != size:
            raise ModelError(f"{layer.where} needs {size} numbers of {what} an image for {priors} but gets {value}")
    if priors.shape != (1, 2, count * 4) or not labels or not count:
        raise ModelError(f"{layer.where} has {classes} classes and {priors}: there is nothing to detect")
    nms = block.message("nms_param")
    if nms.number("eta", 1.0) != 1:
        raise Unsupported(
            f"{layer.where}: adaptive suppression (eta {nms.number('eta', 1.0)}) is not supported, only 1"
        )
    boxes = _decoded(c, block, location, priors, (1 if shared else classes))
    chosen = g.indices(labels, "labels")
    scores = ops.transpose(g, ops.reshape(g, confidence, (images, count, classes)), (0, 2, 1))
    scores = g.op("Gather", [scores, chosen], (images, len(labels), count), axis=1)
    if not shared:
        boxes = g.op("Gather", [boxes, chosen], (images, len(labels), count, 4), axis=1)
    found = _suppressed(c, block, boxes, scores)
    return [_rows(c, block, found, chosen)]


def _decoded(c: Context, block: Message, location: Value, priors: Value, sets: int) -> Value:
    """Return corners ``[images, sets, priors, 4]`` from offsets to the priors."""
    g, images, count = c.graph, location.shape[0], priors.shape[-1] // 4
    kind = block.choice("code_type", "CORNER", ("CORNER", "CENTER_SIZE", "CORNER_SIZE", "1", "2", "3"))
    x = ops.transpose(g, ops.reshape(g, location, (images, count, sets, 4)), (0, 2, 1, 3))
    shape, one = (*x.shape[:3], 1), (1, 1, count, 1)
    table = ops.reshape(g, priors, (1, 2, count, 4))
    prior, variance = g.ops("Split", [table, g.indices([1, 1])], [(1, 1, count, 4)] * 2, axis=1)
    if not block.flag("variance_encoded_in_target", False):
        x = g.op("Mul", [x, variance], x.shape)
    lows = g.ops("Split", [prior, g.indices([1] * 4)], [one] * 4, axis=3)
    width, height = (g.op("Sub", [lows[i + 2], lows[i]], one) for i in range(2))
    if kind in ("CORNER", "1"):
        return g.op("Add", [x, prior], x.shape)
    size = g.op("Concat", [width, height], (1, 1, count, 2), axis=3)
    if kind in ("CORNER_SIZE", "3"):
        both = g.op("Concat", [size, size], (1, 1, count, 4), axis=3)
        return g.op("Add", [g.op("Mul", [x, both], x.shape), prior], x.shape)
    half_shape = (*shape[:3], 2)
    shift, growth = g.ops("Split", [x, g.indices([2, 2])], [half_shape] * 2, axis=3)
    corner = g.op("Concat", lows[:2], (1, 1, count, 2), axis=3)
    half = g.constant(0.5, "half")
    middle = g.op("Add", [corner, g.op("Mul", [size, half], size.shape)], size.shape)
    centre = g.op("Add", [g.op("Mul", [shift, size], half_shape), middle], half_shape)
    reach = g.op("Mul", [g.op("Mul", [g.op("Exp", [growth], half_shape), size], half_shape), half], half_shape)
    ends = [g.op(name, [centre, reach], half_shape) for name in ("Sub", "Add")]
    return g.op("Concat", ends, x.shape, axis=3)


def _suppressed(c: Context, block: Message, boxes: Value, scores: Value) -> tuple[Value, Value]:
    """Return (scores ``[images, classes * k]`` with the suppressed ones set to _NOTHING, boxes ``[..., 4]``)."""
    g, nms = c.graph, block.message("nms_param")
    images, classes, count = scores.shape
    k = min(nms.integer("top_k", -1, -1) if nms.integer("top_k", -1, -1) > 0 else count, count)
    best, where = g.ops("TopK", [scores, g.indices([k], "k")], [(images, classes, k)] * 2, axis=2)
    sets = 1 if boxes.shape[1] == 1 else classes
    flat = ops.reshape(g, boxes, (images * sets, count, 4), (-1, count, 4))
    picks = ops.reshape(g, where, (images * sets, classes // sets * k, 1), (-1, classes // sets * k, 1))
    taken = g.op("GatherND", [flat, picks], (images * sets, classes // sets * k, 4), batch_dims=1)
    by_class = ops.reshape(g, taken, (images * classes, k, 4), (-1, k, 4))
    bounds = [
        g.constant(np.full(1, k), "most", np.int64),
        g.constant([nms.number("nms_threshold", 0.3)], "overlap"),
        g.constant([block.number("confidence_threshold", float(np.finfo(np.float32).min))], "threshold"),
    ]
    rows = ops.reshape(g, best, (images * classes, 1, k), (-1, 1, k))
    kept = g.op("NonMaxSuppression", [by_class, rows, *bounds], (UNKNOWN, 3))
    spots = g.op("Gather", [kept, g.indices([0, 2])], (UNKNOWN, 2), axis=1)
    table = ops.reshape(g, best, (images * classes, k), (-1, k))
    empty = g.constant(np.full(table.shape, _NOTHING, np.float32), "empty")
    held = g.op("GatherND", [table, spots], (UNKNOWN,))
    filled = g.op("ScatterND", [empty, spots, held], table.shape)
    return (
        ops.reshape(g, filled, (images, classes * k), (-1, classes * k)),
        ops.reshape(g, by_class, (images, classes * k, 4), (-1, classes * k, 4)),
    )


def _rows(c: Context, block: Message, found: tuple[Value, Value], labels: Value) -> Value:
    """Keep the best ``keep_top_k`` of each image and write them as rows."""
    g, (scores, boxes) = c.graph, found
    images, most = scores.shape
    each = most // labels.shape[0]
    wanted = block.integer("keep_top_k", -1, -1)
    keep = min(wanted if wanted > 0 else most, most)
    best, where = g.ops("TopK", [scores, g.indices([keep], "keep")], [(images, keep)] * 2, axis=1)
    real = g.op("Greater", [best, g.constant(_NOTHING / 2, "nothing")], best.shape)
    spots = g.op("Transpose", [g.op("NonZero", [real], (2, UNKNOWN))], (UNKNOWN, 2), perm=(1, 0))
    score = g.op("GatherND", [best, spots], (UNKNOWN,))
    place = g.op("GatherND", [where, spots], (UNKNOWN,))
    label = g.op("Gather", [labels, g.op("Div", [place, g.indices(each, "each")], (UNKNOWN,))], (UNKNOWN,), axis=0)
    image = g.op("Gather", [spots, g.indices(0, "first")], (UNKNOWN,), axis=1)
    last = g.indices([1], "last")
    column = {
        name: g.op("Unsqueeze", [value, last], (UNKNOWN, 1))
        for name, value in (("image", image), ("place", place), ("label", label), ("score", score))
    }
    corner = g.op("Concat", [column["image"], column["place"]], (UNKNOWN, 2), axis=1)
    box = g.op("GatherND", [boxes, corner], (UNKNOWN, 4))
    numbers = [g.op("Cast", [column[name]], (UNKNOWN, 1), to=1) for name in ("image", "label")]
    rows = g.op("Concat", [*numbers, column["score"], box], (UNKNOWN, 7), axis=1)
    return g.op("Unsqueeze", [rows, g.indices([0, 1])], (1, 1, UNKNOWN, 7))
