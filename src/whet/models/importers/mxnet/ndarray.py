"""MXNet's NDArray list file (``.params``), versions 0 to 3, as views of the file's bytes.

Source: apache/mxnet ``src/ndarray/ndarray.cc`` (Save, Load, LegacyLoad). A list: u64 0x112, u64 0, u64 count, the
arrays, u64 count of names, then (u64 length, name) each. An array: V3 and V2: u32 magic, i32 storage type, shape as i32
count and i64 sizes; V1: magic, shape; V0: no magic, the first u32 is the count of u32 sizes. Then i32 device, i32
device number, i32 type, the numbers. Numbers are little-endian.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers.onnx_graph import Array
from whet.models.importers.wire import element_count

LIST_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_BFLOAT16 = 12
_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8", 7: "?", _BFLOAT16: "<u2"}

Params = dict[str, Array]
"""Arrays by name, prefixes removed; by number ("0", "1", ...) in a file without names."""


def read_params(path: Path) -> Params:
    """Read a ``.params`` file.

    Raises:
        ModelError: unreadable or damaged.
        Unsupported: sparse arrays or a number type Whet does not read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read weights '{path}': {error.strerror}; check the path") from error
    return parse_params(memoryview(data), f"weights '{path.name}'")


def parse_params(buffer: memoryview, what: str) -> Params:
    """Read an NDArray list; ``arg:`` and ``aux:`` are taken off the names.

    Raises:
        ModelError: damaged: names the array and the byte.
        Unsupported: sparse arrays or a number type Whet does not read.
    """
    reader = _Reader(buffer, what)
    magic, _, count = reader.take("<QQQ")
    if magic != LIST_MAGIC:
        raise ModelError(f"{what} begins with {magic:#x}, not with {LIST_MAGIC:#x}: it is no MXNet .params file")
    arrays: list[Array] = []
    while len(arrays) < count:  # every array takes bytes, so that a false count ends with the file
        arrays.append(reader.array(f"{what}, array {len(arrays)}"))
    (named,) = reader.take("<Q")
    if named not in (0, count):
        raise ModelError(f"{what} is damaged: {count} arrays but {named} names")
    names = [reader.name() for _ in range(named)] or [str(index) for index in range(count)]
    plain = [name.split(":", 1)[1] if name.startswith(("arg:", "aux:")) else name for name in names]
    return dict(zip(plain, arrays, strict=True))


class _Reader:
    """Takes values from the front of the bytes; every length is held against what is left."""

    def __init__(self, buffer: memoryview, what: str) -> None:
        self.buffer = buffer
        self.what = what
        self.position = 0

    def bytes(self, count: int) -> memoryview:
        left = len(self.buffer) - self.position
        if count > left:
            raise ModelError(
                f"{self.what} is damaged: {count} bytes belong at byte {self.position}, {left} are left; the file is"
                " truncated, fetch it again"
            )
        part = self.buffer[self.position : self.position + count]
        self.position += count
        return part

    def take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)))

    def name(self) -> str:
        (length,) = self.take("<Q")
        return bytes(self.bytes(length)).decode("utf-8", "backslashreplace")

    def array(self, what: str) -> Array:
        (magic,) = self.take("<I")
        if magic in (_V2, _V3):
            (storage,) = self.take("<i")
            if storage != 0:
                raise Unsupported(f"{what} is sparse (storage {storage}); save the model with dense arrays")
            dims = self.dims("<i", "<q")
        elif magic == _V1:
            dims = self.dims("<I", "<q")
        else:
            self.position -= 4  # V0 has no magic
            dims = self.dims("<I", "<I")
        if dims is None or (not dims and magic != _V3):
            return np.empty(0, np.float32)
        count = element_count(dims, what)
        kind = self.take("<iii")[2]
        if kind not in _TYPES:
            raise Unsupported(f"{what} has number type {kind}; read are {sorted(_TYPES)}")
        dtype = np.dtype(_TYPES[kind])
        numbers = np.frombuffer(self.bytes(count * dtype.itemsize), dtype)
        if kind == _BFLOAT16:
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers.reshape(dims)

    def dims(self, count_layout: str, size_layout: str) -> tuple[int, ...] | None:
        """Read a shape; None when it is unknown (count -1, which V3 writes for an array without a value)."""
        (count,) = self.take(count_layout)
        if count == -1:
            return None
        if not 0 <= count <= 32:
            raise ModelError(
                f"{self.what} is damaged: an array of {count} axes at byte {self.position}; 32 is the bound"
            )
        return tuple(self.take(size_layout)[0] for _ in range(count))
