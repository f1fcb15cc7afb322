"""Caffe nets made layer by layer, each with the values its tops must have."""

import numpy as np
from wire_made import part, varint


def caffemodel(blobs):
    """Write a NetParameter with V2 layers that hold only blobs."""
    out = b""
    for name, arrays in blobs.items():
        body = part(1, name.encode())
        for array in arrays:
            dims = part(7, part(1, b"".join(varint(d) for d in np.shape(array))))
            body += part(7, dims + part(5, np.asarray(array, "<f4").tobytes()))
        out += part(100, body)
    return out


class Net:
    """A net being made: its text, its blobs, its tensors."""

    first = "data"

    def __init__(self, rng, shape):
        self.rng, self.count, self.blobs, self.used = rng, 0, {}, []
        self.numbers = np.random.default_rng(rng.randrange(1 << 32))
        self.x = self.array(shape)
        self.detections = set()
        self.text = f'input: "data" input_shape {{ {" ".join(f"dim: {d}" for d in shape)} }}\n'
        self.tensors = {"data": self.x}
        self.read = set()

    def array(self, shape, low=-1.0, high=1.0):
        return self.numbers.uniform(low, high, shape).astype(np.float32)

    def add(self, kind, bottoms, values, params="", blobs=()):
        """Append a layer whose tops have ``values``; return their names."""
        self.count += 1
        name = f"l{self.count}"
        tops = [name] if len(values) == 1 else [f"{name}_{i}" for i in range(len(values))]
        quoted = [f'bottom: "{b}"' for b in bottoms] + [f'top: "{t}"' for t in tops]
        self.text += f'layer {{ name: "{name}" type: "{kind}" {" ".join(quoted)} {params} }}\n'
        if blobs:
            self.blobs[name] = [np.asarray(blob, np.float32) for blob in blobs]
        self.tensors.update({top: np.asarray(value) for top, value in zip(tops, values, strict=True)})
        self.read.update(bottoms)
        self.used.append(kind)
        return tops

    def twin(self, name, factor=0.5):
        """Another tensor of the same shape."""
        x = self.tensors[name]
        return self.add("Power", [name], [x * factor + 0.25], f"power_param {{ scale: {factor} shift: 0.25 }}")[0]

    def outputs(self):
        return {name: value for name, value in self.tensors.items() if name not in self.read and name != "data"}
