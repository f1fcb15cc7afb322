"""Reads FlatBuffers without a schema compiler: tables, vectors, strings and numbers, every offset checked.

A table begins with a signed 32-bit distance back to its vtable, which holds, after two sizes, one 16-bit offset a
field (0 where the field is left out). Vectors and strings begin with a 32-bit count. All is little-endian
(https://flatbuffers.dev/internals). Nothing is copied before its bounds are known, so memory stays below the file's.
"""

import struct
from dataclasses import dataclass

from whet.errors import ModelError

_FORMATS = {"u8": "<B", "i8": "<b", "u32": "<I", "i32": "<i", "i64": "<q", "u64": "<Q", "f32": "<f"}
_WIDTHS = {kind: struct.calcsize(form) for kind, form in _FORMATS.items()}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a buffer.

    Attributes:
        buffer: the whole buffer.
        position: where the table begins.
        where: what is read, for messages.
    """

    buffer: memoryview
    position: int
    where: str

    def number(self, field: int, kind: str, default: float = 0) -> int | float:
        """Return the number in ``field``: ``u8``, ``i8``, ``u32``, ``i32``, ``u64``, ``i64`` or ``f32``."""
        place = self._place(field)
        if place is None:
            return default
        return _unpack(self.buffer, place, _FORMATS[kind], self.where)

    def table(self, field: int) -> "Table | None":
        """Return the table ``field`` points to."""
        place = self._target(field)
        return None if place is None else Table(self.buffer, place, self.where)

    def tables(self, field: int) -> "tuple[Table, ...]":
        """Return the tables of a vector of tables."""
        start, count = self._vector(field, 4)
        places = [start + 4 * index for index in range(count)]
        return tuple(Table(self.buffer, _follow(self.buffer, place, self.where), self.where) for place in places)

    def numbers(self, field: int, kind: str) -> "tuple[int | float, ...]":
        """Return a vector of numbers."""
        start, count = self._vector(field, _WIDTHS[kind])
        return struct.unpack_from(f"<{count}{_FORMATS[kind][1]}", self.buffer, start)

    def content(self, field: int) -> memoryview:
        """Return a vector of bytes."""
        start, count = self._vector(field, 1)
        return self.buffer[start : start + count]

    def text(self, field: int) -> str:
        """Return a string; what is no UTF-8 in it is replaced."""
        return bytes(self.content(field)).decode(errors="replace")

    def _place(self, field: int) -> int | None:
        """Return where a field's value lies, or None where it is left out."""
        vtable = self.position - _unpack(self.buffer, self.position, "<i", self.where)
        size = _unpack(self.buffer, vtable, "<H", self.where)
        slot = 4 + 2 * field
        if slot + 2 > size:
            return None
        offset = _unpack(self.buffer, vtable + slot, "<H", self.where)
        return self.position + offset if offset else None

    def _target(self, field: int) -> int | None:
        place = self._place(field)
        return None if place is None else _follow(self.buffer, place, self.where)

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        """Return where the elements of a vector begin and how many there are."""
        place = self._target(field)
        if place is None:
            return 0, 0
        count = _unpack(self.buffer, place, "<I", self.where)
        if count * width > len(self.buffer) - place - 4:
            raise ModelError(f"{self.where}: a vector of {count} elements leads past the end; the file is damaged")
        return place + 4, count


def root(buffer: memoryview, where: str) -> Table:
    """Return the root table of a buffer.

    Raises:
        ModelError: here and in every method of the table: an offset that leads out of the buffer.
    """
    return Table(buffer, _follow(buffer, 0, where), where)


def _follow(buffer: memoryview, place: int, where: str) -> int:
    return place + int(_unpack(buffer, place, "<I", where))


def _unpack(buffer: memoryview, place: int, form: str, where: str) -> int:
    if not 0 <= place <= len(buffer) - struct.calcsize(form):
        raise ModelError(f"{where}: an offset leads to byte {place} of {len(buffer)}; the file is damaged")
    value: int = struct.unpack_from(form, buffer, place)[0]
    return value
