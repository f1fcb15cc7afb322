"""From requests to a slot's arrays and back: validation, copying in place, cutting and joining. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np

from whet.engine.batcher import Batch
from whet.engine.request import Answer, Timing
from whet.errors import RuntimeFailed
from whet.tensors import DYNAMIC, Array, Tensors, TensorSpec, check_all

Shapes = Mapping[str, tuple[int, ...]]


class Intake:
    """Checks requests and fills slots for inputs of ``specs``.

    Args:
        specs: what a request carries.
        batched: axis 0 is a batch axis.
    """

    def __init__(self, specs: Sequence[TensorSpec], *, batched: bool) -> None:
        self._specs = tuple(specs)
        self._batched = batched
        rest = [spec.shape[1:] if batched else spec.shape for spec in specs]
        self.fixed = all(DYNAMIC not in shape for shape in rest)
        self._quick = [
            (spec.name, spec.dtype, shape) for spec, shape in zip(specs, rest, strict=True) if DYNAMIC not in shape
        ]
        self._by_size: dict[int, Shapes] = {}

    def rows(self, inputs: Tensors) -> int:
        """Check a request's inputs and return its rows.

        Raises:
            TensorError: something does not fit; nothing is ever cast.
        """
        if self.fixed and len(inputs) == len(self._specs):
            rows = self._quick_rows(inputs)
            if rows:
                return rows
        return check_all(self._specs, inputs, batched=self._batched)

    def _quick_rows(self, inputs: Tensors) -> int:
        """Return the rows of a request that plainly fits, or 0 if the thorough check must look at it."""
        rows = 0
        for name, dtype, rest in self._quick:
            array = inputs.get(name)
            if array is None or array.dtype != dtype:
                return 0
            if not self._batched:
                if array.shape != rest:
                    return 0
                rows = 1
                continue
            shape = array.shape
            if shape[1:] != rest or len(shape) != len(rest) + 1 or (rows and rows != shape[0]):
                return 0
            rows = shape[0]
        return rows

    def key(self, inputs: Tensors) -> object:
        """Return what requests must have in common to share a batch; None where every shape is fixed."""
        if self.fixed:
            return None
        return tuple(inputs[spec.name].shape[1 if self._batched else 0 :] for spec in self._specs)

    def shapes(self, batch: Batch, first: Tensors) -> Shapes:
        """Return the shapes a slot must prepare for ``batch``; the same object every time where they are fixed."""
        known = self._by_size.get(batch.size)
        if known is not None:
            return known
        if not self._batched:
            shapes = {name: array.shape for name, array in first.items()}
        else:
            shapes = {name: (batch.size, *array.shape[1:]) for name, array in first.items()}
        if self.fixed:
            self._by_size[batch.size] = shapes
        return shapes


def fill(arrays: Mapping[str, Array], batch: Batch, ready: Sequence[Tensors], *, batched: bool) -> None:
    """Copy the pieces of ``batch`` into a slot's ``arrays``; rows of padding become zero.

    Args:
        arrays: what the slot prepared.
        batch: says which rows go where.
        ready: inputs of each piece's request, as the session takes them.
        batched: axis 0 is a batch axis; otherwise the one piece is copied whole.
    """
    for piece, inputs in zip(batch.pieces, ready, strict=True):
        if not batched:
            for name, array in inputs.items():
                arrays[name][...] = array
            continue
        offset, rows, start = piece.offset, piece.rows, piece.start
        whole = rows == piece.request.rows
        for name, array in inputs.items():
            arrays[name][offset : offset + rows] = array if whole else array[start : start + rows]
    if batch.rows < batch.size and batched:
        for array in arrays.values():
            array[batch.rows :] = b"" if array.dtype == object else 0


def collect(outputs: Mapping[str, Array], batch: Batch, *, batched: bool) -> dict[str, Array]:
    """Copy a batch's answers out of the slot, without padding, and check that there are as many as questions.

    Raises:
        RuntimeFailed: an output has another number of rows than the batch that was asked.
    """
    if not batched:
        return {name: array.copy() for name, array in outputs.items()}
    copied = {}
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != batch.size:
            came = array.shape[0] if array.ndim else "no"
            raise RuntimeFailed(
                f"output '{name}' has {came} rows for a batch of {batch.size}; "
                "the model mixes rows: import it as unbatched"
            )
        copied[name] = array[: batch.rows].copy()
    return copied


def join(parts: Sequence[tuple[int, Answer]]) -> Answer:
    """Join the answers of a split request, given as (first row, answer) in any order."""
    ordered = [answer for _, answer in sorted(parts, key=lambda part: part[0])]
    timings = [answer.timing for answer in ordered]
    largest = max(timings, key=lambda timing: timing.batch)
    outputs = {name: _concatenate([answer.outputs[name] for answer in ordered]) for name in ordered[0].outputs}
    first = min(timing.queue_ns for timing in timings)
    last = max(timing.queue_ns + timing.compute_ns for timing in timings)
    return Answer(outputs, Timing(first, last - first, timings[0].decode_ns, 0, largest.batch, largest.padded))


def _concatenate(arrays: Sequence[Array]) -> Array:
    """Stack along the batch axis; where other axes differ (kept boxes), pad with zeros at their end."""
    rest = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    if any(array.shape[1:] != rest for array in arrays):
        widths = [[(0, 0), *((0, want - got) for want, got in zip(rest, a.shape[1:], strict=True))] for a in arrays]
        arrays = [np.pad(array, width) for array, width in zip(arrays, widths, strict=True)]
    return np.concatenate(arrays)
