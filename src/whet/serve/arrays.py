"""Arrays from raw bytes and JSON values, and back: one tensor at a time. Pure.

Raw tensors are little-endian, row-major and without padding; an element of ``BYTES`` is a 4-byte length and its bytes.
"""

import functools
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from whet.errors import TensorError, TooLarge
from whet.tensors import Array, datatype_of, numpy_dtype

Buffer = bytes | memoryview
MAX_DIMENSIONS = 16
"""More than any model here has; numpy itself stops at 64."""
MAX_ELEMENTS = 1 << 40
MAX_TEXTS = 1 << 18
"""Most elements of ``BYTES`` in a tensor; each costs time on the loop."""
NOT_IN_JSON = ("FP16", "BF16")
"""Datatypes that JSON cannot carry by the protocol."""
_LENGTH = struct.Struct("<I")


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> Array:
    """Return a read-only array over ``raw`` (little-endian, row-major); ``BYTES`` elements are copied out.

    Raises:
        TensorError: size and shape disagree, or bytes that are no value of the datatype.
    """
    count = elements(name, shape)
    if datatype == "BYTES":
        return _from_length_prefixed(name, shape, count, raw)
    dtype = numpy_dtype(datatype)
    if count * dtype.itemsize != len(raw):
        raise TensorError(
            f"input '{name}' has {len(raw)} bytes; {datatype} of shape {list(shape)} has {count * dtype.itemsize}"
        )
    array = np.frombuffer(raw, dtype).reshape(shape)
    array.flags.writeable = False
    if datatype == "BOOL" and count and array.view(np.uint8).max() > 1:
        raise TensorError(f"input '{name}' is BOOL and holds bytes other than 0 and 1")
    return array


def to_raw(array: Array) -> Buffer:
    """Return the bytes of ``array``, row-major, little-endian: a view unless it is ``BYTES`` or not contiguous."""
    if array.dtype.hasobject:
        return b"".join(part for item in array.flat for part in (_LENGTH.pack(len(item)), item))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def elements(name: str, shape: Sequence[int]) -> int:
    """Return how many elements ``shape`` has.

    Raises:
        TensorError: too many dimensions, or a negative one.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise TensorError(f"input '{name}' has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are taken")
    count = bound = 1
    for size in shape:
        if size < 0:
            raise TensorError(f"input '{name}' has shape {list(shape)}; send the real sizes, none negative")
        count *= size
        bound *= max(size, 1)
    if bound > MAX_ELEMENTS:  # numpy refuses huge dimensions even beside a 0
        raise TensorError(f"input '{name}' has shape {[str(size)[:20] for size in shape]}, past any body's size")
    return count


@functools.cache
def _listing(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any = {"BOOL": bool, "BYTES": str, "FP32": float, "FP64": float}.get(datatype, int)
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def from_json(name: str, datatype: str, shape: Sequence[int], text: bytes) -> Array:
    """Return a read-only array of the JSON list ``text``, nested by ``shape`` or flat.

    Raises:
        TensorError: values that do not fit the datatype, or of another shape.
    """
    if datatype in NOT_IN_JSON:
        raise TensorError(f"input '{name}' is {datatype}, which JSON cannot carry; send it as binary data")
    dtype = numpy_dtype(datatype)
    count = elements(name, shape)
    depth = 0
    for byte in text[: 4 * MAX_DIMENSIONS]:
        if byte == ord("["):
            depth += 1
        elif byte not in b" \t\r\n":
            break
    try:
        listed = _listing(datatype, min(depth, MAX_DIMENSIONS)).decode(text)
        array = _array(listed, dtype)
    except (msgspec.MsgspecError, ValueError, OverflowError, FloatingPointError, RecursionError) as error:
        raise TensorError(f"input '{name}': data does not fit {datatype}: {error}") from None
    if array.size != count or (depth > 1 and array.size and array.shape != tuple(shape)):
        raise TensorError(f"input '{name}' has data of shape {list(array.shape)}, says {list(shape)}")
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _array(listed: Any, dtype: np.dtype[Any]) -> Array:
    if not isinstance(listed, list):
        raise ValueError("data is no list")  # noqa: TRY004  (mapped with the others, to one message)
    if dtype.hasobject:
        array = np.array(listed, dtype=object)
        flat = array.reshape(-1)
        if not all(isinstance(item, str) for item in flat):
            raise ValueError("lists of unequal length")
        flat[:] = [item.encode() for item in flat]
        return array
    with np.errstate(over="raise"):
        return np.array(listed, dtype)


def to_json(array: Array) -> list[Any]:
    """Return the elements of ``array`` as a flat list for JSON; NaN and infinities become null there.

    Raises:
        TensorError: bytes that are no UTF-8.
    """
    flat = array.reshape(-1).tolist()
    if array.dtype.hasobject:
        try:
            return [item.decode() for item in flat]
        except UnicodeDecodeError:
            raise TensorError("an output of BYTES is no text; ask for it as binary data") from None
    return flat


def _from_length_prefixed(name: str, shape: Sequence[int], count: int, raw: memoryview) -> Array:
    if count > MAX_TEXTS:
        raise TooLarge(f"input '{name}' has {count} elements of BYTES, past the bound of {MAX_TEXTS}")
    if count * _LENGTH.size > len(raw):
        raise TensorError(f"input '{name}' has {len(raw)} bytes, too few for {count} elements of BYTES")
    items = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        start = offset + _LENGTH.size
        if start > len(raw):
            raise TensorError(f"input '{name}': element {index} of BYTES is cut off")
        offset = start + _LENGTH.unpack_from(raw, offset)[0]
        if offset > len(raw):
            raise TensorError(f"input '{name}': element {index} of BYTES is longer than what was sent")
        items[index] = bytes(raw[start:offset])
    if offset != len(raw):
        raise TensorError(f"input '{name}': {len(raw) - offset} bytes follow its last element")
    array = items.reshape(shape)
    array.flags.writeable = False
    return array


@functools.cache
def datatype_name(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of a dtype; :func:`whet.tensors.datatype_of`, remembered."""
    return datatype_of(dtype)
