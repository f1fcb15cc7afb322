"""Small, forgiving readers of the kernel's text files under an injectable root. Nothing here raises on what it reads.

A file that is missing, forbidden or malformed gives ``None`` or an empty value; where that matters for a decision the
caller says so with :meth:`Tree.note`, and the remark travels on ``Host.notes``.
"""

import math
import os
from pathlib import Path

_MOST_CPUS = 65_536
"""Bound on a CPU or node number. Linux supports 8192 CPUs; a damaged list must not fill the memory."""

_MOST = (1 << 64) - 1


def parse_list(text: str) -> tuple[int, ...]:
    """Read the kernel's list format, ``0-3,8,10-11``, into ascending numbers without duplicates.

    Empty text is the empty list. The stride form ``0-10:2/4`` (groups of 4, the first 2 of each) is accepted too.

    Raises:
        ValueError: the text is no such list, or names a number past 65535.
    """
    found: set[int] = set()
    for item in filter(None, (part.strip() for part in text.strip().split(","))):
        span, _, stride = item.partition(":")
        first, dash, last = span.partition("-")
        low, high = int(first), int(last if dash else first)
        if not 0 <= low <= high < _MOST_CPUS:
            raise ValueError(f"'{item}' is no range of numbers between 0 and {_MOST_CPUS - 1}")
        used, _, size = stride.partition("/")
        keep, group = (int(used), int(size)) if stride else (1, 1)
        if group < 1:
            raise ValueError(f"'{item}' has a stride below 1")
        found.update(number for number in range(low, high + 1) if (number - low) % group < keep)
    return tuple(sorted(found))


def format_list(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers in the kernel's list format; the inverse of :func:`parse_list`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def brief_list(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers for people: as :func:`format_list`, cut after a dozen ranges."""
    spans = format_list(numbers).split(",")
    return ",".join(spans) if len(spans) <= 12 else f"{','.join(spans[:6])},...,{','.join(spans[-2:])}"


def parse_size(text: str) -> int | None:
    """Read ``32768K``, ``1M`` or a bare number into bytes; ``None`` when it is none of them."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    text = text.strip()
    scale = units.get(text[-1:].upper(), 1)
    digits = text[:-1] if scale > 1 else text
    number = to_int(digits)
    return _bounded(number * scale) if number is not None and number >= 0 else None


class Tree:
    """Files below ``root``, addressed as ``proc/stat`` (no leading slash). Collects remarks in ``notes``."""

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root).rstrip("/")
        self.notes: list[str] = []

    def note(self, remark: str) -> None:
        """Remember what could not be read and what is assumed instead; a remark is kept once."""
        if remark not in self.notes:
            self.notes.append(remark)

    def text(self, path: str) -> str | None:
        """Return the whole file, stripped, or ``None`` when it cannot be read."""
        try:
            # os-level: pathlib costs more than the read itself, and a large host has thousands of these files.
            descriptor = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            return None
        try:
            parts = []
            while part := os.read(descriptor, 1 << 16):
                parts.append(part)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return b"".join(parts).decode("utf-8", "replace").strip().strip("\0")

    def lines(self, path: str) -> list[str]:
        """Return the lines of a file; none when it cannot be read."""
        return (self.text(path) or "").splitlines()

    def number(self, path: str) -> int | None:
        """Return the integer a file holds, or ``None``."""
        return to_int(self.text(path))

    def numbers(self, path: str) -> tuple[int, ...] | None:
        """Return the list (``0-3,8``) a file holds; ``None`` when it is missing or, with a remark, malformed."""
        text = self.text(path)
        return None if text is None else self.listed(text, f"/{path}")

    def listed(self, text: str, where: str) -> tuple[int, ...] | None:
        """Read a list as :func:`parse_list` does; malformed text becomes a remark naming ``where``, and ``None``."""
        try:
            return parse_list(text)
        except ValueError:
            self.note(f"{where} holds no list of numbers: '{text[:40]}'")
            return None

    def pairs(self, path: str, separator: str | None = ":") -> dict[str, str]:
        """Return ``key: value`` lines as a mapping; the separator ``None`` is white space, the first of a key wins."""
        found: dict[str, str] = {}
        for line in self.lines(path):
            key, *rest = line.split(separator, 1)
            if rest:
                found.setdefault(key.strip(), rest[0].strip())
        return found

    def exists(self, path: str) -> bool:
        """Say whether there is such a file or folder."""
        try:
            return Path(f"{self.root}/{path}").exists()
        except (OSError, ValueError):
            return False

    def is_folder(self, path: str) -> bool:
        """Say whether there is such a folder."""
        try:
            return Path(f"{self.root}/{path}").is_dir()
        except (OSError, ValueError):
            return False

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a folder; none when it cannot be listed."""
        try:
            return sorted(entry.name for entry in Path(f"{self.root}/{path}").iterdir())
        except (OSError, ValueError):
            return []


def to_int(text: str | None) -> int | None:
    """Return ``text`` as an integer, or ``None``; no counter of the kernel is past 64 bits, so nothing here is."""
    try:
        number = int(text) if text is not None else None
    except ValueError:
        return None
    return _bounded(number) if number is not None else None


def to_float(text: str | None) -> float | None:
    """Return ``text`` as a finite number, or ``None``."""
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def kilobytes(text: str | None) -> int | None:
    """Return bytes for the ``12345 kB`` of meminfo and smaps; ``None`` when it is something else."""
    number, _, unit = (text or "").partition(" ")
    count = to_int(number)
    return _bounded(count * 1024) if count is not None and unit in {"kB", ""} else None


def _bounded(number: int) -> int | None:
    return number if -_MOST <= number <= _MOST else None
