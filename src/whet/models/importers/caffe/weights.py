"""The caffemodel: learned blobs by layer name, as views of the file's bytes.

Field numbers are those of ``caffe.proto``: NetParameter layers=2 (V0, V1), layer=100 (V2); LayerParameter name=1,
blobs=7; V1LayerParameter name=4, blobs=6, layer=1 (V0, nested: name=1, blobs=50); BlobProto num..width=1..4, data=5,
double_data=8, shape=7 (BlobShape dim=1). Only these are read; the architecture always comes from the prototxt.
"""

import io
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from whet.errors import ModelError
from whet.models.importers import peek, wire
from whet.models.importers.onnx_graph import Array


@dataclass(frozen=True, slots=True)
class Blob:
    """One learned array.

    Attributes:
        shape: as stored; the old form always has four axes (``1x1x1xN``).
        data: float32, flat; a view of the file unless it was stored as double.
    """

    shape: tuple[int, ...]
    data: Array


Weights = dict[str, list[Blob]]
"""Blobs by layer name."""


_NET_FIELDS = {
    1: peek.BYTES,
    3: peek.BYTES,
    4: peek.VARINT,
    5: peek.VARINT,
    6: peek.BYTES,
    7: peek.VARINT,
    8: peek.BYTES,
}
"""What a NetParameter may hold before its first layer: name, inputs and their sizes, state."""


def looks_like_weights(path: Path) -> bool:
    """Tell whether a file begins like a NetParameter of any generation: by its first layer, whatever its name."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            for field in islice(peek.fields(stream, 0, size), 64):
                if field.wire == peek.BYTES and field.number in {2, 100}:
                    return _begins_layer(stream, field, size)
                if _NET_FIELDS.get(field.number) != field.wire:
                    return False
    except OSError:
        return False
    return False


def _begins_layer(stream: BinaryIO, layer: peek.Field, size: int) -> bool:
    """Tell a layer from what other formats keep in fields 2 and 100; the first few fields of each generation differ."""
    parts = list(islice(peek.fields(stream, layer.start, min(layer.end, size)), 16))
    kinds = [(part.number, part.wire) for part in parts]
    if layer.number == 100:  # name, type
        return kinds[:1] in ([(1, peek.BYTES)], [(2, peek.BYTES)])
    if (4, peek.BYTES) in kinds:  # V1: its type is a number, where that of a Caffe2 operator is this text
        return (5, peek.VARINT) in kinds
    if kinds[:1] != [(1, peek.BYTES)]:
        return False
    inner = islice(peek.fields(stream, parts[0].start, min(parts[0].end, size)), 2)
    return [(part.number, part.wire) for part in inner] == [(1, peek.BYTES), (2, peek.BYTES)]  # V0: name, type


def read_weights(path: Path) -> Weights:
    """Read a caffemodel.

    Raises:
        ModelError: unreadable or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read weights '{path}': {error.strerror}; check the path") from error
    return parse_weights(memoryview(data), f"weights '{path.name}'")


def parse_weights(buffer: memoryview, what: str) -> Weights:
    """Read a NetParameter's blobs.

    Raises:
        ModelError: damaged; names the layer.
    """
    weights: Weights = {}
    for number, _, value in wire.fields(buffer, what):
        if number == 100:
            name, blobs = _layer(wire.message(value, what), what, name_field=1, blob_field=7)
        elif number == 2:
            name, blobs = _layer(wire.message(value, what), what, name_field=4, blob_field=6)
        else:
            continue
        if blobs:
            weights[name] = blobs  # the last of a name wins, as when Caffe copies them one by one
    return weights


def parse_blob(buffer: memoryview, what: str) -> Blob:
    """Read a BlobProto.

    Raises:
        ModelError: its shape and its number of values disagree, or it holds no numbers Whet reads.
    """
    legacy: dict[int, int] = {}
    shape: list[int] | None = None
    floats: list[int | memoryview] = []
    doubles: list[int | memoryview] = []
    for number, _, value in wire.fields(buffer, what):
        if number <= 4:
            legacy[number] = wire.integer(value, what)
        elif number == 5:
            floats.append(value)
        elif number == 7:
            shape = _dims(wire.message(value, what), what)
        elif number == 8:
            doubles.append(value)
    if shape is None:
        shape = [legacy.get(axis, 0) for axis in range(1, 5)] if legacy else None
    data = wire.numbers(floats, "<f4", what)
    if doubles and not floats:
        with np.errstate(over="ignore"):  # doubles past float32 become infinite, as in Caffe's own cast
            data = wire.numbers(doubles, "<f8", what).astype(np.float32)
    if shape is None:
        shape = [len(data)]
    claimed = wire.element_count(shape, what)
    if claimed != len(data):
        raise ModelError(
            f"{what} claims shape {shape} = {claimed} numbers but holds {len(data)}; it is truncated, or a fork stores"
            " numbers in a field of its own (half precision): convert it to float32 with that fork"
        )
    return Blob(tuple(shape), data)


def _layer(buffer: memoryview, what: str, *, name_field: int, blob_field: int) -> tuple[str, list[Blob]]:
    name = ""
    blobs: list[Blob] = []
    for number, kind, value in wire.fields(buffer, what):
        if number == name_field and kind == wire.LEN:
            name = wire.text(value, what)
        elif number == blob_field:
            blobs.append(parse_blob(wire.message(value, what), f"{what}, blob {len(blobs)} of layer '{name}'"))
        elif number == 1 and name_field == 4:
            name, blobs = _layer(wire.message(value, what), what, name_field=1, blob_field=50)
    return name, blobs


def _dims(buffer: memoryview, what: str) -> list[int]:
    return [dim for number, _, value in wire.fields(buffer, what) if number == 1 for dim in wire.integers(value, what)]
