"""Requests to send: drawn from the model's own description, or cut from a file of arrays."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import DataError
from whet.tensors import DYNAMIC, Array, TensorSpec, check

_MEMORY = 256 << 20  # encoded requests are kept ready in memory
_MOST = 64


def synthesise(
    specs: Sequence[TensorSpec], *, rows: int = 1, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> list[dict[str, Array]]:
    """Return up to 64 different random requests (fewer where they are large) that fit ``specs``.

    UINT8 is uniform over all values, floats are standard normal, BOOL is a coin, other integers are 0 or 1: valid as
    ids, masks and segment numbers alike. What an answer costs rarely depends on the values, what it says does: use real
    data to judge answers.

    Args:
        specs: of the model's inputs; a -1 in front is the batch axis.
        rows: length of the batch axis.
        seed: the same seed gives the same requests.
        shapes: by input name, for inputs with further free dimensions.

    Raises:
        DataError: an input holds BYTES, has free dimensions that ``shapes`` does not fix, or takes no batch.
    """
    fixed = {spec.name: _shape(spec, rows, (shapes or {}).get(spec.name)) for spec in specs}
    size = sum(math.prod(fixed[spec.name]) * spec.dtype.itemsize for spec in specs)
    count = max(2, min(_MOST, _MEMORY // max(size, 1)))
    rng = np.random.default_rng(seed)
    return [{spec.name: _random(rng, spec, fixed[spec.name]) for spec in specs} for _ in range(count)]


def shapes_of(specs: Sequence[TensorSpec], free: int = 32) -> dict[str, tuple[int, ...]]:
    """Return a shape for each input: one row where the batch axis is free, ``free`` along every other free axis."""
    return {
        spec.name: tuple(size if size > 0 else (free if axis else 1) for axis, size in enumerate(spec.shape))
        for spec in specs
    }


def from_file(path: Path, specs: Sequence[TensorSpec], *, rows: int = 1) -> list[dict[str, Array]]:
    """Return the requests held by an ``.npz`` (one array an input, by name) or ``.npy`` file (a model of one input).

    Axis 0 of each array counts samples; where the model has a batch axis ``rows`` samples make a request, and a
    remainder is left out.

    Raises:
        DataError: the file cannot be read, arrays do not fit the model, or there are too few samples for a request.
    """
    arrays = _read(path, specs)
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"{path}: arrays hold different numbers of samples: {counts}; axis 0 must agree")
    batched = all(spec.shape and spec.shape[0] == DYNAMIC for spec in specs)
    if not batched and rows != 1:
        raise DataError(f"the model has no batch axis, so a request cannot hold {rows} rows; leave --rows out")
    count = next(iter(counts.values()))
    if count < rows:
        raise DataError(f"{path} holds {count} samples, a request needs {rows}; give more data or fewer --rows")
    cuts = range(0, count - rows + 1, rows)
    requests = [
        {name: np.ascontiguousarray(a[at : at + rows] if batched else a[at]) for name, a in arrays.items()}
        for at in cuts
    ]
    for spec in specs:
        check(spec, requests[0][spec.name])
    return requests


def _shape(spec: TensorSpec, rows: int, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if spec.datatype == "BYTES":
        raise DataError(f"input '{spec}' holds BYTES, which cannot be made up; give --data FILE.npz")
    batched = bool(spec.shape) and spec.shape[0] == DYNAMIC
    if rows != 1 and not batched:
        raise DataError(f"input '{spec}' has no batch axis, so a request cannot hold {rows} rows; leave --rows out")
    shape = given or ((rows, *spec.shape[1:]) if batched else spec.shape)
    if DYNAMIC in shape or any(size < 0 for size in shape):
        raise DataError(f"input '{spec}' has free dimensions; give its shape, or --data FILE.npz")
    return shape


def _random(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    if spec.dtype == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    if spec.dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(spec.dtype)
    return rng.standard_normal(shape, np.float32).astype(spec.dtype)


def _read(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    try:
        with path.open("rb") as stream:
            found: Any = np.load(stream, allow_pickle=False)
            arrays = dict(found) if isinstance(found, np.lib.npyio.NpzFile) else {specs[0].name: found}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path} as .npz or .npy: {error}") from error
    wanted = {spec.name for spec in specs}
    if arrays.keys() != wanted:
        raise DataError(f"{path} holds {sorted(arrays)}, the model takes {sorted(wanted)}; name arrays as the inputs")
    return {name: _bytes_as_objects(array) for name, array in arrays.items()}


def _bytes_as_objects(array: Array) -> Array:
    if array.dtype.kind == "S":
        return array.astype(object)
    if array.dtype.kind == "U":
        return np.array([text.encode() for text in array.ravel().tolist()], dtype=object).reshape(array.shape)
    return array
