"""Caffe's layers in numpy, from its own definitions (``src/caffe/layers``); each function adds one to a net."""

import itertools
import math

import numpy as np
from ssd_rules import detection_rule, prior_rule

from whet.models.importers import caffe


def windows(sizes, kernel, stride, pad):
    """Yield (output index, start, clipped end) of Caffe's ceil-rounded windows along every axis."""
    axes = []
    for size, k, s, p in zip(sizes, kernel, stride, pad, strict=True):
        count = math.ceil((size + 2 * p - k) / s) + 1
        if p and (count - 1) * s >= size + p:
            count -= 1
        axes.append([(i, i * s - p, min(i * s - p + k, size + p)) for i in range(count)])
    return axes


def pooled(x, average, kernel, stride, pad):
    rows, columns = windows(x.shape[2:], kernel, stride, pad)
    y = np.zeros((*x.shape[:2], len(rows), len(columns)))
    for (i, top, bottom), (j, left, right) in itertools.product(rows, columns):
        area = x[:, :, max(top, 0) : min(bottom, x.shape[2]), max(left, 0) : min(right, x.shape[3])]
        y[:, :, i, j] = area.sum((2, 3)) / ((bottom - top) * (right - left)) if average else area.max((2, 3))
    return y


def convolved(x, weight, bias, stride, pad, dilation, group):
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    kh, kw = weight.shape[2:]
    h, w = (
        (size - d * (k - 1) - 1) // s + 1 for size, d, k, s in zip(x.shape[2:], dilation, (kh, kw), stride, strict=True)
    )
    y = np.zeros((len(x), len(weight), h, w))
    ins, outs = x.shape[1] // group, len(weight) // group
    for o, i, j in itertools.product(range(len(weight)), range(kh), range(kw)):
        first = o // outs * ins
        part = x[:, first : first + ins, i * dilation[0] :, j * dilation[1] :][:, :, :: stride[0], :: stride[1]]
        y[:, o] += np.einsum("nchw,c->nhw", part[:, :, :h, :w], weight[o, :, i, j])
    return y + bias[None, :, None, None]


def deconvolved(x, weight, bias, stride, pad, dilation, group):
    n, c, h, w = x.shape
    kh, kw = weight.shape[2:]
    full = [s * (size - 1) + d * (k - 1) + 1 for s, size, d, k in zip(stride, (h, w), dilation, (kh, kw), strict=True)]
    outs = weight.shape[1]
    y = np.zeros((n, outs * group, *full))
    for ch, o, i, j in itertools.product(range(c), range(outs), range(kh), range(kw)):
        target = ch // (c // group) * outs + o
        rows, columns = slice(i * dilation[0], None, stride[0]), slice(j * dilation[1], None, stride[1])
        y[:, target, rows, columns][:, :h, :w] += x[:, ch] * weight[ch, o, i, j]
    y = y[:, :, pad[0] : full[0] - pad[0], pad[1] : full[1] - pad[1]]
    return y + bias[None, :, None, None]


def spatial_layer(net, name, kind):
    x, rng = net.tensors[name], net.rng
    h, w = x.shape[2:]
    kernel = [rng.randrange(1, min(4, size) + 1) for size in (h, w)]
    stride = [rng.randrange(1, 4) for _ in kernel]
    pad = [rng.randrange(min(2, k - 1) + 1) for k in kernel]
    sizes = "kernel_h: {} kernel_w: {} stride_h: {} stride_w: {} pad_h: {} pad_w: {}".format(*kernel, *stride, *pad)
    if kind == "Pooling":
        stride = [min(s, k) for s, k in zip(stride, kernel, strict=True)]
        sizes = "kernel_h: {} kernel_w: {} stride_h: {} stride_w: {} pad_h: {} pad_w: {}".format(*kernel, *stride, *pad)
        average = rng.random() < 0.6
        if rng.random() < 0.1:
            y = x.mean((2, 3), keepdims=True) if average else x.max((2, 3), keepdims=True)
            return net.add(
                kind, [name], [y], f"pooling_param {{ pool: {'AVE' if average else 'MAX'} global_pooling: true }}"
            )
        y = pooled(x, average, kernel, stride, pad)
        return net.add(kind, [name], [y], f"pooling_param {{ pool: {'AVE' if average else 'MAX'} {sizes} }}")
    c = x.shape[1]
    depthwise = kind in ("DepthwiseConvolution", "ConvolutionDepthwise")
    group = c if depthwise else rng.choice([g for g in (1, 2, 4) if c % g == 0])
    outputs = group * rng.randrange(1, 3)
    dilation = [1, 1]
    if rng.random() < 0.3 and all(2 * (k - 1) + 1 <= size for k, size in zip(kernel, (h, w), strict=True)):
        dilation, sizes = [2, 2], f"{sizes} dilation: 2"
    first = (c, outputs // group) if kind == "Deconvolution" else (outputs, c // group)
    weight, bias = net.array((*first, *kernel)), net.array((outputs,))
    biased = rng.random() < 0.7
    if not biased:
        bias = np.zeros(outputs)
    if kind == "Deconvolution" and any(
        s * (n - 1) + d * (k - 1) + 1 - 2 * p < 1
        for s, n, d, k, p in zip(stride, (h, w), dilation, kernel, pad, strict=True)
    ):
        return [name]
    rule = deconvolved if kind == "Deconvolution" else convolved
    params = f"num_output: {outputs} {sizes} {'' if biased else 'bias_term: false'} group: {group}"
    y = rule(x, weight, bias, stride, pad, dilation, group)
    return net.add(kind, [name], [y], f"convolution_param {{ {params} }}", [weight, bias] if biased else [weight])


def dense(net, name):
    x, rng = net.tensors[name], net.rng
    axis = rng.choice([a for a in (1, -1) if x.ndim + a >= 1])
    real = axis % x.ndim
    outputs, elements = rng.randrange(1, 6), math.prod(x.shape[real:])
    weight, bias = net.array((outputs, elements)), net.array(outputs)
    y = x.reshape(*x.shape[:real], elements) @ weight.T + bias
    turned = rng.random() < 0.3
    params = f"inner_product_param {{ num_output: {outputs} axis: {axis} transpose: {str(turned).lower()} }}"
    return net.add("InnerProduct", [name], [y], params, [weight.T if turned else weight, bias])


def lrn(net, name):
    x, rng = net.tensors[name].astype(np.float64), net.rng
    size, alpha, beta, k = rng.choice((1, 3, 5)), rng.uniform(0.1, 2), rng.uniform(0.25, 1), rng.choice((1.0, 2.0))
    half, squares = size // 2, x * x
    params = f"local_size: {size} alpha: {alpha} beta: {beta}"
    if rng.random() < 0.5:
        total = sum(
            np.pad(squares, [(0, 0), (half, half)] + [(0, 0)] * (x.ndim - 2))[:, i : i + x.shape[1]]
            for i in range(size)
        )
        return net.add("LRN", [name], [x / (k + alpha / size * total) ** beta], f"lrn_param {{ {params} k: {k} }}")
    mean = pooled(squares, True, (size, size), (1, 1), (half, half))
    y = x * (1 + alpha * mean) ** -beta
    return net.add("LRN", [name], [y], f"lrn_param {{ {params} norm_region: WITHIN_CHANNEL }}")


def channels(array, x):
    return array.reshape(1, -1, *(1 for _ in x.shape[2:]))


def normed(net, name, kind):
    x, rng = net.tensors[name].astype(np.float64), net.rng
    c = x.shape[1]
    if kind == "BatchNorm":
        factor = rng.choice((0.0, 1.0, 3.0))
        mean, variance = net.array(c), net.array(c, 0.5, 2)
        scale = 1 / factor if factor else 0
        # with factor 0 both are zero, and a tiny variance magnifies: use a large eps
        eps = 0.5 if not factor else 1e-3
        y = (x - channels(mean * scale, x)) / np.sqrt(channels(variance * scale, x) + eps)
        return net.add(kind, [name], [y], f"batch_norm_param {{ eps: {eps} }}", [mean, variance, [factor]])
    if kind == "BN":
        blobs = [net.array(c, 0.5, 1.5), net.array(c), net.array(c), net.array(c, 0.5, 2)]
        if rng.random() < 0.5:
            return net.add(kind, [name], [x * channels(blobs[0], x) + channels(blobs[1], x)], "", blobs[:2])
        y = (x - channels(blobs[2], x)) / np.sqrt(channels(blobs[3], x) + 1e-5)
        return net.add(kind, [name], [y * channels(blobs[0], x) + channels(blobs[1], x)], "", blobs)
    if kind == "MVN":
        across, scaled = rng.random() < 0.5, rng.random() < 0.5
        axes = tuple(range(1 if across else 2, x.ndim))
        y = x - x.mean(axes, keepdims=True)
        if scaled:
            y = y / (np.sqrt((y * y).mean(axes, keepdims=True)) + 0.1)
        flags = f"across_channels: {str(across).lower()} normalize_variance: {str(scaled).lower()} eps: 0.1"
        return net.add(kind, [name], [y], f"mvn_param {{ {flags} }}")
    across, shared = rng.random() < 0.5, rng.random() < 0.5
    scale = net.array(1 if shared else c)
    total = (x * x).sum((1, 2, 3) if across else 1, keepdims=True)
    flags = f"across_spatial: {str(across).lower()} channel_shared: {str(shared).lower()} eps: 0.01"
    return net.add(
        "Normalize", [name], [x / np.sqrt(total + 0.01) * channels(scale, x)], f"norm_param {{ {flags} }}", [scale]
    )


def scaled(net, name, kind):
    x, rng = net.tensors[name], net.rng
    if rng.random() < 0.3:
        other = net.twin(name)
        y = x * net.tensors[other] if kind == "Scale" else x + net.tensors[other]
        return net.add(kind, [name, other], [y], f"{kind.lower()}_param {{ axis: 0 }}")
    axis = rng.randrange(1, x.ndim)
    span = rng.choice((-1, 1, x.ndim - axis))
    shape = x.shape[axis:] if span == -1 else x.shape[axis : axis + span]
    blobs = [net.array(shape), net.array(shape)]
    wide = [blob.reshape((1,) * axis + blob.shape + (1,) * (x.ndim - axis - blob.ndim)) for blob in blobs]
    if kind == "Bias":
        return net.add(kind, [name], [x + wide[0]], f"bias_param {{ axis: {axis} num_axes: {span} }}", blobs[:1])
    params = f"scale_param {{ axis: {axis} num_axes: {span} bias_term: true }}"
    return net.add(kind, [name], [x * wide[0] + wide[1]], params, blobs)


def eltwise(net, name):
    x, other, rng = net.tensors[name], net.twin(name), net.rng
    y = net.tensors[other]
    kind = rng.choice(("PROD", "SUM", "MAX", "COEFF"))
    values = {"PROD": x * y, "SUM": x + y, "MAX": np.maximum(x, y), "COEFF": 0.5 * x - 2 * y}
    params = "operation: SUM coeff: 0.5 coeff: -2" if kind == "COEFF" else f"operation: {kind}"
    return net.add("Eltwise", [name, other], [values[kind]], f"eltwise_param {{ {params} }}")


def pointwise(net, name, kind):
    x, rng = net.tensors[name].astype(np.float64), net.rng
    a, b = rng.uniform(-0.5, 0.5), rng.uniform(0.1, 1)
    sigmoid = 1 / (1 + np.exp(-x))
    slope = net.array(1 if rng.random() < 0.5 else x.shape[1])
    shared = f"prelu_param {{ channel_shared: {str(len(slope) == 1).lower()} }}"
    positive = np.abs(x)
    rules = {
        "ReLU": (np.where(x > 0, x, a * x), f"relu_param {{ negative_slope: {a} }}", ()),
        "PReLU": (np.where(x > 0, x, x * channels(slope, x)), shared, [slope]),
        "ELU": (np.where(x > 0, x, b * (np.exp(x) - 1)), f"elu_param {{ alpha: {b} }}", ()),
        "ReLU6": (x.clip(0, 6), "", ()),
        "Clip": (x.clip(-b, b), f"clip_param {{ min: {-b} max: {b} }}", ()),
        "Swish": (x / (1 + np.exp(-b * x)), f"swish_param {{ beta: {b} }}", ()),
        "Sigmoid": (sigmoid, "", ()),
        "TanH": (np.tanh(x), "", ()),
        "AbsVal": (positive, "", ()),
        "BNLL": (np.log1p(np.exp(x)), "", ()),
        "Power": ((2 + b * x) ** 2, f"power_param {{ power: 2 scale: {b} shift: 2 }}", ()),
        "Exp": (2 ** (a * x + b), f"exp_param {{ base: 2 scale: {a} shift: {b} }}", ()),
    }
    value, params, blobs = rules[kind]
    return net.add(kind, [name], [value], params, blobs)


def logarithm(net, name):
    lifted = net.add("AbsVal", [name], [np.abs(net.tensors[name])])[0]
    y = np.log(0.5 * net.tensors[lifted].astype(np.float64) + 1) / np.log(10)
    return net.add("Log", [lifted], [y], "log_param { base: 10 scale: 0.5 shift: 1 }")


def softmax(net, name):
    x = net.tensors[name].astype(np.float64)
    axis = net.rng.randrange(1, x.ndim)
    e = np.exp(x - x.max(axis, keepdims=True))
    return net.add("Softmax", [name], [e / e.sum(axis, keepdims=True)], f"softmax_param {{ axis: {axis} }}")


def rearranged(net, name, kind):
    x, rng = net.tensors[name], net.rng
    if kind == "Concat":
        axis = rng.randrange(1, x.ndim)
        other = net.twin(name)
        y = np.concatenate([x, net.tensors[other]], axis)
        return net.add(kind, [name, other], [y], f"concat_param {{ axis: {axis - rng.choice((0, x.ndim))} }}")
    if kind == "Slice":
        axis = rng.choice([a for a in range(1, x.ndim) if x.shape[a] > 1] or [0])
        if not axis:
            return [name]
        point = rng.randrange(1, x.shape[axis])
        return net.add(kind, [name], np.split(x, [point], axis), f"slice_param {{ axis: {axis} slice_point: {point} }}")
    if kind == "Flatten":
        axis = rng.randrange(1, x.ndim)
        y = x.reshape(*x.shape[:axis], -1)
        return net.add(kind, [name], [y], f"flatten_param {{ axis: {axis} }}")
    if kind == "Reshape":
        axis = rng.randrange(1, x.ndim)
        y = x.reshape(*x.shape[:axis], x.shape[axis], -1, 1)
        return net.add(kind, [name], [y], f"reshape_param {{ axis: {axis} shape {{ dim: 0 dim: -1 dim: 1 }} }}")
    if kind == "Permute":
        order = [0, *rng.sample(range(1, x.ndim), x.ndim - 1)]
        return net.add(
            kind, [name], [x.transpose(order)], f"permute_param {{ {' '.join(f'order: {o}' for o in order)} }}"
        )
    if kind == "Tile":
        return net.add(kind, [name], [np.concatenate([x, x], 1)], "tile_param { tiles: 2 }")
    if kind == "Split":
        return net.add(kind, [name], [x, x])
    if kind == "Dropout":
        return net.add(kind, [name], [x], "dropout_param { dropout_ratio: 0.5 }")
    axis = rng.randrange(1, x.ndim)
    operation = rng.choice(("SUM", "ASUM", "SUMSQ", "MEAN"))
    rules = {"SUM": x.sum, "ASUM": np.abs(x).sum, "SUMSQ": (x * x).sum, "MEAN": x.mean}
    y = rules[operation](tuple(range(axis, x.ndim))) * 0.5
    return net.add("Reduction", [name], [y], f"reduction_param {{ operation: {operation} axis: {axis} coeff: 0.5 }}")


def imaged(net, name, kind):
    x, rng = net.tensors[name], net.rng
    _, c, h, w = x.shape
    if kind == "Crop":
        up = net.add(
            "Deconvolution",
            [name],
            [x.repeat(2, 2).repeat(2, 3)],
            f"convolution_param {{ num_output: {c} group: {c} kernel_size: 2 stride: 2 bias_term: false }}",
            [np.ones((c, 1, 2, 2))],
        )[0]
        offset = rng.randrange(min(h, w) + 1)
        y = net.tensors[up][:, :, offset : offset + h, offset : offset + w]
        return net.add(kind, [up, name], [y], f"crop_param {{ axis: 2 offset: {offset} }}")
    if kind == "Interp":
        sizes = [rng.randrange(2, 9) for _ in range(2)]
        y = x.astype(np.float64)
        for axis, size in zip((2, 3), sizes, strict=True):
            full = y.shape[axis]
            place = np.arange(size) * ((full - 1) / (size - 1))
            low = np.minimum(place.astype(int), full - 1)
            high, share = np.minimum(low + 1, full - 1), place - low
            share = share.reshape((-1, 1) if axis == 2 else (-1,))
            y = y.take(low, axis) * (1 - share) + y.take(high, axis) * share
        return net.add(kind, [name], [y], f"interp_param {{ height: {sizes[0]} width: {sizes[1]} }}")
    if kind == "Upsample":
        return net.add(kind, [name], [x.repeat(2, 2).repeat(2, 3)], "upsample_param { scale: 2 }")
    if kind == "ShuffleChannel":
        group = rng.choice([g for g in (1, 2, 3, 4) if c % g == 0])
        y = np.stack([x[:, (i % group) * (c // group) + i // group] for i in range(c)], 1)
        return net.add(kind, [name], [y], f"shuffle_channel_param {{ group: {group} }}")
    gate = net.add(
        "Pooling", [name], [x.mean((2, 3), keepdims=True)], "pooling_param { pool: AVE global_pooling: true }"
    )[0]
    other = net.twin(name)
    return net.add("Axpy", [gate, name, other], [net.tensors[gate] * x + net.tensors[other]])


def picked(net, name, kind):
    x = net.tensors[name]
    if kind == "Silence":
        kept, dropped = net.add("Split", [name], [x, x])
        net.add(kind, [dropped], [])
        return [kept]
    if kind == "ArgMax":
        low, high = np.sort(x.reshape(len(x), x.shape[1], -1), 1)[:, -2:].swapaxes(0, 1) if x.shape[1] > 1 else (0, 1)
        if np.min(high - low) < 1e-3:  # a tie has no definition in the source
            return [name]
        return net.add(kind, [name], [x.argmax(1)[:, None].astype(np.float64)], "argmax_param { axis: 1 }")
    values = np.unique(x)
    gap = int(np.argmax(np.diff(values))) if len(values) > 1 else None
    if gap is None or values[gap + 1] - values[gap] < 1e-3:
        return [name]
    bound = float(values[gap : gap + 2].mean())
    ones = net.add("Threshold", [name], [np.float64(x > bound)], f"threshold_param {{ threshold: {bound} }}")
    if kind == "Threshold":
        return ones
    table, bias = net.array((3, 2)), net.array(2)
    y = table[net.tensors[ones[0]].astype(int)] + bias
    return net.add(kind, ones, [y], "embed_param { input_dim: 3 num_output: 2 }", [table, bias])


def ssd_layer(net, name, kind):
    """A prior box a cell; for detections, two convolutions of 1x1 that say where and what, as SSD's heads do."""
    x, rng = net.tensors[name], net.rng
    if net.x.ndim != 4 or x.shape[0] != net.x.shape[0]:
        return [name]
    rows, columns = x.shape[2:]
    size, clip, variance = rng.uniform(1, 4), rng.random() < 0.5, [0.1, 0.1, 0.2, 0.2]
    boxes = prior_rule(rows, columns, net.x.shape[2:], [(size, size)], clip=clip, variance=variance, step=0, offset=0.5)
    said = f"min_size: {size} clip: {str(clip).lower()} {' '.join(f'variance: {v}' for v in variance)}"
    priors = net.add("PriorBox", [name, "data"], [boxes], f"prior_box_param {{ {said} }}")
    if kind == "PriorBox":
        return [name]
    classes = rng.randrange(2, 4)
    case = {"classes": classes, "background": 0, "shared": True, "code": "CENTER_SIZE", "encoded": False}
    case |= {"top_k": 5, "keep": rng.choice((-1, 3)), "overlap": 0.45, "threshold": 0.1}
    heads = [one_head(net, name, outputs) for outputs in (4, classes)]
    where, what = (net.tensors[head] for head in heads)
    y = detection_rule(case, where, what, boxes)[None, None]
    params = f"num_classes: {classes} code_type: CENTER_SIZE keep_top_k: {case['keep']} confidence_threshold: 0.1"
    params += " nms_param { nms_threshold: 0.45 top_k: 5 }"
    found = net.add(kind, [*heads, *priors], [y], f"detection_output_param {{ {params} }}")
    net.detections.update(found)
    return [name]


def one_head(net, name, outputs):
    x = net.tensors[name]
    weight, bias = net.array((outputs, x.shape[1], 1, 1)), net.array(outputs)
    y = np.einsum("nchw,oc->nohw", x.astype(np.float64), weight[:, :, 0, 0]) + bias[None, :, None, None]
    head = net.add(
        "Convolution", [name], [y], f"convolution_param {{ num_output: {outputs} kernel_size: 1 }}", [weight, bias]
    )
    y = y.transpose(0, 2, 3, 1)
    head = net.add("Permute", head, [y], "permute_param { order: 0 order: 2 order: 3 order: 1 }")
    return net.add("Flatten", head, [y.reshape(len(y), -1)])[0]


IMAGES = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "Deconvolution", "Pooling")
SPREAD = ("Crop", "Interp", "Upsample", "ShuffleChannel", "Axpy")
NORMS = ("BatchNorm", "BN", "MVN", "Normalize")
POINTS = ("ReLU", "PReLU", "ELU", "ReLU6", "Clip", "Swish", "Sigmoid", "TanH", "AbsVal", "BNLL", "Power", "Exp")
MOVES = ("Concat", "Slice", "Flatten", "Reshape", "Permute", "Tile", "Split", "Dropout", "Reduction")
PICKS = ("Threshold", "ArgMax", "Embed", "Silence")
SSD = ("PriorBox", "DetectionOutput")
KINDS = sorted(caffe.SUPPORTED)


def grow(net, name, kind):
    """Add a layer of a kind where the tensor permits; return the tensor to go on with."""
    x = net.tensors[name]
    if x.ndim < 2 or x.ndim > 6 or x.size > 4000:
        return name
    if kind in (*IMAGES, *SPREAD, *NORMS, *SSD, "LRN") and x.ndim != 4:
        return name
    if kind in IMAGES:
        return spatial_layer(net, name, kind)[0]
    families = ((SPREAD, imaged), (NORMS, normed), (POINTS, pointwise), (MOVES, rearranged), (PICKS, picked))
    for kinds, function in (*families, (SSD, ssd_layer)):
        if kind in kinds:
            return function(net, name, kind)[0]
    if kind in ("Scale", "Bias"):
        return scaled(net, name, kind)[0]
    return {"InnerProduct": dense, "LRN": lrn, "Eltwise": eltwise, "Softmax": softmax, "Log": logarithm}[kind](
        net, name
    )[0]
