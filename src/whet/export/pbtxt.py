"""Protobuf's text format, as much of it as a model configuration needs. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """A name that is written without quotes: a value of an enumeration."""

    name: str


def render(fields: Mapping[str, object], indent: int = 0) -> str:
    """Return a message's fields, one a line; a list repeats its field."""
    repeated = ((name, value if isinstance(value, list | tuple) else (value,)) for name, value in fields.items())
    return "\n".join(_field(name, each, indent) for name, values in repeated for each in values)


def _field(name: str, value: object, indent: int) -> str:
    pad = " " * indent
    if isinstance(value, Mapping):
        return f"{pad}{name} {{\n{render(value, indent + 2)}\n{pad}}}"
    return f"{pad}{name}: {_scalar(value)}"


def _scalar(value: object) -> str:
    if isinstance(value, Word):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(_ESCAPES.get(char, char) for char in str(value)) + '"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
