"""A small builder of ONNX graphs that knows the shape of every value and writes weights without copying them.

The importers with their own readers (Caffe, MXNet, Caffe2) share it. A graph is plain data until :meth:`Graph.save`;
two graphs can be compared, which is how a free batch axis is found (:func:`free_batch`). Weights stay views of the
file they came from and are streamed into the ONNX file, so an import holds them once.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from whet.errors import ModelError, OutputError
from whet.models.importers.wire import MAX_ELEMENTS

Array = NDArray[Any]
OPSET, IR_VERSION = 17, 8
UNKNOWN = -1
"""A dimension only known when the net runs."""
EXTERNAL_BYTES = 1_500_000_000
"""Weights past this go beside the model: protobuf ends at 2 GiB."""
_TENSOR_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in the graph.

    Attributes:
        name: its ONNX name.
        shape: dimensions; ``-1`` is only known when the net runs.
        source: what made it, for messages ("layer 'conv1'").
    """

    name: str
    shape: tuple[int, ...]
    source: str = ""

    def __str__(self) -> str:
        return f"'{self.name}' {list(self.shape)} from {self.source or 'the input'}"


@dataclass(frozen=True, slots=True)
class Node:
    """One ONNX operation; attributes are ints, floats, text or sequences of them."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph:
    """An ONNX graph under construction.

    Set ``where`` ("layer 'conv1' (Convolution)") and ``scope`` (a name prefix) before the operations of each layer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.where = "the net"
        self.scope = "net"
        self.nodes: list[Node] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, Value] = {}
        self.constants: dict[str, Array] = {}
        self._names: set[str] = set()
        self._made: set[str] = set()
        self._final: dict[str, str] = {}

    def fresh(self, hint: str) -> str:
        """Return ``hint``, or ``hint.1``, ``hint.2``, ... where it is taken, and take it."""
        name, count = hint, 0
        while name in self._names:
            count += 1
            name = f"{hint}.{count}"
        self._names.add(name)
        return name

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """Declare a float input.

        Raises:
            ModelError: the name is taken, or the shape is no shape.
        """
        if name in self.inputs:
            raise ModelError(f"input '{name}' is declared twice; a net's inputs need names of their own")
        self.inputs[self.fresh(name)] = self.checked(shape)
        return Value(name, tuple(shape), f"input '{name}'")

    def checked(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return ``shape``, refusing empty, negative and absurd ones.

        Raises:
            ModelError: a dimension below 1 that is not :data:`UNKNOWN`, or more than MAX_ELEMENTS elements.
        """
        known = [d for d in shape if d != UNKNOWN]
        if len(shape) > 32 or min(known, default=1) < 1 or math.prod(known) > MAX_ELEMENTS:
            raise ModelError(
                f"{self.where} would give a tensor {list(shape)}; every dimension must be 1 or more and all together"
                f" at most {MAX_ELEMENTS} elements. Is the input too small for this net? Give --input-shape"
            )
        return tuple(shape)

    def constant(self, array: Any, what: str = "value", dtype: Any = np.float32) -> Value:
        """Add a constant; arrays of ``dtype`` already are kept as they are, without a copy."""
        values = np.asarray(array, dtype)
        name = self.fresh(f"{self.scope}.{what}")
        self.constants[name] = values
        return Value(name, values.shape, self.where)

    def indices(self, values: Sequence[int] | int, what: str = "dims") -> Value:
        """Add a constant of int64: axes, shapes, positions."""
        return self.constant(values, what, np.int64)

    def op(self, op: str, inputs: Sequence[Value | None], shape: Sequence[int], **attributes: Any) -> Value:
        """Add an operation with one output of the given shape."""
        return self.ops(op, inputs, [shape], **attributes)[0]

    def ops(
        self, op: str, inputs: Sequence[Value | None], shapes: Sequence[Sequence[int]], **attributes: Any
    ) -> list[Value]:
        """Add an operation with one output for each of ``shapes``; an input None is left out.

        Raises:
            ModelError: an output's shape is no shape (see :meth:`checked`).
        """
        values = [Value(self.fresh(f"{self.scope}.{op}"), self.checked(shape), self.where) for shape in shapes]
        names = tuple(value.name if value else "" for value in inputs)
        self.nodes.append(Node(op, names, tuple(value.name for value in values), attributes))
        self._made.update(value.name for value in values)
        return values

    def output(self, name: str, value: Value) -> None:
        """Declare ``value`` an output called ``name`` (``name.1`` where taken). Call it after the last layer."""
        final = self.fresh(name)
        if value.name in self._made and value.name not in self._final:
            self._final[value.name] = final
        else:  # an input, a constant or an output already: give it a second name
            self.nodes.append(Node("Identity", (value.name,), (final,), {}))
        self.outputs[final] = replace(value, name=final)

    def named(self) -> list[Node]:
        """Return the nodes with the outputs under their final names."""
        final = self._final
        return [Node(n.op, _renamed(n.inputs, final), _renamed(n.outputs, final), n.attributes) for n in self.nodes]

    def same_as(self, other: "Graph") -> bool:
        """Whether both compute the same, apart from the declared shapes."""
        if self.nodes != other.nodes or self.constants.keys() != other.constants.keys():
            return False
        return all(_equal(array, other.constants[name]) for name, array in self.constants.items())

    def save(self, path: Path, free: bool) -> tuple[Path, ...]:
        """Write the model; with ``free`` the first axis of every input and output is variable (``N``).

        Returns the files written: the model, and ``<name>.data`` with the weights where these pass EXTERNAL_BYTES.

        Raises:
            OutputError: the folder cannot be written.
        """
        beside = path.with_name(path.name + ".data")
        external = sum(array.nbytes for array in self.constants.values()) > EXTERNAL_BYTES
        try:
            if external:
                with beside.open("wb") as data, path.open("wb") as out:
                    _write(self, out, free, data)
                return path, beside
            with path.open("wb") as out:
                _write(self, out, free, None)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; free space or choose another -o") from error
        return (path,)


def free_batch(build: Callable[[int], Graph]) -> tuple[Graph, bool]:
    """Build a net and find out whether its batch axis may vary.

    ``build(extra)`` converts with every input's first axis larger by ``extra``. When the graphs for 0 and 1 are the
    same and every output follows in its first axis, the one graph serves any batch.

    Raises:
        ModelError: whatever ``build(0)`` raises; a failure at another batch only means that the batch is fixed.
    """
    graph = build(0)
    try:
        probe = build(1)
    except ModelError:
        return graph, False
    follows = all(
        len(value.shape) > 0 and value.shape[0] != UNKNOWN and probe.outputs[name].shape[0] == value.shape[0] + 1
        for name, value in graph.outputs.items()
        if name in probe.outputs
    )
    # One batch size for all inputs: else the sizes would have to be told apart in every output.
    first = {shape[0] if shape else 0 for shape in graph.inputs.values()}
    return graph, follows and len(first) == 1 and graph.same_as(probe)


def _renamed(names: Sequence[str], final: dict[str, str]) -> tuple[str, ...]:
    return tuple(final.get(name, name) for name in names)


def _equal(left: Array, right: Array) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.__array_interface__["data"] == right.__array_interface__["data"] and left.strides == right.strides:
        return True  # views of the same bytes of the weights' file
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))


def _write(graph: Graph, out: BinaryIO, free: bool, data: BinaryIO | None) -> None:
    """Write a ModelProto whose initializers are streamed: the weights are never copied into a protobuf object."""
    import onnx

    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="whet")
    model.opset_import.add(domain="", version=OPSET)
    proto = onnx.GraphProto(name=graph.name or "net")
    for node in graph.named():
        proto.node.append(onnx.helper.make_node(node.op, node.inputs, node.outputs, node.outputs[0], **node.attributes))
    for name, shape in graph.inputs.items():
        proto.input.append(_declare(onnx, name, shape, free))
    for name, value in graph.outputs.items():
        proto.output.append(_declare(onnx, name, value.shape, free))
    # ascontiguousarray makes a scalar a vector of one
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in graph.constants.items()}
    offsets = itertools.accumulate((array.nbytes for array in arrays.values()), initial=0)
    place = Path(data.name).name if data else ""
    heads = [_head(onnx, name, arrays[name], place, start) for name, start in zip(arrays, offsets, strict=False)]
    body = proto.SerializeToString()
    inside = [0 if data else array.nbytes for array in arrays.values()]
    sizes = [len(head) + count for head, count in zip(heads, inside, strict=True)]
    total = len(body) + sum(1 + len(varint(size)) + size for size in sizes)
    out.write(model.SerializeToString() + b"\x3a" + varint(total) + body)  # ModelProto.graph = 7
    for array, head, size in zip(arrays.values(), heads, sizes, strict=True):
        out.write(b"\x2a" + varint(size) + head)  # GraphProto.initializer = 5
        (data or out).write(array.reshape(-1).view(np.uint8).data)


def _head(onnx: Any, name: str, array: Array, place: str, start: int) -> bytes:
    """Serialize all of a TensorProto but its numbers, which follow it, or lie in the file ``place`` from ``start``."""
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=_TENSOR_TYPES[array.dtype.name])
    if not place:
        return bytes(tensor.SerializeToString()) + b"\x4a" + varint(array.nbytes)  # TensorProto.raw_data = 9
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", start), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return bytes(tensor.SerializeToString())


def _declare(onnx: Any, name: str, shape: Sequence[int], free: bool) -> Any:
    dims: list[int | str] = [f"{name}_{axis}" if d == UNKNOWN else d for axis, d in enumerate(shape)]
    if free:
        dims[0] = "N"
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)


def varint(value: int) -> bytes:
    """Return a number as protobuf writes it: seven bits a byte, lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
