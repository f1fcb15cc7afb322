"""Tensor specifications and the pure operations of a data plane: check, stack, split, pad along the batch axis.

Datatypes carry the names of the Open Inference Protocol (``FP32``, ``UINT8``, ``BYTES``, ...), plus ``BF16``, which
that table lacks. Arrays are numpy, row-major. ``BF16`` arrays use ``ml_dtypes.bfloat16``; ``BYTES`` arrays have dtype
``object`` and hold ``bytes``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.errors import TensorError, UsageError

Array = NDArray[Any]
Tensors = Mapping[str, Array]
"""Named arrays; every value has the batch axis in front when the model has one."""

DYNAMIC = -1
"""A dimension that is not fixed."""

_NUMPY: dict[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
DATATYPES = (*_NUMPY, "BF16")
"""Every datatype name Whet knows."""


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """Return the numpy dtype that holds ``datatype``.

    Raises:
        TensorError: the name is not in :data:`DATATYPES`.
    """
    if datatype == "BF16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    try:
        return np.dtype(_NUMPY[datatype])
    except KeyError:
        raise TensorError(f"datatype '{datatype}' is unknown; known are {', '.join(DATATYPES)}") from None


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the datatype name of a numpy dtype; the inverse of :func:`numpy_dtype`.

    Raises:
        TensorError: the dtype has no name in the protocol.
    """
    if dtype.kind in "SU":
        return "BYTES"
    name = dtype.name
    if name == "bfloat16":
        return "BF16"
    for datatype, numpy_name in _NUMPY.items():
        if numpy_name == name:
            return datatype
    raise TensorError(f"arrays of dtype '{name}' have no protocol datatype; cast to one of {', '.join(DATATYPES)}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of one input or output.

    Attributes:
        name: the model's own name for the tensor.
        datatype: a name of :data:`DATATYPES`.
        shape: dimensions in the model's layout; ``-1`` is variable. Where the model has a batch axis it is axis 0 and
            stands here as ``-1``.
        labels: names of the classes along the last axis, or empty.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype that holds this tensor."""
        return numpy_dtype(self.datatype)

    def with_batch(self, batch: int) -> tuple[int, ...]:
        """Return the shape with axis 0 set to ``batch``."""
        return (batch, *self.shape[1:])

    def __str__(self) -> str:
        dims = ",".join("?" if d == DYNAMIC else str(d) for d in self.shape)
        return f"{self.name}: {self.datatype}[{dims}]"


def check(spec: TensorSpec, array: Array) -> None:
    """Raise unless ``array`` has exactly the spec's dtype and fits its shape; runtimes cast silently, so Whet does not.

    Raises:
        TensorError: dtype or shape differ; names the tensor, what came and what is wanted.
    """
    if array.dtype != spec.dtype:
        came = datatype_of(array.dtype) if array.dtype.kind in "biufOSUV" else str(array.dtype)
        raise TensorError(f"input '{spec.name}' has datatype {came}, the model wants {spec.datatype}; cast it first")
    fits = array.ndim == len(spec.shape) and all(
        want in (DYNAMIC, got) for want, got in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise TensorError(f"input '{spec.name}' has shape {list(array.shape)}, the model wants {list(spec.shape)}")


def check_all(specs: Sequence[TensorSpec], tensors: Tensors, *, batched: bool) -> int:
    """Check every input and return the request's batch: the common length of axis 0, or 1 for an unbatched model.

    Raises:
        TensorError: an input is missing, unknown, does not fit, is empty, or disagrees on the batch.
    """
    known = {spec.name for spec in specs}
    if tensors.keys() != known:
        missing, unknown = sorted(known - tensors.keys()), sorted(tensors.keys() - known)
        said = "; ".join(f"{what} {names}" for what, names in (("missing", missing), ("unknown", unknown)) if names)
        raise TensorError(f"inputs do not match the model's: {said}; the model takes {sorted(known)}")
    batch = 0
    for spec in specs:
        array = tensors[spec.name]
        check(spec, array)
        if not batched:
            continue
        rows = array.shape[0]
        if rows == 0:
            raise TensorError(f"input '{spec.name}' has batch 0; send at least one sample")
        if batch and rows != batch:
            raise TensorError(f"input '{spec.name}' has batch {rows}, another input has {batch}; they must agree")
        batch = rows
    return batch if batched else 1


def stack(requests: Sequence[Tensors]) -> dict[str, Array]:
    """Concatenate requests along axis 0, in order."""
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def split(tensors: Tensors, sizes: Sequence[int]) -> Iterator[dict[str, Array]]:
    """Yield views of ``tensors`` cut along axis 0 into runs of ``sizes``; rows past the sum are padding and dropped."""
    start = 0
    for size in sizes:
        yield {name: array[start : start + size] for name, array in tensors.items()}
        start += size


def nbytes(tensors: Tensors) -> int:
    """Return the bytes the arrays hold (for ``BYTES``, the sum of the elements' lengths)."""
    return sum(
        sum(len(item) for item in array.flat) if array.dtype == object else array.nbytes for array in tensors.values()
    )


def read_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Read ``NAME=1,3,224,224`` or ``1,3,224,224`` (the only input); ``-1`` or ``?`` is variable.

    Raises:
        UsageError: not a shape, or the same input twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, dims = text.rpartition("=")
        parts = [part.strip() for part in dims.split(",")]
        if not all(part == "?" or re.fullmatch(r"-1|[1-9]\d*", part) for part in parts):
            raise UsageError(
                f"--input-shape '{text}' is no shape; write NAME=1,3,224,224 or 1,3,224,224 (-1: variable)"
            )
        if name in shapes:
            raise UsageError(f"--input-shape names input '{name}' twice")
        shapes[name] = tuple(-1 if part == "?" else int(part) for part in parts)
    return shapes
