"""What an operator's function works with: the graph, and operands that are tensors of the net or arrays of the file."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers.mxnet.ndarray import Params
from whet.models.importers.mxnet.symbol import Node
from whet.models.importers.onnx_graph import UNKNOWN, Array, Graph, Value


@dataclass(frozen=True, slots=True)
class Weight:
    """An array of the ``.params`` file."""

    name: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.array.shape

    def __str__(self) -> str:
        return f"weight '{self.name}' {list(self.shape)}"


Operand = Value | Weight


@dataclass(frozen=True, slots=True)
class Context:
    """One conversion.

    Attributes:
        graph: what is built.
        params: arrays by name.
        stored: weights already in the graph, by name.
    """

    graph: Graph
    params: Params
    stored: dict[str, Value] = field(default_factory=dict)

    def value(self, operand: Operand) -> Value:
        """Return an operand as a tensor of the graph."""
        if isinstance(operand, Value):
            return operand
        if operand.name not in self.stored:
            self.stored[operand.name] = self.graph.constant(operand.array, "weight")
        return self.stored[operand.name]

    def array(self, node: Node, operand: Operand, shape: Sequence[int]) -> Array:
        """Return an operand as float32 of ``shape``, where -1 takes what is there.

        Raises:
            Unsupported: it is computed by the net.
            ModelError: it has another shape.
        """
        if isinstance(operand, Value):
            raise Unsupported(f"{node.where} computes its weights ({operand}); only stored ones are read")
        same = len(operand.shape) == len(shape) and all(
            w in (UNKNOWN, d) for d, w in zip(operand.shape, shape, strict=True)
        )
        if not same and (UNKNOWN in shape or operand.array.size != math.prod(shape)):
            raise ModelError(
                f"{node.where} needs a weight {list(shape)}, the file holds {operand}; are these the weights of this"
                " net, and is --input-shape the size it was trained with?"
            )
        array: Array = np.asarray(operand.array, np.float32)
        return array if UNKNOWN in shape else array.reshape(tuple(shape))


OperatorFunction = Callable[[Context, Node, Sequence[Operand]], list[Value]]
"""Adds one node to the graph: (context, node, operands) -> outputs."""


def operands(node: Node, given: Sequence[Operand], low: int, high: int | None = None) -> list[Operand]:
    """Return the operands when their number is within ``low..high`` (``high`` defaults to ``low``).

    Raises:
        ModelError: too few or too many.
    """
    high = low if high is None else high
    if not low <= len(given) <= high:
        raise ModelError(
            f"{node.where} has {len(given)} inputs, {low}{f' to {high}' if high > low else ''} belong there"
        )
    return list(given)


def one(c: Context, node: Node, given: Sequence[Operand], rank: int = 0) -> Value:
    """Return the only operand as a tensor with at least ``rank`` axes.

    Raises:
        ModelError: other operands, or too few axes.
    """
    x = c.value(operands(node, given, 1)[0])
    return ranked(node, x, rank)


def ranked(node: Node, x: Value, rank: int) -> Value:
    """Return ``x`` when it has at least ``rank`` axes.

    Raises:
        ModelError: it has fewer.
    """
    if len(x.shape) < rank:
        raise ModelError(f"{node.where} needs at least {rank} axes but gets {x}")
    return x


def axis_of(node: Node, key: str, default: int, rank: int) -> int:
    """Return an axis parameter counted from the front.

    Raises:
        ModelError: there is no such axis.
    """
    axis = node.integer(key, default)
    if not -rank <= axis < rank:
        raise ModelError(f"{node.where}: {key} {axis} is no axis of a tensor with {rank} axes")
    return axis % rank
