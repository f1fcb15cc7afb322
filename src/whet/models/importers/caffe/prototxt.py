"""A lenient reader of protobuf text: it needs no schema, so a fork's fields and enum values are read, not rejected.

What a word means is asked for later, by :class:`Message`'s accessors, which refuse by name. Grammar: "Text Format
Language Specification" of protobuf, with ``,`` and ``;`` between fields, ``<>`` for ``{}``, and ``#`` comments.
"""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from whet.errors import ModelError, Unsupported

MAX_BYTES = 4 << 20
"""Longest text taken; the largest published deploy files have 1 MB."""
MAX_DEPTH = 32
"""Deepest nesting taken; Caffe's schema has five levels."""

_QUOTED = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_TOKEN = re.compile(
    r"(?P<space>(?:[\s,;]|#[^\n]*)+)"
    r"|(?P<word>[A-Za-z_][\w./-]*|\[[A-Za-z_][\w./-]*\](?=\s*[:{<]))"
    r"|(?P<number>[-+]?\.?[0-9][\w.]*(?:(?<=[eE])[-+][0-9]+)?|[-+][A-Za-z]+)"
    rf"|(?P<text>{_QUOTED}(?:\s*{_QUOTED})*)"
    r"|(?P<mark>[{}<>:\[\]])",
    re.ASCII,
)
_PIECE = re.compile(_QUOTED)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number, a word or a quoted text as it stands in the file."""

    raw: str
    quoted: bool
    line: int


@dataclass(slots=True)
class Message:
    """Fields by name, each a list in the order of the file.

    Attributes:
        line: where it starts.
        where: what it belongs to, for messages ("layer 'conv1' (Convolution)"); set by the reader of the net.
        fields: values by field name.
    """

    line: int = 1
    where: str = ""
    fields: dict[str, list["Scalar | Message"]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def messages(self, name: str) -> list["Message"]:
        """Return the messages called ``name``.

        Raises:
            ModelError: one of them is a plain value.
        """
        found = []
        for value in self.fields.get(name, []):
            if isinstance(value, Scalar):
                raise self._wrong(name, value, "a block in braces")
            value.where = self.where or value.where
            found.append(value)
        return found

    def message(self, name: str) -> "Message":
        """Return the last message called ``name``, or an empty one."""
        return (self.messages(name) or [Message(self.line, self.where)])[-1]

    def scalars(self, name: str) -> list[Scalar]:
        """Return the plain values called ``name``.

        Raises:
            ModelError: one of them is a block.
        """
        found = []
        for value in self.fields.get(name, []):
            if isinstance(value, Message):
                raise ModelError(f"{self._at(value.line)}: {name} is a block; a single value belongs there")
            found.append(value)
        return found

    def integers(self, name: str, low: int, high: int = 1 << 31) -> list[int]:
        """Return every integer called ``name``.

        Raises:
            ModelError: one is no integer or outside ``low..high``.
        """
        found = []
        for scalar in self.scalars(name):
            value = _integer(scalar.raw)
            if value is None or scalar.quoted or not low <= value <= high:
                raise self._wrong(name, scalar, f"an integer from {low} to {high}")
            found.append(value)
        return found

    def integer(self, name: str, default: int, low: int = 0, high: int = 1 << 31) -> int:
        """Return the last integer called ``name``, or ``default``."""
        return (self.integers(name, low, high) or [default])[-1]

    def numbers(self, name: str) -> list[float]:
        """Return every number called ``name``.

        Raises:
            ModelError: one is no finite number.
        """
        found = []
        for scalar in self.scalars(name):
            value = _number(scalar.raw)
            if value is None or scalar.quoted:
                raise self._wrong(name, scalar, "a finite number")
            found.append(value)
        return found

    def number(self, name: str, default: float) -> float:
        """Return the last number called ``name``, or ``default``."""
        return (self.numbers(name) or [default])[-1]

    def texts(self, name: str) -> list[str]:
        """Return every text or word called ``name``."""
        return [scalar.raw for scalar in self.scalars(name)]

    def text(self, name: str, default: str = "") -> str:
        """Return the last text or word called ``name``, or ``default``."""
        return (self.texts(name) or [default])[-1]

    def flag(self, name: str, default: bool) -> bool:
        """Return the last boolean called ``name``, or ``default``.

        Raises:
            ModelError: it is no boolean.
        """
        for scalar in self.scalars(name)[-1:]:
            if scalar.raw.lower() in ("true", "t", "1"):
                return True
            if scalar.raw.lower() in ("false", "f", "0"):
                return False
            raise self._wrong(name, scalar, "true or false")
        return default

    def choice(self, name: str, default: str, known: Collection[str]) -> str:
        """Return the last word called ``name``, or ``default``.

        Raises:
            Unsupported: the word is not in ``known``: a fork's own value.
        """
        for scalar in self.scalars(name)[-1:]:
            if scalar.raw not in known:
                raise Unsupported(
                    f"{self._at(scalar.line)}: {name} {scalar.raw} is not supported, only {', '.join(known)};"
                    " it is a fork's own value whose meaning the file does not carry"
                )
            return scalar.raw
        return default

    def _wrong(self, name: str, scalar: Scalar, wanted: str) -> ModelError:
        return ModelError(f"{self._at(scalar.line)}: {name} is '{scalar.raw[:80]}', {wanted} belongs there")

    def _at(self, line: int) -> str:
        return f"{self.where or 'the net'}, line {line}"


def parse(data: bytes, what: str) -> Message:
    """Read protobuf text.

    Args:
        data: the file's bytes; what is no UTF-8 is kept as escapes.
        what: names the file in errors.

    Raises:
        ModelError: no text of this kind, too long or too deep; names the line.
    """
    if len(data) > MAX_BYTES:
        raise ModelError(f"{what} has {len(data)} bytes, more than the {MAX_BYTES} a network description may have")
    return _Parser(data.decode("utf-8", "backslashreplace"), what).run()


class _Parser:
    """One pass over the tokens, with the open blocks on a list: depth costs no recursion."""

    def __init__(self, text: str, what: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.what = what
        self.line = 1

    def run(self) -> Message:
        """Read the whole text."""
        open_blocks = [(Message(), "")]
        tokens = self.tokens()
        for kind, raw in tokens:
            message, closer = open_blocks[-1]
            if kind == "mark" and raw == closer:
                open_blocks.pop()
                continue
            if kind != "word":
                raise self.bad(f"'{raw[:40]}' where a field's name belongs")
            inner = self.field(raw.strip("[]"), message, tokens)
            if inner:
                open_blocks.append(inner)
                if len(open_blocks) > MAX_DEPTH:
                    raise self.bad(f"more than {MAX_DEPTH} blocks within each other")
        if len(open_blocks) > 1:
            raise self.bad("the end of the file inside a block; it is truncated, fetch it again")
        return open_blocks[0][0]

    def field(self, name: str, message: Message, tokens: Iterator[tuple[str, str]]) -> tuple[Message, str] | None:
        """Read what follows a name into ``message``; return the block it opens with the mark that closes it."""
        kind, raw = next(tokens, ("end", ""))
        colon = raw == ":"
        if colon:
            kind, raw = next(tokens, ("end", ""))
        values = message.fields.setdefault(name, [])
        if kind == "mark" and raw in "{<":
            inner = Message(self.line)
            values.append(inner)
            return inner, "}" if raw == "{" else ">"
        if not colon:
            raise self.bad(f"'{raw[:40]}' after '{name[:40]}' where ':' or '{{' belongs")
        if raw == "[":
            kind, raw = next(tokens, ("end", ""))
            while raw != "]":
                values.append(self.scalar(kind, raw, name))
                kind, raw = next(tokens, ("end", ""))
        else:
            values.append(self.scalar(kind, raw, name))
        return None

    def scalar(self, kind: str, raw: str, name: str) -> Scalar:
        """Make a value of a token; adjacent quoted texts are one."""
        if kind in ("word", "number"):
            return Scalar(raw, quoted=False, line=self.line)
        if kind != "text":
            raise self.bad(f"'{raw[:40]}' where a value of '{name[:40]}' belongs")
        return Scalar(
            "".join(_ESCAPE.sub(_unescape, piece[1:-1]) for piece in _PIECE.findall(raw)), quoted=True, line=self.line
        )

    def tokens(self) -> Iterator[tuple[str, str]]:
        """Yield (kind, text) of each token and keep count of the lines."""
        position = 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if not match:
                raise self.bad(f"{self.text[position : position + 20]!r}, which begins no name, number or quoted text")
            raw, kind = match.group(), match.lastgroup or ""
            position = match.end()
            if kind != "space":
                yield kind, raw
            self.line += raw.count("\n")

    def bad(self, found: str) -> ModelError:
        """Make the error of this line."""
        return ModelError(f"{self.what} is no readable prototxt: line {self.line} has {found}")


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _ESCAPES.get(code, code)


def _integer(raw: str) -> int | None:
    try:
        return int(raw[:40], 0 if raw.lstrip("+-")[:2].lower() == "0x" else 10)
    except ValueError:
        return None


def _number(raw: str) -> float | None:
    try:
        value = float(raw.removesuffix("f").removesuffix("F") if raw[:2].lower() != "0x" else raw)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
