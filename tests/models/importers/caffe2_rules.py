"""Caffe2 nets made operator by operator, with rules in numpy from its own definitions (``caffe2/operators``)."""

import itertools
import math
import struct

import numpy as np
from wire_made import part, varint

from whet.models.importers import caffe2


def argument(name, value):
    body = part(1, name.encode())
    if isinstance(value, float):
        body += b"\x15" + struct.pack("<f", value)
    elif isinstance(value, int):
        body += b"\x18" + varint(value)
    elif isinstance(value, str):
        body += part(4, value.encode())
    elif isinstance(value, np.ndarray):  # unpacked, as the files of the time are
        body += b"".join(b"\x2d" + struct.pack("<f", number) for number in value.ravel())
    else:
        body += b"".join(b"\x30" + varint(number) for number in value)
    return part(5, body)


def operator(kind, inputs, outputs, **arguments):
    body = b"".join(part(1, name.encode()) for name in inputs) + b"".join(part(2, name.encode()) for name in outputs)
    return part(2, body + part(4, kind.encode()) + b"".join(itertools.starmap(argument, arguments.items())))


class Net:
    """A net being made: operators, fills and tensors."""

    first = "data"

    def __init__(self, rng, shape):
        self.rng, self.operators, self.fills, self.used, self.inside = rng, b"", b"", [], ["data"]
        self.numbers = np.random.default_rng(rng.randrange(1 << 32))
        self.x = self.array(shape)
        self.tensors, self.read = {"data": self.x.astype(np.float64)}, set()

    def array(self, shape, low=-1.0, high=1.0):
        return self.numbers.uniform(low, high, shape).astype(np.float32)

    def weight(self, array):
        name = f"w{len(self.inside)}"
        self.inside.append(name)
        shape = array.shape
        self.fills += operator("GivenTensorFill", [], [name], shape=shape, values=array)
        return name

    def add(self, kind, inputs, value, weights=(), beside=0, **arguments):
        name = f"t{len(self.tensors)}"
        self.read.update(inputs)
        inputs = [*inputs, *(self.weight(array) for array in weights)]
        self.operators += operator(kind, inputs, [name, *(f"{name}_{i}" for i in range(beside))], **arguments)
        self.tensors[name] = np.asarray(value)
        self.used.append(kind)
        return name

    def twin(self, name):
        return self.add("Sum", [name, name], 2 * self.tensors[name])

    def outputs(self):
        return [name for name in self.tensors if name not in self.read and name != "data"]


def window(net, x):
    rng = net.rng
    kernel = [rng.randrange(1, min(3, n) + 1) for n in x.shape[2:]]
    stride = [rng.randrange(1, 3) for _ in kernel]
    pads = [rng.randrange(k) for k in kernel * 2]
    if rng.random() < 0.5:
        return kernel, stride, pads, {"kernels": kernel, "strides": stride, "pads": pads}
    names = dict(zip(("pad_t", "pad_l", "pad_b", "pad_r"), pads, strict=True))
    names |= {"kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": stride[0], "stride_w": stride[1]}
    return kernel, stride, pads, names


def places(x, kernel, stride, pads):
    counts = [
        (n + b + e - k) // s + 1 for n, k, s, b, e in zip(x.shape[2:], kernel, stride, pads[:2], pads[2:], strict=True)
    ]
    return itertools.product(*map(range, counts)), counts


def pool(net, name, kind):
    x, rng, average = net.tensors[name], net.rng, kind == "AveragePool"
    if rng.random() < 0.2:
        y = x.mean((2, 3), keepdims=True) if average else x.max((2, 3), keepdims=True)
        return net.add(kind, [name], y, global_pooling=1)
    kernel, stride, pads, said = window(net, x)
    include = average and rng.random() < 0.5
    spots, counts = places(x, kernel, stride, pads)
    y = np.zeros((*x.shape[:2], *counts))
    for i, j in spots:
        top, left = i * stride[0] - pads[0], j * stride[1] - pads[1]
        area = x[:, :, max(top, 0) : max(top + kernel[0], 0), max(left, 0) : max(left + kernel[1], 0)]
        size = math.prod(kernel) if include else area.shape[2] * area.shape[3]
        y[:, :, i, j] = area.sum((2, 3)) / size if average else area.max((2, 3))
    return net.add(kind, [name], y, count_include_pad=int(include), order="NCHW", **said)


def conv(net, name, _):
    x, (kernel, stride, pads, said) = net.tensors[name], window(net, net.tensors[name])
    group = net.rng.choice([g for g in (1, 2, x.shape[1]) if x.shape[1] % g == 0])
    outputs = group * net.rng.randrange(1, 3)
    ins, outs = x.shape[1] // group, outputs // group
    weight, bias = net.array((outputs, ins, *kernel)), net.array(outputs)
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    spots, counts = places(x, kernel, stride, pads)
    y = np.zeros((len(x), outputs, *counts))
    for i, j in spots:
        area = padded[:, :, i * stride[0] :, j * stride[1] :][:, :, : kernel[0], : kernel[1]]
        for o in range(outputs):
            y[:, o, i, j] = (area[:, o // outs * ins :][:, :ins] * weight[o]).sum((1, 2, 3)) + bias[o]
    return net.add("Conv", [name], y, [weight, bias], group=group, **said)


def conv_transpose(net, name, _):
    x, kernel, stride, adj = net.tensors[name], (3, 2), (2, 2), net.rng.randrange(2)
    weight, bias = net.array((x.shape[1], 3, *kernel)), net.array(3)
    sizes = [s * (n - 1) + k + adj for s, n, k in zip(stride, x.shape[2:], kernel, strict=True)]
    y = np.zeros((len(x), 3, *sizes)) + bias[None, :, None, None]
    for c, h, w in itertools.product(*map(range, x.shape[1:])):
        y[:, :, 2 * h : 2 * h + 3, 2 * w : 2 * w + 2] += x[:, c, h, w][:, None, None, None] * weight[c]
    return net.add("ConvTranspose", [name], y, [weight, bias], kernels=kernel, strides=stride, adj=adj)


def dense(net, name, _):
    x = net.tensors[name]
    axis = net.rng.randrange(1, x.ndim)
    flat = x.reshape(*x.shape[:axis], -1)
    weight, bias = net.array((3, flat.shape[-1])), net.array(3)
    return net.add("FC", [name], flat @ weight.T + bias, [weight, bias], axis=axis)


def softmax(net, name, _):
    x = net.tensors[name]
    axis = net.rng.randrange(1, x.ndim)
    flat = x.reshape(*x.shape[:axis], -1)
    e = np.exp(flat - flat.max(-1, keepdims=True))
    return net.add("Softmax", [name], (e / e.sum(-1, keepdims=True)).reshape(x.shape), axis=axis)


def spread(array, x):
    return array.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])


def norms(net, name, kind):
    x = net.tensors[name]
    if kind == "LRN":
        size, k = net.rng.choice((1, 3, 5)), 1.5
        padded = np.pad(x * x, [(0, 0), (size // 2,) * 2] + [(0, 0)] * (x.ndim - 2))
        total = sum(padded[:, i : i + x.shape[1]] for i in range(size))
        return net.add(kind, [name], x / (k + 0.5 / size * total) ** 0.75, size=size, alpha=0.5, beta=0.75, bias=k)
    scale, bias, mean = (net.array(x.shape[1]) for _ in range(3))
    variance = net.array(x.shape[1], 0.5, 2)
    y = (x - spread(mean, x)) / np.sqrt(spread(variance, x) + 1e-5) * spread(scale, x) + spread(bias, x)
    return net.add(kind, [name], y, [scale, bias, mean, variance], is_test=1)


def pointwise(net, name, kind):
    x, slope = net.tensors[name], net.array(net.tensors[name].shape[1])
    rules = {
        "Relu": (np.maximum(x, 0), {}),
        "Sigmoid": (1 / (1 + np.exp(-x)), {}),
        "Tanh": (np.tanh(x), {}),
        "LeakyRelu": (np.where(x > 0, x, 0.2 * x), {"alpha": 0.2}),
        "Elu": (np.where(x > 0, x, 0.5 * (np.exp(x) - 1)), {"alpha": 0.5}),
        "PRelu": (np.where(x > 0, x, x * spread(slope, x)), {}),
        "Clip": (x.clip(-0.5, None), {"min": -0.5}),
    }
    value, said = rules.get(kind, (x, {}))
    return net.add(kind, [name], value, [slope] if kind == "PRelu" else [], beside=int(kind == "Dropout"), **said)


def joined(net, name, kind):
    x = net.tensors[name]
    if kind == "Sum":
        return net.twin(name)
    rules = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    if net.rng.random() < 0.4:
        other = net.twin(name)
        if kind == "Div":
            other = net.add("Add", [other], 2 * x + 100, [np.full(1, 100, np.float32)], broadcast=1)
        return net.add(kind, [name, other], rules[kind](x, net.tensors[other]))
    blob = net.array(x.shape[1], 0.5, 1.5)
    return net.add(kind, [name], rules[kind](x, spread(blob, x)), [blob], broadcast=1, axis=1)


def moved(net, name, kind):
    x, rng = net.tensors[name], net.rng
    axis = rng.randrange(1, x.ndim)
    if kind == "Concat":
        other = net.twin(name)
        return net.add(kind, [name, other], np.concatenate([x, net.tensors[other]], axis), beside=1, axis=axis)
    if kind == "Reshape":
        return net.add(kind, [name], x.reshape(len(x), -1, 1), beside=1, shape=(0, -1, 1))
    if kind == "Flatten":
        return net.add(kind, [name], x.reshape(math.prod(x.shape[:axis]), -1), axis=axis)
    order = [0, *rng.sample(range(1, x.ndim), x.ndim - 1)]
    return net.add(kind, [name], x.transpose(order), axes=order)


FAMILIES = (
    (("MaxPool", "AveragePool"), pool),
    (("Conv",), conv),
    (("ConvTranspose",), conv_transpose),
    (("FC",), dense),
    (("Softmax",), softmax),
    (("LRN", "SpatialBN"), norms),
    (("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "PRelu", "Clip", "Dropout", "Copy", "StopGradient"), pointwise),
    (("Sum", "Add", "Sub", "Mul", "Div"), joined),
    (("Concat", "Reshape", "Flatten", "Transpose"), moved),
)
RULES = {kind: rule for kinds, rule in FAMILIES for kind in kinds}
KINDS = sorted(caffe2.SUPPORTED)
IMAGES = ("MaxPool", "AveragePool", "Conv", "ConvTranspose", "LRN")


def grow(net, name, kind):
    x = net.tensors[name]
    if x.ndim < 2 or x.ndim > 5 or x.size > 3000 or (kind in IMAGES and x.ndim != 4) or np.abs(x).max() > 50:
        return name
    return RULES[kind](net, name, kind)
