"""MXNet's operators in numpy, from its own definitions (``src/operator``); each function adds one to a net."""

import itertools
import math

import numpy as np

from whet.models.importers import mxnet


def pooled(x, kind, window, *, full, include):
    """``pool_sum_2d_cpu`` and friends: windows clipped to the padded, then to the real data."""
    kernel, stride, pad = window
    round_ = math.ceil if full else math.floor
    counts = [round_((n + 2 * p - k) / s) + 1 for n, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True)]
    y = np.zeros((*x.shape[:2], *counts))
    for i, j in itertools.product(*map(range, counts)):
        spans = []
        for place, n, k, s, p in zip((i, j), x.shape[2:], kernel, stride, pad, strict=True):
            start, end = place * s - p, min(place * s - p + k, n + p)
            spans.append((start, end, max(start, 0), max(min(end, n), start, 0)))
        (_, _, top, bottom), (_, _, left, right) = spans
        area = x[:, :, top:bottom, left:right]
        whole = math.prod(span[1] - span[0] for span in spans) if include else (bottom - top) * (right - left)
        if kind == "max":
            y[:, :, i, j] = area.max((2, 3)) if area.size else np.finfo(np.float32).min
        else:
            y[:, :, i, j] = area.sum((2, 3)) / (1 if kind == "sum" else max(whole, 1))
    return y


def windowed(net, x):
    rng = net.rng
    kernel = tuple(rng.randrange(1, min(3, n) + 1) for n in x.shape[2:])
    stride, pad = tuple(rng.randrange(1, 3) for _ in kernel), tuple(rng.randrange(min(2, k)) for k in kernel)
    return kernel, stride, pad


def pooling(net, ref):
    x, rng = net.tensors[ref], net.rng
    kind = rng.choice(("max", "avg", "sum"))
    if rng.random() < 0.2:
        rule = {"max": x.max, "avg": x.mean, "sum": x.sum}[kind]
        return net.add("Pooling", [ref], [rule((2, 3), keepdims=True)], pool_type=kind, global_pool=True, kernel=(9, 9))
    window = windowed(net, x)
    full, include = rng.random() < 0.5, rng.random() < 0.5
    # A window wholly outside even the padding has no definition in the source.
    if full and any(s > k for s, k in zip(window[1], window[0], strict=True)):
        full = False
    y = pooled(x, kind, window, full=full, include=include)
    if kind == "max" and y.min() < -1e30:
        full = False
        y = pooled(x, kind, window, full=full, include=include)
    convention = "full" if full else "valid"
    return net.add(
        "Pooling", [ref], [y], pool_type=kind, kernel=window[0], stride=window[1], pad=window[2],
        pooling_convention=convention, count_include_pad=include,
    )  # fmt: skip


def convolved(x, weight, bias, window, group):
    kernel, stride, pad = window
    x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    h, w = ((n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel, stride, strict=True))
    y = np.zeros((len(x), len(weight), h, w))
    ins, outs = x.shape[1] // group, len(weight) // group
    for o, i, j in itertools.product(range(len(weight)), *map(range, kernel)):
        first = o // outs * ins
        part = x[:, first : first + ins, i :: stride[0], j :: stride[1]][:, :, :h, :w]
        y[:, o] += np.einsum("nchw,c->nhw", part, weight[o, :, i, j])
    return y + bias[None, :, None, None]


def convolution(net, ref, op):
    x, rng, window = net.tensors[ref], net.rng, windowed(net, net.tensors[ref])
    group = rng.choice([g for g in (1, 2, x.shape[1]) if x.shape[1] % g == 0])
    outputs = group * rng.randrange(1, 3)
    weight, bias = net.array((outputs, x.shape[1] // group, *window[0])), net.array(outputs)
    bare = rng.random() < 0.4
    y = convolved(x, weight, bias * (not bare), window, group)
    weights = [("weight", weight)] if bare else [("weight", weight), ("bias", bias)]
    attributes = {"kernel": window[0], "stride": window[1], "pad": window[2], "num_filter": outputs, "num_group": group}
    return net.add(op, [ref], [y], weights, **attributes, no_bias=bare)


def deconvolution(net, ref):
    x, rng = net.tensors[ref], net.rng
    kernel, stride = (3, 2), (2, 2)
    adj = (rng.randrange(2), rng.randrange(2))
    weight = net.array((x.shape[1], 3, *kernel))
    h, w = x.shape[2:]
    y = np.zeros((len(x), 3, *(s * (n - 1) + k + a for s, n, k, a in zip(stride, (h, w), kernel, adj, strict=True))))
    for c, i, j in itertools.product(range(x.shape[1]), *map(range, kernel)):
        y[:, :, i::2, j::2][:, :, :h, :w] += x[:, c, None] * weight[c, :, i, j][None, :, None, None]
    return net.add(
        "Deconvolution", [ref], [y], [("weight", weight)], kernel=kernel, stride=stride, num_filter=3, adj=adj
    )


def dense(net, ref):
    x, flat = net.tensors[ref], net.rng.random() < 0.5
    elements = math.prod(x.shape[1:]) if flat else x.shape[-1]
    weight, bias = net.array((3, elements)), net.array(3)
    y = (x.reshape(len(x), -1) if flat else x) @ weight.T + bias
    return net.add("FullyConnected", [ref], [y], [("weight", weight), ("bias", bias)], num_hidden=3, flatten=flat)


def spread(array, x, axis=1):
    return array.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def norms(net, ref, op):
    x, rng = net.tensors[ref], net.rng
    if op == "LRN":
        size, alpha, beta, k = rng.choice((1, 3, 5)), 0.5, 0.75, 2.0
        padded = np.pad(x * x, [(0, 0), (size // 2,) * 2] + [(0, 0)] * (x.ndim - 2))
        total = sum(padded[:, i : i + x.shape[1]] for i in range(size))
        return net.add(op, [ref], [x / (k + alpha / size * total) ** beta], nsize=size, alpha=alpha)
    if op == "L2Normalization":
        mode = rng.choice(("instance", "channel", "spatial") if x.ndim > 2 else ("instance",))  # as MXNet asks
        axes = {"instance": tuple(range(1, x.ndim)), "channel": (1,), "spatial": tuple(range(2, x.ndim))}[mode]
        return net.add(op, [ref], [x / np.sqrt((x * x).sum(axes, keepdims=True) + 0.01)], mode=mode, eps=0.01)
    gamma, beta = net.array(x.shape[1]), net.array(x.shape[1])
    if op == "InstanceNorm":
        mean = x.mean((2, 3), keepdims=True)
        variance = ((x - mean) ** 2).mean((2, 3), keepdims=True)
        y = (x - mean) / np.sqrt(variance + 0.1) * spread(gamma, x) + spread(beta, x)
        return net.add(op, [ref], [y], [("gamma", gamma), ("beta", beta)], eps=0.1)
    axis = rng.randrange(1, x.ndim)
    gamma, beta, mean = (net.array(x.shape[axis]) for _ in range(3))
    variance, fixed = net.array(x.shape[axis], 0.5, 2), rng.random() < 0.5
    y = (x - spread(mean, x, axis)) / np.sqrt(spread(variance, x, axis) + 1e-3)
    y = y * (1 if fixed else spread(gamma, x, axis)) + spread(beta, x, axis)
    weights = [("gamma", gamma), ("beta", beta), ("moving_mean", mean), ("moving_var", variance)]
    said = {} if fixed else {"fix_gamma": rng.choice(("False", "0"))}  # the default is true
    return net.add(op, [ref], [y], weights, axis=axis, **said)


def erf(x):
    return np.vectorize(math.erf)(x)


def softmax_of(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def activations(net, ref, op):
    x, rng = net.tensors[ref], net.rng
    if op == "Activation":
        rules = {
            "relu": np.maximum(x, 0), "sigmoid": 1 / (1 + np.exp(-x)), "tanh": np.tanh(x),
            "softrelu": np.log1p(np.exp(x)), "softsign": x / (1 + np.abs(x)),
        }  # fmt: skip
        kind = rng.choice(list(rules))
        return net.add(op, [ref], [rules[kind]], act_type=kind)
    slope = net.array(x.shape[1])
    rules = {
        "leaky": np.where(x > 0, x, 0.25 * x), "elu": np.where(x > 0, x, 0.25 * (np.exp(x) - 1)),
        "prelu": np.where(x > 0, x, x * spread(slope, x)), "gelu": 0.5 * x * (1 + erf(x / math.sqrt(2))),
        "selu": 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
        "rrelu": np.where(x > 0, x, x * (0.125 + 0.334) / 2),
    }  # fmt: skip
    kind = rng.choice(list(rules))
    weights = [("gamma", slope)] if kind == "prelu" else []
    return net.add(op, [ref], [rules[kind]], weights, act_type=kind)


def softmaxes(net, ref, op):
    x, rng = net.tensors[ref], net.rng
    whole = softmax_of(x.reshape(len(x), -1), 1).reshape(x.shape)
    if op == "softmax":
        axis, heat = rng.randrange(1, x.ndim), rng.choice((1.0, 2.0))
        return net.add(op, [ref], [softmax_of(x / heat, axis)], axis=axis, temperature=heat)
    if op == "log_softmax":
        return net.add(op, [ref], [np.log(softmax_of(x, -1))])
    if op == "SoftmaxActivation":
        mode = rng.choice(("instance", "channel"))
        return net.add(op, [ref], [whole if mode == "instance" else softmax_of(x, 1)], mode=mode)
    if op.endswith("RegressionOutput"):
        label = net.label()
        net.add(op, [ref, label], [1 / (1 + np.exp(-x)) if op.startswith("Logistic") else x])
        return (len(net.nodes) - 1, 0)
    mode = rng.choice(("plain", "multi", "kept"))
    y = {"plain": whole, "multi": softmax_of(x, 1), "kept": softmax_of(x, -1)}[mode]
    label = net.label()
    return net.add(op, [ref, label], [y], multi_output=mode == "multi", preserve_shape=mode == "kept")


def arithmetic(net, ref, op):
    x = net.tensors[ref]
    other = net.twin(ref)
    y = net.tensors[other]
    if "iv" in op or op == "_Div":  # a quotient of numbers near zero says nothing
        other = net.add("_PlusScalar", [other], [y + 3], scalar=3)
        y = net.tensors[other]
    if op.startswith("broadcast"):
        y = y.mean(1, keepdims=True)
        other = net.add("mean", [other], [y], axis="(1,)", keepdims=True)
    name = op.lower().replace("_", "")
    for word, value in (
        ("add", x + y), ("plus", x + y), ("sum", x + y), ("sub", x - y), ("minus", x - y),
        ("mul", x * y), ("div", x / np.where(y == 0, 1, y)), ("max", np.maximum(x, y)),
    ):  # fmt: skip
        if word in name:
            return net.add(op, [ref, other], [value])
    raise AssertionError(op)


def scalars(net, ref, op):
    x, a = net.tensors[ref], 0.75
    if op.lower().replace("_", "") in ("rdivscalar", "powerscalar"):
        ref = net.add("abs", [ref], [np.abs(x)])
        ref = net.add("_PlusScalar", [ref], [np.abs(x) + 1], scalar=1)
        x = net.tensors[ref]
    rules = {
        "plus": x + a, "minus": x - a, "rminus": a - x, "mul": x * a, "div": x / a, "rdiv": a / np.where(x == 0, 1, x),
        "power": np.abs(x) ** a,
        "maximum": np.maximum(x, a), "minimum": np.minimum(x, a),
    }  # fmt: skip
    return net.add(op, [ref], [rules[op.lower().replace("_", "").removesuffix("scalar")]], scalar=a)


def plain(net, ref, op):
    x = net.tensors[ref]
    if op in ("log", "sqrt"):
        ref = net.add("abs", [ref], [np.abs(x)])
        ref = net.add("_PlusScalar", [ref], [np.abs(x) + 1], scalar=1)
        x = net.tensors[ref]
    rules = {
        "relu": np.maximum(x, 0), "sigmoid": 1 / (1 + np.exp(-x)), "tanh": np.tanh(x), "softsign": x / (1 + np.abs(x)),
        "exp": np.exp(x.clip(None, 5)), "log": np.log(np.abs(x) + (x == 0)), "sqrt": np.sqrt(np.abs(x)),
        "abs": np.abs(x),
        "negative": -x, "square": x * x,
    }  # fmt: skip
    if op == "exp" and x.max() > 5:
        return ref
    return net.add(op, [ref], [rules.get(op, x)], **({"dtype": "float32"} if op.lower() == "cast" else {}))


def moved(net, ref, op):
    x, rng = net.tensors[ref], net.rng
    low = op.lower()
    axis = rng.randrange(1, x.ndim)
    if low == "clip":
        return net.add(op, [ref], [x.clip(-0.3, 0.4)], a_min=-0.3, a_max=0.4)
    if low == "flatten":
        return net.add(op, [ref], [x.reshape(len(x), -1)])
    if low == "reshape":
        joined = ((0, -3, -2), (x.shape[0], math.prod(x.shape[1:3]), *x.shape[3:])) if x.ndim > 2 else None
        split = ((0, -4, 1, -1, -2), (x.shape[0], 1, *x.shape[1:]))
        choices = [((0, -1), (len(x), -1)), split, ((-2, 1), (*x.shape, 1)), joined]
        codes, shape = rng.choice([choice for choice in choices if choice])
        return net.add(op, [ref], [x.reshape(shape)], shape=codes)
    if low == "transpose":
        order = (0, *rng.sample(range(1, x.ndim), x.ndim - 1))
        return net.add(op, [ref], [x.transpose(order)], axes=order)
    if low in ("swapaxis", "swapaxes"):
        return net.add(op, [ref], [x.swapaxes(1, axis)], dim1=1, dim2=axis)
    if low == "expand_dims":
        return net.add(op, [ref], [np.expand_dims(x, axis)], axis=axis)
    if low == "squeeze":
        grown = net.add("expand_dims", [ref], [np.expand_dims(x, axis)], axis=axis)
        return net.add(op, [grown], [x], axis=axis)
    if low == "concat":
        other = net.twin(ref)
        return net.add(op, [ref, other], [np.concatenate([x, net.tensors[other]], axis)], dim=axis, num_args=2)
    if low in ("slicechannel", "split"):
        size = x.shape[axis]
        squeezed = rng.random() < 0.5
        parts = [p.squeeze(axis) if squeezed else p for p in np.split(x, size, axis)]
        return net.add(op, [ref], parts, axis=axis, num_outputs=size, squeeze_axis=squeezed)
    if low == "slice_axis":
        begin = rng.randrange(x.shape[axis])
        return net.add(op, [ref], [x.take(range(begin, x.shape[axis]), axis)], axis=axis, begin=begin, end=None)
    if low == "pad":
        mode = rng.choice(("constant", "edge"))
        widths = [(0, 0), (0, 0)] + [(1, 2)] * (x.ndim - 2)
        extra = {"constant_value": 0.5} if mode == "constant" else {}
        y = np.pad(x, widths, mode, **({"constant_values": 0.5} if extra else {}))
        return net.add(op, [ref], [y], mode=mode, pad_width=tuple(itertools.chain(*widths)), **extra)
    rule = {"mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min}[low.split("_")[0]]
    keep, exclude = rng.random() < 0.5, rng.random() < 0.3
    axes = tuple(a for a in range(x.ndim) if a not in (0, axis)) if exclude else (axis,)
    if not axes:
        return ref
    said = (0, axis) if exclude else (axis,)
    return net.add(op, [ref], [rule(x, axes, keepdims=keep)], axis=said, keepdims=keep, exclude=exclude)


def imaged(net, ref, op):
    x = net.tensors[ref]
    if op == "UpSampling":
        return net.add(op, [ref], [x.repeat(2, 2).repeat(2, 3)], scale=2, sample_type="nearest", num_args=1)
    size = tuple(net.rng.randrange(1, n + 1) for n in x.shape[2:])
    top, left = ((n - s) // 2 for n, s in zip(x.shape[2:], size, strict=True))
    y = x[:, :, top : top + size[0], left : left + size[1]]
    return net.add(op, [ref], [y], h_w=size, center_crop=True, num_args=1)


def lookup(net, ref, op):
    low = net.add("clip", [ref], [net.tensors[ref].clip(-1, 1)], a_min=-1, a_max=1)
    places = net.tensors[low] + 1.5  # 0.5 .. 2.5, cut to whole numbers
    if np.abs(places - np.round(places)).min() < 1e-5:  # a rounding error would choose another row
        return ref
    where, table = net.add("_PlusScalar", [low], [places], scalar=1.5), net.array((3, 4))
    return net.add(op, [where], [table[places.astype(int)]], [("weight", table)], input_dim=3, output_dim=4)


FAMILIES = (
    (("Pooling",), lambda net, ref, op: pooling(net, ref)),
    (("Convolution", "Convolution_v1"), convolution),
    (("Deconvolution",), lambda net, ref, op: deconvolution(net, ref)),
    (("UpSampling", "Crop"), imaged),
    (("InstanceNorm", "LRN"), norms),
    (("L2Normalization", "BatchNorm", "BatchNorm_v1", "CuDNNBatchNorm"), norms),
    (("FullyConnected",), lambda net, ref, op: dense(net, ref)),
    (("Activation", "LeakyReLU"), activations),
    (("softmax", "log_softmax", "SoftmaxActivation", "SoftmaxOutput", "Softmax"), softmaxes),
    (("LinearRegressionOutput", "MAERegressionOutput", "LogisticRegressionOutput"), softmaxes),
    (tuple(op for op in mxnet.SUPPORTED if op.lower().endswith("scalar")), scalars),
    (("relu", "sigmoid", "tanh", "softsign", "exp", "log", "sqrt", "abs", "negative", "square", "Cast", "cast"), plain),
    (("Dropout", "identity", "_copy", "BlockGrad", "MakeLoss", "make_loss"), plain),
    (("clip", "Flatten", "flatten", "Reshape", "reshape", "transpose", "SwapAxis", "swapaxes", "expand_dims"), moved),
    (("squeeze", "Concat", "concat", "SliceChannel", "split", "slice_axis", "Pad", "pad"), moved),
    (("mean", "sum", "sum_axis", "max", "max_axis", "min", "min_axis"), moved),
    (
        ("elemwise_add", "_Plus", "_plus", "_add", "ElementWiseSum", "add_n", "elemwise_sub", "_Minus", "_minus"),
        arithmetic,
    ),
    (("_sub", "elemwise_mul", "_Mul", "_mul", "elemwise_div", "_Div", "_div", "_maximum", "_Maximum"), arithmetic),
    (tuple(op for op in mxnet.SUPPORTED if op.startswith("broadcast_")), arithmetic),
    (("Embedding",), lookup),
)
IMAGES = 5  # the first families need images
KINDS = sorted(mxnet.SUPPORTED)
RULES = {op: (rule, place < IMAGES) for place, (kinds, rule) in enumerate(FAMILIES) for op in kinds}


def grow(net, ref, op):
    x = net.tensors[ref]
    rule, images = RULES[op]
    if x.ndim < 2 or x.ndim > 6 or x.size > 3000 or (images and x.ndim != 4) or np.abs(x).max() > 50:
        return ref
    return rule(net, ref, op)
