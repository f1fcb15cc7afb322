"""What surrounds a net, in numpy: images to net inputs, raw outputs to answers. The reference every fused graph meets.

Where a runtime can run these steps inside its graph it does (see :mod:`whet.models.fuse` for ONNX); everywhere else,
and in every comparison, they run here. All functions are pure and work on whole batches.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from whet.models.artifact import Artifact, ImageInput, OutputStep
from whet.tensors import DYNAMIC, Array, Tensors, TensorSpec

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of R, G, B in a grey value: those of ITU-R BT.601 in 65536ths, as Pillow has them.

A sum of such products of bytes is exact in float32 (below 2**24 in 65536ths), so numpy and the graphs agree to the last
bit in whatever order they add. With 0.299, 0.587 and 0.114 they could differ by that bit, 1.5e-5 of a level.
"""
BACKGROUND = ("", "background", "BACKGROUND")
"""Labels of classes that ``nms`` never keeps."""


def apply_images(artifact: Artifact, tensors: Tensors) -> dict[str, Array]:
    """Turn a request's ``UINT8 [N, height, width, channels]`` images into what the net takes; others pass unchanged."""
    images = {image.input: image for image in artifact.images}
    specs = {spec.name: spec for spec in artifact.inputs}
    return {
        name: images_to_net(value, images[name], specs[name].dtype) if name in images else value
        for name, value in tensors.items()
    }


def images_to_net(pixels: Array, image: ImageInput, dtype: np.dtype[np.generic] | None = None) -> Array:
    """Return ``(pixels[..., channels] - mean) / scale`` in the net's layout.

    Args:
        pixels: ``uint8 [N, height, width, channels]`` in ``image.source_channels`` order.
        image: what the net expects.
        dtype: of the result, float32 by default; an integer type holds levels: values are rounded (half to even) and
            kept within its range.
    """
    dtype = np.dtype(np.float32) if dtype is None else dtype
    chosen = _channels(pixels, image)
    if image.layout == "NCHW":
        chosen = chosen.transpose(0, 3, 1, 2)
    if not (image.mean or image.scale):
        return np.ascontiguousarray(np.rint(chosen) if dtype.kind in "iu" else chosen, dtype=dtype)
    net = np.ascontiguousarray(chosen, dtype=np.float32)
    if image.mean:
        net -= per_channel(image.mean, image.layout)
    if image.scale:
        net /= per_channel(image.scale, image.layout)
    if (ends := level_range(dtype)) is not None:
        net = np.clip(np.rint(net), *ends)
    return net.astype(dtype, copy=False)


def level_range(dtype: np.dtype[np.generic]) -> tuple[float, float] | None:
    """Return the least and greatest level of an integer type, or None of a float type."""
    if dtype.kind not in "iu":
        return None
    found = np.iinfo(dtype.name)
    return float(found.min), float(found.max)


def per_channel(values: Sequence[float], layout: str) -> Array:
    """Return one value a channel as float32, shaped to broadcast over a batch in ``layout``."""
    shape = (1, len(values), 1, 1) if layout == "NCHW" else (1, 1, 1, len(values))
    return np.asarray(values, np.float32).reshape(shape)


def channel_order(image: ImageInput) -> tuple[int, ...] | None:
    """Return for each of the net's channels its index in the source; None where grey is to be mixed from three."""
    if image.channels == "GRAY":
        return (0,) if image.source_channels == "GRAY" else None
    if image.source_channels == "GRAY":
        return (0, 0, 0)
    return (0, 1, 2) if image.channels == image.source_channels else (2, 1, 0)


def luma_weights(image: ImageInput) -> tuple[float, float, float]:
    """Return the grey weights in the order of the source's channels."""
    red, green, blue = LUMA
    return (red, green, blue) if image.source_channels == "RGB" else (blue, green, red)


def _channels(pixels: Array, image: ImageInput) -> Array:
    order = channel_order(image)
    if order is None:
        mixed: Array = pixels.astype(np.float32) @ np.asarray(luma_weights(image), np.float32)[:, None]
        return mixed
    return pixels if order == tuple(range(pixels.shape[-1])) else pixels[..., list(order)]


def apply_post(steps: Sequence[OutputStep], outputs: Tensors, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Run postprocessing steps in order on a batch of raw outputs.

    Args:
        steps: ``artifact.post``, or what of it was not fused (see :func:`split_post`).
        outputs: raw outputs of a batch.
        specs: ``artifact.outputs``; their labels name classes.
    """
    answers = dict(outputs)
    labels = {spec.name: spec.labels for spec in specs}
    for step in steps:
        value = answers[step.output]
        if step.kind == "softmax":
            answers[step.output] = softmax(value)
        elif step.kind == "sigmoid":
            answers[step.output] = sigmoid(value)
        elif step.kind == "top_k":
            answers[step.output], answers[f"{step.output}_labels"] = top_k(value, step.k, labels.get(step.output, ()))
        else:
            kept = nms(answers[step.boxes], value, step, labels.get(step.output, ()))
            answers[step.boxes], answers[step.output], answers[f"{step.output}_labels"] = kept
    return answers


def split_post(steps: Sequence[OutputStep]) -> tuple[tuple[OutputStep, ...], tuple[OutputStep, ...]]:
    """Return the steps a graph can take in (softmax and sigmoid that come before others) and the rest, in order."""
    fusable: list[OutputStep] = []
    rest: list[OutputStep] = []
    for step in steps:
        first = step.kind in {"softmax", "sigmoid"} and all(step.output not in {r.output, r.boxes} for r in rest)
        (fusable if first else rest).append(step)
    return tuple(fusable), tuple(rest)


def service_outputs(artifact: Artifact) -> tuple[TensorSpec, ...]:
    """Return what an answer carries: the net's outputs after every postprocessing step, in answer order."""
    specs = {spec.name: spec for spec in artifact.outputs}
    for step in artifact.post:
        spec = specs[step.output]
        if step.kind == "top_k":
            last = spec.shape[-1]
            shape = (*spec.shape[:-1], step.k if last == DYNAMIC else min(step.k, last))
            specs[step.output] = replace(spec, shape=shape, labels=())
            specs[f"{step.output}_labels"] = TensorSpec(f"{step.output}_labels", "BYTES", shape)
        elif step.kind == "nms":
            boxes, rows = specs[step.boxes], spec.shape[0]
            specs[step.boxes] = replace(boxes, shape=(rows, step.k, 4))
            specs[step.output] = replace(spec, shape=(rows, step.k), labels=())
            specs[f"{step.output}_labels"] = TensorSpec(f"{step.output}_labels", "BYTES", (rows, step.k))
    return tuple(specs.values())


def softmax(values: Array) -> Array:
    """Return the softmax over the last axis; integers are taken as float32."""
    floats = values if values.dtype.kind == "f" else values.astype(np.float32)
    powers = np.exp(floats - floats.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def sigmoid(values: Array) -> Array:
    """Return ``1 / (1 + exp(-x))``, without overflow for large negative values."""
    floats = values if values.dtype.kind == "f" else values.astype(np.float32)
    small = np.exp(-np.abs(floats))
    result: Array = np.where(floats >= 0, 1, small) / (1 + small)
    return result.astype(floats.dtype, copy=False)


def top_k(values: Array, k: int, labels: Sequence[str]) -> tuple[Array, Array]:
    """Return the ``k`` greatest values of the last axis, greatest first, and their class names (or indices) as bytes.

    Equal values keep the order of their classes.
    """
    k = min(k, values.shape[-1])
    # A stable sort of the reversed order would turn ties round; negating would overflow unsigned types.
    order = np.flip(np.argsort(np.flip(values, -1), axis=-1, kind="stable"), -1)[..., :k]
    places = values.shape[-1] - 1 - order
    return np.take_along_axis(values, places, axis=-1), _names(places, values.shape[-1], labels)


def nms(boxes: Array, scores: Array, step: OutputStep, labels: Sequence[str]) -> tuple[Array, Array, Array]:
    """Keep the best boxes that do not overlap a better one of their class.

    Args:
        boxes: ``[N, boxes, 4]`` as (x1, y1, x2, y2).
        scores: ``[N, boxes, classes]``, or ``[N, boxes]`` for one class.
        step: thresholds and ``k``, how many boxes are kept at most.
        labels: class names; a class called ``background`` (or nothing) is never kept.

    Returns:
        Boxes ``[N, k, 4]``, scores ``[N, k]`` and labels ``[N, k]`` (bytes), best first; where fewer are kept the rest
        is zero boxes, zero scores and empty labels, so that shapes do not depend on the picture.
    """
    rows = len(boxes)
    kept_boxes = np.zeros((rows, step.k, 4), boxes.dtype)
    kept_scores = np.zeros((rows, step.k), scores.dtype)
    kept_labels = np.full((rows, step.k), b"", dtype=object)
    by_class = scores[..., None] if scores.ndim == 2 else scores
    classes = [c for c in range(by_class.shape[-1]) if not labels or labels[c] not in BACKGROUND]
    names = _names(np.arange(by_class.shape[-1]), by_class.shape[-1], labels)
    for row in range(rows):
        found = [
            (float(by_class[row, box, c]), c, box)
            for c in classes
            for box in _greedy(boxes[row], by_class[row, :, c], step)
        ]
        found.sort(key=lambda one: (-one[0], one[1], one[2]))
        for place, (score, c, box) in enumerate(found[: step.k]):
            kept_boxes[row, place], kept_scores[row, place] = boxes[row, box], score
            kept_labels[row, place] = names[c]
    return kept_boxes, kept_scores, kept_labels


def _greedy(boxes: Array, scores: Array, step: OutputStep) -> list[int]:
    """Return the indices of one class's kept boxes, best first; at most ``step.k``."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    order = order[scores[order] >= step.score_threshold]
    area = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    kept: list[int] = []
    while order.size and len(kept) < step.k:
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=-1)
        union = area[best] + area[rest] - shared
        overlap = np.divide(shared, union, out=np.zeros_like(shared, dtype=np.float64), where=union > 0)
        order = rest[overlap <= step.iou_threshold]
    return kept


def _names(places: Array, classes: int, labels: Sequence[str]) -> Array:
    table = np.empty(classes, dtype=object)
    table[:] = [(labels[index] if index < len(labels) else str(index)).encode() for index in range(classes)]
    named: Array = table[places]
    return named
