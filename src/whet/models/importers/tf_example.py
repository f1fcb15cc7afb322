"""Reads a serialized ``tf.Example``: named features of bytes, floats or integers. TensorFlow is not needed.

Field numbers are those of ``example.proto`` and ``feature.proto``.
"""

from collections.abc import Sequence

import numpy as np

from whet.errors import ModelError, TensorError
from whet.models.importers import wire
from whet.models.importers.tf_signature import map_entry
from whet.tensors import DYNAMIC, Array, TensorSpec

WHAT = "a serialized tf.Example"
MAX_FEATURES = 65_536


def parse_example(serialized: bytes | memoryview) -> dict[str, Array]:
    """Return the features of one example: ``object`` arrays of bytes, ``float32`` or ``int64`` arrays, one axis each.

    Raises:
        TensorError: not a ``tf.Example``.
    """
    found: dict[str, Array] = {}
    try:
        for number, _, value in wire.fields(memoryview(serialized), WHAT):
            if number != 1:
                continue
            for inner, _, entry in wire.fields(wire.message(value, WHAT), WHAT):
                if inner == 1:
                    name, feature = map_entry(wire.message(entry, WHAT), WHAT)
                    found[name] = _feature(feature)
                if len(found) > MAX_FEATURES:
                    raise TensorError(f"{WHAT} has more than {MAX_FEATURES} features")
    except ModelError as error:
        raise TensorError(str(error)) from error
    return found


def examples_to_tensors(serialized: Sequence[bytes | memoryview], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the batch that ``specs`` (dense features, batch axis in front) want from a list of examples.

    Raises:
        TensorError: an example lacks a feature, or a feature has another type or count than the spec.
    """
    parsed = [parse_example(example) for example in serialized]
    return {spec.name: np.stack([_row(example, spec, place) for place, example in enumerate(parsed)]) for spec in specs}


def _row(example: dict[str, Array], spec: TensorSpec, place: int) -> Array:
    if spec.name not in example:
        raise TensorError(f"example {place} lacks the feature '{spec.name}'; it has {sorted(example)}")
    values = example[spec.name]
    if values.dtype.kind != {"f": "f", "O": "O"}.get(spec.dtype.kind, "i"):
        raise TensorError(
            f"feature '{spec.name}' of example {place} holds {values.dtype}, the model wants {spec.datatype}"
        )
    shape = spec.shape[1:]
    free = shape.count(DYNAMIC)
    known = int(np.prod([dim for dim in shape if dim != DYNAMIC], dtype=np.int64))
    if free > 1 or (free == 0 and values.size != known) or (free == 1 and (known == 0 or values.size % known)):
        raise TensorError(
            f"feature '{spec.name}' of example {place} has {values.size} values, the model wants {list(shape)}"
        )
    return values.reshape(shape).astype(spec.dtype, copy=False)


def _feature(feature: memoryview) -> Array:
    for number, _, value in wire.fields(feature, WHAT):
        items = [part for inner, _, part in wire.fields(wire.message(value, WHAT), WHAT) if inner == 1]
        if number == 1:
            texts = np.empty(len(items), dtype=object)
            texts[:] = [bytes(wire.message(item, WHAT)) for item in items]
            return texts
        if number == 2:
            return wire.numbers(items, "<f4", WHAT).astype(np.float32)
        if number == 3:
            return np.array([one for item in items for one in wire.integers(item, WHAT)], dtype=np.int64)
    return np.empty(0, dtype=np.float32)
