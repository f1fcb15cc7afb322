"""The init_net: operators that fill blobs with stored or constant numbers."""

from collections import Counter

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers.caffe2.netdef import NetDef, Operator
from whet.models.importers.onnx_graph import Array
from whet.models.importers.wire import element_count

MAX_CONSTANT = 1 << 24
"""Elements a ConstantFill may make: 64 MiB of float32 out of a few bytes."""

_STORED = ("GivenTensorFill", "GivenTensorIntFill", "GivenTensorInt64Fill", "GivenTensorDoubleFill")
_RANDOM = ("XavierFill", "MSRAFill", "GaussianFill", "UniformFill")
FILLS = (*_STORED, "ConstantFill")
"""Fills that are read."""

Blobs = dict[str, Array]
"""Arrays by blob name; float32 or int64."""


def fill(net: NetDef, what: str) -> Blobs:
    """Run an init_net.

    Raises:
        Unsupported: operators that are no fill with known numbers, all at once.
        ModelError: a fill whose shape and numbers disagree, or that would be absurdly large.
    """
    unknown = Counter(op.type for op in net.operators if op.type not in FILLS)
    if unknown:
        listed = ", ".join(f"{kind} ({count})" for kind, count in unknown.most_common())
        random = "; random fills mean that it was never trained" if any(kind in _RANDOM for kind in unknown) else ""
        raise Unsupported(f"{what} has operators Whet does not read: {listed}{random}. Save a trained float32 net")
    blobs: Blobs = {}
    for operator in net.operators:
        if len(operator.outputs) != 1:
            raise ModelError(f"{operator.where} in {what} fills {len(operator.outputs)} blobs, one belongs there")
        blobs[operator.outputs[0]] = _constant(operator) if operator.type == "ConstantFill" else _stored(operator)
    return blobs


def _stored(operator: Operator) -> Array:
    values = operator.values("values")
    shape = operator.integers("shape", 0) if "shape" in operator.arguments else (len(values),)
    count = element_count(shape, operator.where)
    if count != len(values):
        raise ModelError(f"{operator.where} claims shape {list(shape)} = {count} numbers but holds {len(values)}")
    return values.reshape(shape)


def _constant(operator: Operator) -> Array:
    shape = operator.integers("shape", 0)
    if element_count(shape, operator.where) > MAX_CONSTANT or operator.inputs:
        raise ModelError(
            f"{operator.where} fills {list(shape)}; a stored shape of at most {MAX_CONSTANT} belongs there"
        )
    argument = operator.arguments.get("value")
    value = 0 if argument is None else argument.number if argument.number is not None else argument.integer
    return np.full(shape, value or 0, np.float32)
