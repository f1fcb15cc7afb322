"""SSD's two layers in numpy, from Caffe's own source (the SSD fork's ``src/caffe/layers`` and ``util/bbox_util``)."""

import math

import numpy as np


def prior_rule(rows, columns, image, sizes, *, clip, variance, step, offset):
    """``PriorBoxLayer::Forward_cpu``."""
    (height, width), boxes = image, []
    for h in range(rows):
        for w in range(columns):
            x, y = (w + offset) * (step or width / columns), (h + offset) * (step or height / rows)
            for bw, bh in sizes:
                boxes += [(x - bw / 2) / width, (y - bh / 2) / height, (x + bw / 2) / width, (y + bh / 2) / height]
    boxes = np.clip(boxes, 0, 1) if clip else np.array(boxes)
    return np.stack([boxes, np.tile(variance, len(boxes) // 4)])[None]


def decode_rule(code, prior, variance, offset):
    """``DecodeBBox`` of one box."""
    offset = offset * variance
    w, h = prior[2] - prior[0], prior[3] - prior[1]
    if code == "CORNER":
        return prior + offset
    if code == "CORNER_SIZE":
        return prior + offset * (w, h, w, h)
    x, y = (prior[0] + prior[2]) / 2 + offset[0] * w, (prior[1] + prior[3]) / 2 + offset[1] * h
    w, h = math.exp(offset[2]) * w, math.exp(offset[3]) * h
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def overlap_rule(a, b):
    """``JaccardOverlap`` of normalised boxes."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return w * h / (sum(area) - w * h)


def detection_rule(case, location, confidence, priors):
    """``DetectionOutputLayer::Forward_cpu`` with ``ApplyNMSFast``."""
    classes, count = case["classes"], priors.shape[2] // 4
    sets = 1 if case["shared"] else classes
    boxes, variances = priors[0].reshape(2, count, 4)
    rows = []
    for image in range(len(location)):
        offsets = location[image].reshape(count, sets, 4)
        scores = confidence[image].reshape(count, classes)
        ones = np.ones(4)
        found = []
        for label in range(classes):
            if label == case["background"]:
                continue
            order = [i for i in np.argsort(-scores[:, label], kind="stable") if scores[i, label] > case["threshold"]]
            kept = []
            for i in order[: case["top_k"]] if case["top_k"] > 0 else order:
                variance = ones if case["encoded"] else variances[i]
                box = decode_rule(case["code"], boxes[i], variance, offsets[i, 0 if case["shared"] else label])
                if all(overlap_rule(box, other) <= case["overlap"] for other in kept):
                    kept.append(box)
                    found.append((scores[i, label], label, box))
        found.sort(key=lambda row: -row[0])
        rows += [
            (image, label, score, *box) for score, label, box in found[: case["keep"] if case["keep"] > 0 else None]
        ]
    return np.array(rows, np.float32).reshape(-1, 7)


def in_order(rows):
    """Rows of detections in an order that does not depend on how equal scores were sorted."""
    return rows[np.lexsort(np.round(rows[:, [2, 1, 0]].T, 4))]
