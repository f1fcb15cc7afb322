"""Looks into files without loading them: first bytes, top-level protobuf fields, names in a zip. Raises nothing.

A sniffer must cost the same for a file of 10 KB and of 10 GB, and must say "damaged ONNX" of a truncated one instead
of "unknown", so everything here reads headers and seeks over the rest.
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf; groups (3, 4) are in no format Whet reads."""


def head(path: Path, count: int = 64) -> bytes:
    """Return the first ``count`` bytes, fewer if the file is shorter, none if it is a folder or unreadable."""
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


def looks_like_text(data: bytes) -> bool:
    """Tell whether ``data`` decodes as UTF-8 (a cut last character is forgiven) and holds no control characters."""
    try:
        text = data[: max(len(data) - 3, 1)].decode()
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char.isspace() for char in text)


def describe(path: Path) -> str:
    """Return the first bytes for an error message: as text where they are text, else in hexadecimal."""
    start = head(path, 24)
    if start and looks_like_text(start):
        return f"it starts with {start.decode(errors='replace').strip()!r}"
    return f"it starts with the bytes {start[:16].hex(' ')}"


def zip_names(path: Path, limit: int = 100_000) -> tuple[str, ...]:
    """Return the names in a zip file, or none if it is no readable zip or lists more than ``limit``."""
    if head(path, 2) != b"PK":
        return ()
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return ()
    return tuple(names) if len(names) <= limit else ()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a protobuf message as it lies in a stream.

    Attributes:
        number: of the field.
        wire: :data:`VARINT`, :data:`FIXED64`, :data:`BYTES` or :data:`FIXED32`.
        value: of a varint; 0 for the others.
        start: where the content of a ``BYTES`` field begins.
        end: one past its last byte; may lie past the end of a truncated file.
    """

    number: int
    wire: int
    value: int
    start: int
    end: int


def fields(stream: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message in ``stream[start:end]``; stops at the first byte that is no field.

    The content of a length-delimited field is not read, so memory does not grow with it. A field whose length leads
    past ``end`` is yielded last (a truncated file).
    """
    position = start
    while position < end:
        tag, position = _varint(stream, position, end)
        if tag < 0 or tag >> 3 == 0 or tag >> 3 > 0x1FFFFFFF:
            return
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = _varint(stream, position, end)
            if value < 0:
                return
            yield Field(number, wire, value, position, position)
        elif wire == BYTES:
            length, position = _varint(stream, position, end)
            if length < 0:
                return
            yield Field(number, wire, 0, position, position + length)
            position += length
        elif wire in {FIXED64, FIXED32}:
            width = 8 if wire == FIXED64 else 4
            yield Field(number, wire, 0, position, position + width)
            position += width
        else:
            return


def top_fields(path: Path, limit: int = 64) -> tuple[Field, ...]:
    """Return up to ``limit`` top-level fields of the protobuf message in a file; none if it does not start like one."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            found = []
            for field in fields(stream, 0, size):
                found.append(field)
                if len(found) >= limit:
                    break
            return tuple(found)
    except OSError:
        return ()


def first_message(path: Path, count: int) -> tuple[Field, ...]:
    """Return up to ``count`` fields of the message in field 1 that a file begins with; none if it begins otherwise."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            first = next(fields(stream, 0, size), None)
            if first is None or (first.number, first.wire) != (1, BYTES):
                return ()
            return tuple(islice(fields(stream, first.start, min(first.end, size)), count))
    except OSError:
        return ()


def declared_opset(path: Path) -> int:
    """Return the opset of the standard operators that an ONNX file declares, 0 where it says none."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            for entry in (field for field in fields(stream, 0, size) if (field.number, field.wire) == (8, BYTES)):
                parts = {part.number: part for part in fields(stream, entry.start, min(entry.end, size))}
                domain = content(stream, parts[1], 16) if 1 in parts else b""
                if domain in {b"", b"ai.onnx"} and 2 in parts:
                    return parts[2].value
    except OSError:
        pass
    return 0


def content(stream: BinaryIO, field: Field, limit: int) -> bytes:
    """Return the content of a ``BYTES`` field, at most ``limit`` bytes of it."""
    stream.seek(field.start)
    return stream.read(min(field.end - field.start, limit))


def _varint(stream: BinaryIO, position: int, end: int) -> tuple[int, int]:
    """Return (value, next position); value -1 where there is none."""
    stream.seek(position)
    raw = stream.read(min(10, end - position))
    value = 0
    for index, byte in enumerate(raw):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + index + 1
    return -1, end
