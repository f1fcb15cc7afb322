"""MXNet's symbol file (``*-symbol.json``): the graph as a list of nodes, from version 0.8 to 1.9.

Source: apache/mxnet ``src/nnvm`` (``SaveJSON``/``LoadJSON``) and ``legacy_json_util.cc``: parameters stand as text in
``param`` (0.8), ``attr`` (0.9 to 0.12) or ``attrs``; an input is ``[node, output]`` or ``[node, output, version]``.
"""

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from whet.errors import ModelError, Unsupported

MAX_BYTES = 64 << 20
MAX_NODES = 100_000
_TRUE, _FALSE = ("true", "1"), ("false", "0")


@dataclass(frozen=True, slots=True)
class Node:
    """One operation or variable (``op`` is ``null``).

    Attributes:
        op: operator name.
        name: its name.
        attributes: parameters as text.
        inputs: (node, output) pairs.
    """

    op: str
    name: str
    attributes: dict[str, str]
    inputs: tuple[tuple[int, int], ...]

    @property
    def where(self) -> str:
        """Names the node in messages."""
        return f"node '{self.name}' ({self.op})"

    def text(self, key: str, default: str, known: Collection[str] = ()) -> str:
        """Return a word.

        Raises:
            Unsupported: it is not in ``known``, where that is given.
        """
        value = self.attributes.get(key, default)
        if known and value not in known:
            raise Unsupported(f"{self.where}: {key} '{value}' is not supported, only {', '.join(known)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean, written ``True``, ``true`` or ``1``.

        Raises:
            ModelError: it is no boolean.
        """
        value = self.attributes.get(key, str(default)).lower()
        if value not in _TRUE + _FALSE:
            raise self.wrong(key, "True or False")
        return value in _TRUE

    def number(self, key: str, default: float) -> float:
        """Return a finite number.

        Raises:
            ModelError: it is none.
        """
        try:
            value = float(self.attributes.get(key, default))
        except ValueError:
            raise self.wrong(key, "a number") from None
        if not math.isfinite(value):
            raise self.wrong(key, "a finite number")
        return value

    def integers(self, key: str, default: tuple[int, ...] = (), low: int = -(1 << 40)) -> tuple[int, ...]:
        """Return integers written ``(1, 2)``, ``[1, 2]`` or ``3``; ``None`` and nothing are the default.

        Raises:
            ModelError: one is no integer or below ``low``.
        """
        raw = self.attributes.get(key, "").strip()
        if raw in ("", "None"):
            return default
        parts = [part.strip().rstrip("L") for part in raw.strip("()[]").split(",") if part.strip()]
        try:
            values = tuple(int(part[:40]) for part in parts)
        except ValueError:
            raise self.wrong(key, "integers") from None
        if len(values) > 32 or any(not low <= value <= 1 << 40 for value in values):
            raise self.wrong(key, f"at most 32 integers from {low} on")
        return values

    def integer(self, key: str, default: int, low: int = -(1 << 40)) -> int:
        """Return one integer.

        Raises:
            ModelError: it is none, or below ``low``.
        """
        values = self.integers(key, (default,), low)
        if len(values) != 1:
            raise self.wrong(key, "one integer")
        return values[0]

    def wrong(self, key: str, wanted: str) -> ModelError:
        """Make the error of a parameter."""
        return ModelError(f"{self.where}: {key} is '{self.attributes.get(key, '')[:80]}', not {wanted}")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A graph.

    Attributes:
        nodes: in an order where inputs come first.
        heads: (node, output) pairs, the net's outputs.
    """

    nodes: tuple[Node, ...]
    heads: tuple[tuple[int, int], ...]


def parse_symbol(data: bytes, what: str) -> Symbol:
    """Read a symbol file.

    Raises:
        ModelError: no JSON, no symbol, or references that lead nowhere.
    """
    if len(data) > MAX_BYTES:
        raise ModelError(f"{what} has {len(data)} bytes, more than the {MAX_BYTES} a symbol may have")
    try:
        document = json.loads(data.decode("utf-8", "backslashreplace"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what} is no readable JSON ({type(error).__name__}); fetch it again") from None
    nodes = document.get("nodes") if isinstance(document, dict) else None
    if not isinstance(nodes, list) or not 0 < len(nodes) <= MAX_NODES:
        raise ModelError(f"{what} is no MXNet symbol: it lacks a list 'nodes' of 1 to {MAX_NODES}")
    read = tuple(_node(node, index, what) for index, node in enumerate(nodes))
    heads = _references(document.get("heads"), len(read), f"{what}: heads")
    if not 0 < len(heads) <= MAX_NODES:
        raise ModelError(f"{what} has {len(heads)} heads, the outputs; 1 to {MAX_NODES} belong there")
    return Symbol(read, heads)


def _node(node: Any, index: int, what: str) -> Node:
    if not isinstance(node, dict) or not isinstance(node.get("op"), str) or not isinstance(node.get("name"), str):
        raise ModelError(f"{what}: node {index} lacks an op or a name")
    attributes: dict[str, str] = {}
    for key in ("attr", "param", "attrs"):
        block = node.get(key) or {}
        if not isinstance(block, dict):
            raise ModelError(f"{what}: {key} of node '{node['name']}' is no table")
        attributes.update({name: str(value) for name, value in block.items()})
    where = f"{what}: inputs of node '{node['name']}'"
    return Node(node["op"], node["name"], attributes, _references(node.get("inputs", []), index, where))


def _references(pairs: Any, bound: int, where: str) -> tuple[tuple[int, int], ...]:
    found = []
    listed: list[Any] = pairs if isinstance(pairs, list) else [pairs]
    for pair in listed:
        if not _is_reference(pair) or not 0 <= pair[0] < bound or (len(pair) > 1 and not 0 <= pair[1] < 1 << 16):
            raise ModelError(f"{where}: {str(pair)[:60]} names no node before it")
        found.append((pair[0], pair[1] if len(pair) > 1 else 0))
    return tuple(found)


def _is_reference(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) in (1, 2, 3) and all(type(part) is int for part in pair)
