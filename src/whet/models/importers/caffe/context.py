"""What a layer's function works with: the graph, the weights, and checks that name the layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whet.errors import ModelError
from whet.models.importers.caffe.net import Layer
from whet.models.importers.caffe.prototxt import Message
from whet.models.importers.caffe.weights import Blob, Weights
from whet.models.importers.onnx_graph import UNKNOWN, Array, Graph, Value


@dataclass(frozen=True, slots=True)
class Context:
    """One conversion.

    Attributes:
        graph: what is built.
        weights: blobs by layer name; None when no file was given or found.
        weights_said: where they come from ("'a.caffemodel'"), or why there are none.
        extra: how much larger than declared the batch is (see :func:`whet.models.importers.onnx_graph.free_batch`).
    """

    graph: Graph
    weights: Weights | None
    weights_said: str
    extra: int = 0

    def blobs(self, layer: Layer) -> list[Blob]:
        """Return the learned blobs of a layer, empty when it has none."""
        return (self.weights or {}).get(layer.name, [])

    def blob(self, layer: Layer, index: int, shape: Sequence[int]) -> Array:
        """Return a learned blob as float32 of ``shape``; it is matched by size, as old files store ``1x1x1xN``.

        Raises:
            ModelError: no weights, no such blob, or one of another size.
        """
        blobs = self.blobs(layer)
        if index >= len(blobs):
            if self.weights is None:
                raise ModelError(f"{layer.where} has learned weights, but {self.weights_said}")
            raise ModelError(
                f"{layer.where} needs blob {index} {list(shape)}, but {self.weights_said} holds {len(blobs)} blobs for"
                " that name; are these the weights of this net? Name others: --weights FILE"
            )
        data = blobs[index].data
        if len(data) != math.prod(shape):
            raise ModelError(
                f"{layer.where} needs blob {index} {list(shape)} = {math.prod(shape)} numbers, the file holds"
                f" {list(blobs[index].shape)} = {len(data)}; another input size or other weights than the net's?"
            )
        return data.reshape(tuple(shape))

    def bottoms(self, layer: Layer, values: Sequence[Value], low: int, high: int | None = None) -> list[Value]:
        """Return the inputs of a layer when their number is within ``low..high`` (``high`` defaults to ``low``).

        Raises:
            ModelError: too few, too many, or a tensor whose shape is only known when the net runs.
        """
        high = low if high is None else high
        if not low <= len(values) <= high:
            wanted = f"{low}" if low == high else f"{low} to {high}"
            raise ModelError(f"{layer.where} has {len(values)} bottoms, {wanted} belong there")
        for value in values:
            if UNKNOWN in value.shape:
                raise ModelError(f"{layer.where} reads {value}, whose size is only known when the net runs")
        return list(values)

    def images(self, layer: Layer, values: Sequence[Value]) -> Value:
        """Return the only input of a layer when it has at least one spatial axis.

        Raises:
            ModelError: other inputs, or fewer than three axes.
        """
        (x,) = self.bottoms(layer, values, 1)
        if len(x.shape) < 3:
            raise ModelError(f"{layer.where} slides over images [N, C, H, W] but gets {x}")
        return x


LayerFunction = Callable[[Context, Layer, Sequence[Value]], list[Value]]
"""Adds one layer to the graph: (context, layer, its bottoms) -> its tops."""


def axis_of(block: Message, name: str, default: int, rank: int, *, past: int = 0) -> int:
    """Return an axis parameter counted from the front; ``past`` allows that many behind the last one.

    Raises:
        ModelError: there is no such axis.
    """
    axis = block.integer(name, default, -rank, rank - 1 + past)
    if not -rank <= axis < rank + past:
        raise ModelError(f"{block.where}: {name} {axis} is no axis of a tensor with {rank} axes")
    return axis + rank if axis < 0 else axis
