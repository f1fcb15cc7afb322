"""Bounded reading of the protobuf wire format: enough for Caffe's and Caffe2's files, without generated classes.

A message is a sequence of fields; each begins with a tag (``number << 3 | wire type``). Source: "Encoding" in the
protobuf documentation. Nothing is copied but unpacked numbers, and nothing is allocated from a claim: every length is
held against the bytes that are really there, every varint against ten bytes, and nesting is walked by the caller.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.errors import ModelError

VARINT, I64, LEN, I32 = 0, 1, 2, 5
"""Wire types: integer, eight bytes, length-delimited (text, message, packed numbers), four bytes; no groups."""

MAX_ELEMENTS = 1 << 31
"""Elements one tensor may have; 8 GiB of float32."""

Field = tuple[int, int, int | memoryview]
"""(field number, wire type, value): an int for VARINT, the bytes otherwise."""


def varint(buffer: memoryview, position: int, what: str) -> tuple[int, int]:
    """Read an unsigned varint at ``position``; return it and the position after it.

    Raises:
        ModelError: it runs past the end, past ten bytes or past 64 bits.
    """
    value = shift = 0
    for end in range(position, min(position + 10, len(buffer))):
        byte = buffer[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, end + 1
        shift += 7
    raise ModelError(f"{what} is damaged: no whole number at byte {position} of {len(buffer)}; fetch the file again")


def fields(buffer: memoryview, what: str) -> Iterator[Field]:
    """Walk the fields of one message in order.

    Consecutive four-byte fields of one number (unpacked floats, five bytes each) come as **one** field whose value is
    all their bytes: a file may hold a hundred million of them.

    Args:
        buffer: the message, one byte an element.
        what: names the message in errors ("weights 'a.caffemodel'").

    Raises:
        ModelError: a tag or length that does not fit the bytes, a group, or field number 0.
    """
    position, size = 0, len(buffer)
    while position < size:
        start = position
        tag, position = varint(buffer, position, what)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview
        if number == 0 or kind not in (VARINT, I64, LEN, I32):
            raise ModelError(f"{what} is damaged: impossible tag {tag} at byte {start}; it is no file of this format")
        if kind == VARINT:
            value, position = varint(buffer, position, what)
        elif kind == I32 and position == start + 1 and position + 4 < size and buffer[position + 4] == tag:
            count = _run(buffer, start, tag)
            value, position = _gather(buffer, start, count), start + 5 * count
        else:
            length = {I64: 8, I32: 4}.get(kind, 0)
            if kind == LEN:
                length, position = varint(buffer, position, what)
            if length > size - position:
                raise ModelError(
                    f"{what} is damaged: field {number} at byte {start} claims {length} bytes, {size - position} are"
                    " left; the file is truncated, fetch it again"
                )
            value, position = buffer[position : position + length], position + length
        yield number, kind, value


def _run(buffer: memoryview, start: int, tag: int) -> int:
    """Count the whole five-byte fields with this tag from ``start`` on; blocks double, so the cost follows the run."""
    tags = np.frombuffer(buffer, np.uint8)[start::5]
    whole = (len(buffer) - start) // 5
    position, block = 0, 64
    while position < whole:
        other = np.flatnonzero(tags[position : min(position + block, whole)] != tag)
        if other.size:
            return position + int(other[0])
        position += block
        block *= 2
    return whole


def _gather(buffer: memoryview, start: int, count: int) -> memoryview:
    """Copy the values out of a run of five-byte fields."""
    run = np.frombuffer(buffer, np.dtype([("tag", "u1"), ("value", "<u4")]), count=count, offset=start)
    return memoryview(run["value"].tobytes())


def message(value: int | memoryview, what: str) -> memoryview:
    """Return the bytes of a length-delimited field.

    Raises:
        ModelError: the field is a number, so the file is of another format.
    """
    if isinstance(value, int):
        raise ModelError(f"{what} is damaged: a number ({value}) stands where a message or text belongs")
    return value


def integer(value: int | memoryview, what: str) -> int:
    """Return a VARINT field as a signed 64-bit integer.

    Raises:
        ModelError: the field is no varint.
    """
    if not isinstance(value, int):
        raise ModelError(f"{what} is damaged: {len(value)} bytes stand where a number belongs")
    return value - (1 << 64) if value >> 63 else value


def text(value: int | memoryview, what: str) -> str:
    r"""Return a text field. Bytes that are no UTF-8 become ``\xNN``, so that names stay distinct and printable."""
    return bytes(message(value, what)).decode("utf-8", "backslashreplace")


def integers(value: int | memoryview, what: str) -> list[int]:
    """Return the signed integers of one field, packed or not."""
    if isinstance(value, int):
        return [integer(value, what)]
    found, position = [], 0
    while position < len(value):
        one, position = varint(value, position, what)
        found.append(integer(one, what))
    return found


def numbers(chunks: Iterable[int | memoryview], dtype: str, what: str) -> NDArray[Any]:
    """Join the chunks of a repeated float or double field; one chunk (the packed case) is a view, not a copy.

    Raises:
        ModelError: a chunk's length is no multiple of the element's size.
    """
    kind = np.dtype(dtype)
    parts = [message(chunk, what) for chunk in chunks]
    for part in parts:
        if len(part) % kind.itemsize:
            raise ModelError(f"{what} is damaged: {len(part)} bytes of {kind.itemsize}-byte numbers is no whole count")
    arrays = [np.frombuffer(part, kind) for part in parts]
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty(0, kind)


def element_count(dims: Iterable[int], what: str) -> int:
    """Return the product of ``dims`` (1 for none), refusing what no tensor can be.

    Raises:
        ModelError: a negative dimension, more than 32 dimensions, or more than :data:`MAX_ELEMENTS` elements.
    """
    shape = list(dims)
    # Axes of size 0 do not excuse the others: numpy refuses a shape whose other axes overflow.
    count = math.prod(d or 1 for d in shape) if len(shape) <= 32 and min(shape, default=0) >= 0 else -1
    if not 0 <= count <= MAX_ELEMENTS:
        said = f"{shape}" if len(shape) <= 32 else f"of {len(shape)} dimensions"
        raise ModelError(f"{what} claims a tensor {said}; the bound is 32 dimensions and {MAX_ELEMENTS} elements")
    return 0 if 0 in shape else count
