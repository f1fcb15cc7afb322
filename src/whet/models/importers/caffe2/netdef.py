"""Caffe2's NetDef: operators with their arguments, read from the wire.

Field numbers are those of ``caffe2/proto/caffe2.proto``: NetDef name=1, op=2, external_input=7, external_output=8;
OperatorDef input=1, output=2, name=3, type=4, arg=5; Argument name=1, f=2, i=3, s=4, floats=5, ints=6, strings=7.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers import wire
from whet.models.importers.onnx_graph import Array

MAX_OPERATORS = 100_000


@dataclass(slots=True)
class Argument:
    """One argument; a file fills one of the fields."""

    number: float | None = None
    integer: int | None = None
    text: bytes | None = None
    numbers: list[int | memoryview] = field(default_factory=list)
    integers: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Attributes:
        type: its type name.
        inputs: blobs it reads.
        outputs: blobs it writes.
        arguments: by name.
    """

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: dict[str, Argument]

    @property
    def where(self) -> str:
        """Names the operator in messages."""
        return f"operator '{self.outputs[0] if self.outputs else ''}' ({self.type})"

    def integer(self, name: str, default: int, low: int = -(1 << 40)) -> int:
        """Return an integer argument.

        Raises:
            ModelError: it is none, or below ``low``.
        """
        argument = self.arguments.get(name)
        value = default if argument is None else argument.integer
        if value is None or not low <= value <= 1 << 40:
            raise ModelError(f"{self.where}: {name} is {value}, an integer from {low} on belongs there")
        return value

    def integers(self, name: str, low: int = -(1 << 40)) -> tuple[int, ...]:
        """Return a list of integers, empty when absent.

        Raises:
            ModelError: more than 32, or one below ``low``.
        """
        values = self.arguments[name].integers if name in self.arguments else []
        if len(values) > 32 or any(not low <= value <= 1 << 40 for value in values):
            raise ModelError(f"{self.where}: {name} {values[:32]} must be at most 32 integers from {low} on")
        return tuple(values)

    def number(self, name: str, default: float) -> float:
        """Return a finite number argument.

        Raises:
            ModelError: it is none.
        """
        argument = self.arguments.get(name)
        value = default if argument is None else argument.number
        if value is None or not math.isfinite(value):
            raise ModelError(f"{self.where}: {name} is {value}, a finite number belongs there")
        return value

    def text(self, name: str, default: str, known: tuple[str, ...]) -> str:
        """Return a word out of ``known``.

        Raises:
            Unsupported: another word.
        """
        argument = self.arguments.get(name)
        value = default if argument is None else (argument.text or b"").decode("utf-8", "backslashreplace")
        if value not in known:
            raise Unsupported(f"{self.where}: {name} '{value}' is not supported, only {', '.join(known)}")
        return value

    def values(self, name: str) -> Array:
        """Return a long list of floats (a view of the file) or integers."""
        argument = self.arguments.get(name, Argument())
        if argument.numbers:
            return wire.numbers(argument.numbers, "<f4", self.where)
        return np.asarray(argument.integers, np.int64)


@dataclass(frozen=True, slots=True)
class NetDef:
    """A net.

    Attributes:
        name: its name, may be empty.
        operators: in the order they run.
        inputs: blobs it expects to exist, weights among them.
        outputs: blobs it gives.
    """

    name: str
    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def parse_net(buffer: memoryview, what: str) -> NetDef:
    """Read a NetDef.

    Raises:
        ModelError: damaged, or without operators.
    """
    names: dict[int, list[str]] = {1: [], 7: [], 8: []}
    operators: list[Operator] = []
    for number, _, value in wire.fields(buffer, what):
        if number == 2:
            if len(operators) >= MAX_OPERATORS:
                raise ModelError(f"{what} has more than the {MAX_OPERATORS} operators Whet reads")
            operators.append(_operator(wire.message(value, what), f"{what}, operator {len(operators)}"))
        elif number in names:
            names[number].append(wire.text(value, what))
    if not operators:
        raise ModelError(f"{what} holds no operators; it is empty or no Caffe2 NetDef")
    return NetDef((names[1] or [""])[-1], tuple(operators), tuple(names[7]), tuple(names[8]))


def _operator(buffer: memoryview, what: str) -> Operator:
    names: dict[int, list[str]] = {1: [], 2: [], 4: []}
    arguments: dict[str, Argument] = {}
    for number, _, value in wire.fields(buffer, what):
        if number in names:
            names[number].append(wire.text(value, what))
        elif number == 5:
            name, argument = _argument(wire.message(value, what), what)
            arguments[name] = argument
    if not names[4] or not names[4][-1]:
        raise ModelError(f"{what} has no type; it is no Caffe2 NetDef")
    return Operator(names[4][-1], tuple(names[1]), tuple(names[2]), arguments)


def _argument(buffer: memoryview, what: str) -> tuple[str, Argument]:
    name, argument = "", Argument()
    for number, kind, value in wire.fields(buffer, what):
        if number == 1:
            name = wire.text(value, what)
        elif number == 2:
            argument.number = float(wire.numbers([value], "<f4", what)[-1]) if kind == wire.I32 else None
        elif number == 3:
            argument.integer = wire.integer(value, what)
        elif number == 4:
            argument.text = bytes(wire.message(value, what))
        elif number == 5:
            argument.numbers.append(value)
        elif number == 6:
            argument.integers += wire.integers(value, what)
    return name, argument
