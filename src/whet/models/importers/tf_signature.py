"""Reads the signatures of a TensorFlow SavedModel: which named tensors go in and come out. TensorFlow is not needed.

Field numbers are those of ``saved_model.proto``, ``meta_graph.proto``, ``tensor_shape.proto`` and ``types.proto``.
"""

from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from whet.errors import ModelError, UsageError
from whet.models.importers import wire
from whet.tensors import DYNAMIC

DEFAULT = "serving_default"
MAX_BYTES = (1 << 31) - 1
"""Protobuf's own bound on one message."""
MAX_TENSORS = 4096
"""Inputs or outputs one signature may have."""
MAX_RANK = 32

# types.proto; a reference type is its base type plus 100.
_DATATYPES = {
    1: "FP32",
    2: "FP64",
    3: "INT32",
    4: "UINT8",
    5: "INT16",
    6: "INT8",
    7: "BYTES",
    9: "INT64",
    10: "BOOL",
    14: "BF16",
    17: "UINT16",
    19: "FP16",
    22: "UINT32",
    23: "UINT64",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a signature.

    Attributes:
        key: the name callers use.
        tensor: the graph's name, ``node:index``.
        dtype: number of the type in ``types.proto``.
        shape: -1 for a free axis; None where the rank is not said.
    """

    key: str
    tensor: str
    dtype: int
    shape: tuple[int, ...] | None

    @property
    def datatype(self) -> str:
        """The protocol's name of the type, or ``type <number>``."""
        return _DATATYPES.get(self.dtype % 100, f"type {self.dtype}")


@dataclass(frozen=True, slots=True)
class Signature:
    """A way to call a SavedModel.

    Attributes:
        name: as callers choose it.
        method: ``tensorflow/serving/predict``, ``.../classify``, ``.../regress``, or empty.
        inputs: sorted by key.
        outputs: sorted by key.
    """

    name: str
    method: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def read_bounded(path: Path) -> memoryview:
    """Return a file's bytes.

    Raises:
        ModelError: it cannot be read, is empty, or is larger than a protobuf message can be.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise ModelError(f"{path} holds {size} bytes; a SavedModel's graph holds 1 to {MAX_BYTES}")
        return memoryview(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def serving_graph(saved: memoryview, what: str) -> memoryview:
    """Return the ``MetaGraphDef`` tagged ``serve``, else the only one.

    Raises:
        ModelError: none, or several without that tag.
    """
    graphs = [wire.message(value, what) for number, _, value in wire.fields(saved, what) if number == 2]
    tagged = [graph for graph in graphs if "serve" in _tags(graph, what)]
    if tagged:
        return tagged[0]
    if len(graphs) != 1:
        raise ModelError(f"{what} holds {len(graphs)} graphs and none is tagged 'serve'; export it for serving")
    return graphs[0]


def signatures_of(graph: memoryview, what: str) -> tuple[Signature, ...]:
    """Return the signatures of a ``MetaGraphDef`` that callers can use, sorted by name."""
    found = []
    for number, _, value in wire.fields(graph, what):
        if number != 5:
            continue
        key, entry = map_entry(wire.message(value, what), what)
        if not key.startswith("__saved_model_init"):
            found.append(_signature(key, entry, what))
    return tuple(sorted(found, key=lambda signature: signature.name))


def read_signatures(path: Path) -> tuple[Signature, ...]:
    """Return the signatures in a ``saved_model.pb``.

    Raises:
        ModelError: damaged, truncated or without a serving graph.
    """
    what = f"SavedModel '{path}'"
    return signatures_of(serving_graph(read_bounded(path), what), what)


def choose(signatures: tuple[Signature, ...], wanted: str | None, what: str) -> Signature:
    """Return the wanted signature, else ``serving_default``, else the only one.

    Raises:
        UsageError: no such signature, or several and none is the default; lists them.
    """
    by_name = {signature.name: signature for signature in signatures}
    listed = ", ".join(by_name) or "none"
    if wanted is not None and wanted not in by_name:
        raise UsageError(f"{what} has no signature '{wanted}'; it has {listed}")
    if wanted is not None:
        return by_name[wanted]
    if DEFAULT in by_name:
        return by_name[DEFAULT]
    if len(signatures) == 1:
        return signatures[0]
    raise UsageError(f"{what} has no signature '{DEFAULT}'; choose one with --signature: {listed}")


def map_entry(entry: memoryview, what: str) -> tuple[str, memoryview]:
    """Return key and value of one entry of a protobuf map from text to message; the value may be empty."""
    key, value = "", memoryview(b"")
    for number, _, part in wire.fields(entry, what):
        if number == 1:
            key = wire.text(part, what)
        elif number == 2:
            value = wire.message(part, what)
    return key, value


def shape_of(shape: memoryview, what: str) -> tuple[int, ...] | None:
    """Return a ``TensorShapeProto``'s dimensions, -1 for a free one; None for an unknown rank.

    Raises:
        ModelError: a rank past :data:`MAX_RANK`.
    """
    dims: list[int] = []
    for number, _, value in wire.fields(shape, what):
        if number == 3 and wire.integer(value, what):
            return None
        if number == 2:
            sizes = [wire.integer(v, what) for n, _, v in wire.fields(wire.message(value, what), what) if n == 1]
            dims.append(sizes[0] if sizes and sizes[0] >= 0 else (DYNAMIC if sizes else 0))
            if len(dims) > MAX_RANK:
                raise ModelError(f"{what} is damaged: a tensor of more than {MAX_RANK} axes")
    return tuple(dims)


def _tags(graph: memoryview, what: str) -> list[str]:
    for number, _, value in wire.fields(graph, what):
        if number == 1:
            info = wire.fields(wire.message(value, what), what)
            return [wire.text(part, what) for inner, _, part in info if inner == 4]
    return []


def _signature(name: str, entry: memoryview, what: str) -> Signature:
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    method = ""
    for number, _, value in wire.fields(entry, what):
        if number == 3:
            method = wire.text(value, what)
        elif number in {1, 2}:
            side = inputs if number == 1 else outputs
            side.append(_tensor(*map_entry(wire.message(value, what), what), what))
            if len(side) > MAX_TENSORS:
                raise ModelError(f"{what}: signature '{name}' has more than {MAX_TENSORS} tensors")
    by_key = attrgetter("key")
    return Signature(name, method, tuple(sorted(inputs, key=by_key)), tuple(sorted(outputs, key=by_key)))


def _tensor(key: str, info: memoryview, what: str) -> TensorInfo:
    tensor, dtype = "", 0
    shape: tuple[int, ...] | None = None
    for number, _, value in wire.fields(info, what):
        if number == 1:
            tensor = wire.text(value, what)
        elif number == 2:
            dtype = wire.integer(value, what)
        elif number == 3:
            shape = shape_of(wire.message(value, what), what)
    return TensorInfo(key, tensor, dtype, shape)
