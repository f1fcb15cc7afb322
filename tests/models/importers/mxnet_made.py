"""MXNet symbols made node by node, each with the values its outputs must have."""

import struct

import numpy as np

STYLES = ("param", "attr", "attrs")


def write_params(arrays):
    """An NDArray list, version 2, float32, with ``arg:`` names."""
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in (np.asarray(array, "<f4") for array in arrays.values()):
        out += struct.pack("<Iii", 0xF993FAC9, 0, array.ndim) + struct.pack(f"<{array.ndim}q", *array.shape)
        out += struct.pack("<iii", 1, 0, 0) + array.tobytes()
    names = [f"arg:{name}".encode() for name in arrays]
    return out + struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(n)) + n for n in names)


class Net:
    """A symbol being made: its nodes, arrays and tensors."""

    first = (0, 0)

    def __init__(self, rng, shape):
        self.rng, self.nodes, self.arrays, self.used = rng, [], {}, []
        self.numbers = np.random.default_rng(rng.randrange(1 << 32))
        self.style = rng.choice(STYLES)
        self.x = self.array(shape)
        self.nodes.append({"op": "null", "name": "data", "inputs": []})
        self.tensors = {(0, 0): self.x.astype(np.float64)}
        self.read = set()

    def array(self, shape, low=-1.0, high=1.0):
        return self.numbers.uniform(low, high, shape).astype(np.float32)

    def weight(self, name, array):
        self.nodes.append({"op": "null", "name": name, "inputs": []})
        self.arrays[name] = array
        return (len(self.nodes) - 1, 0)

    def label(self):
        self.nodes.append({"op": "null", "name": f"label{len(self.nodes)}", "inputs": []})
        return (len(self.nodes) - 1, 0)

    def add(self, op, refs, values, weights=(), **attributes):
        """Append a node whose outputs have ``values``; return the first output's reference."""
        name = f"n{len(self.nodes)}"
        sources = [*refs, *(self.weight(f"{name}_{role}", array) for role, array in weights)]
        self.read.update(refs)
        texts = {key: str(value) for key, value in attributes.items()}
        self.nodes.append({"op": op, "name": name, self.style: texts, "inputs": [[*ref, 0] for ref in sources]})
        index = len(self.nodes) - 1
        self.tensors.update({(index, i): np.asarray(value) for i, value in enumerate(values)})
        self.used.append(op)
        return (index, 0)

    def twin(self, ref):
        return self.add("_mul_scalar", [ref], [self.tensors[ref] * 0.5], scalar=0.5)

    def heads(self):
        return [ref for ref in self.tensors if ref not in self.read and ref != (0, 0)]
