"""The Open Inference Protocol over gRPC: message bytes to tensors and back. Pure.

Raw tensors are cut out of the message before the rest is parsed, and put into the answer after the rest is serialised:
protobuf would copy each of them twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from whet.errors import TensorError, TooLarge
from whet.serve.arrays import NOT_IN_JSON, Buffer, datatype_name, elements, from_raw, to_raw
from whet.serve.messages import INFERENCE
from whet.serve.protocol import Question, Signature, choose, priority, refuse_unoffered, timeout_s
from whet.tensors import Array, numpy_dtype

_Request = INFERENCE["ModelInferRequest"]
_Response = INFERENCE["ModelInferResponse"]
_RAW_INPUTS, _RAW_OUTPUTS = 7, 6
_MAX_FIELDS = 10_000
"""Most top-level fields of a message; each costs time on the loop."""
_RAW_OUTPUT_TAG = bytes([_RAW_OUTPUTS << 3 | 2])
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class Received:
    """A ``ModelInferRequest`` whose raw tensors still lie in the message it came in.

    Attributes:
        head: the message without its raw tensors.
        raws: the raw tensors, views of the message.

    Raises:
        TensorError: it is no such message.
        TooLarge: there is more beside raw tensors than allowed: reading it stops every other request of the process.
    """

    __slots__ = ("head", "raws")

    def __init__(self, message: Buffer, max_head_bytes: int) -> None:
        head, self.raws = split(message, _RAW_INPUTS)
        if len(head) > max_head_bytes:
            raise TooLarge(
                f"the request holds {len(head)} bytes beside raw tensors, past the bound of {max_head_bytes}; "
                "send tensors raw, not as typed contents"
            )
        try:
            self.head = _Request.FromString(head)
        except DecodeError:
            raise TensorError("the message is no ModelInferRequest") from None


def decode(received: Received, signature: Signature) -> Question:
    """Decode a request.

    Raises:
        TensorError: the request is malformed or does not fit the model.
    """
    head = received.head
    inputs = head.inputs
    raws = received.raws
    if raws and len(raws) != len(inputs):
        raise TensorError(
            f"the request has {len(inputs)} inputs and {len(raws)} raw contents; send all of them raw, in order"
        )
    tensors: dict[str, Array] = {}
    for index, one in enumerate(inputs):
        name = one.name
        if name in tensors:
            raise TensorError(f"input '{name[:200]}' comes twice")
        if one.parameters:
            refuse_unoffered(name, one.parameters)
        if not raws:
            tensors[name] = _from_contents(one)
        elif one.HasField("contents"):
            raise TensorError(f"input '{name[:200]}' has typed contents beside raw ones; send all of them raw")
        else:
            tensors[name] = from_raw(name, one.datatype, one.shape, raws[index])
    question = Question(tensors, head.id, _selection(head.outputs, signature))
    if head.parameters:
        parameters = values(head.parameters)
        question.priority, question.timeout_s = priority(parameters), timeout_s(parameters)
    return question


def encode(model: str, version: str, question: Question, outputs: Mapping[str, Array]) -> list[Buffer]:
    """Return a serialised ``ModelInferResponse`` in parts to write in order; its tensors are raw, and views."""
    head = _Response(model_name=model, model_version=version, id=question.id)
    parts: list[Buffer] = [b""]
    for name in question.wanted:
        array = outputs[name]
        raw = to_raw(array)
        head.outputs.add(name=name, datatype=datatype_name(array.dtype), shape=array.shape)
        parts += (_RAW_OUTPUT_TAG, _varint(len(raw)), raw)
    parts[0] = head.SerializeToString()
    return parts


def values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return protobuf parameters as plain values."""
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param") for name, value in parameters.items()
    }


def split(message: Buffer, field: int) -> tuple[bytes, list[memoryview]]:
    """Cut every value of one length-delimited top-level field out of a message.

    Returns:
        The message without them, and views of them in order.

    Raises:
        TensorError: the message is cut off, no protobuf, or of absurdly many fields.
    """
    message = memoryview(message)
    position = kept_from = 0
    end = len(message)
    kept: list[memoryview] = []
    cut: list[memoryview] = []
    fields = 0
    while position < end:
        begin, fields = position, fields + 1
        if fields > _MAX_FIELDS:
            raise TooLarge(f"the message has more than {_MAX_FIELDS} fields")
        tag, position = _read_varint(message, position)
        kind = tag & 7
        if kind == 2:
            length, position = _read_varint(message, position)
            stop = position + length
            if stop <= end and tag >> 3 == field:
                kept.append(message[kept_from:begin])
                cut.append(message[position:stop])
                kept_from = stop
            position = stop
        elif kind == 0:
            _, position = _read_varint(message, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise TensorError("the message is no protobuf: it has a field of an unknown kind")
    if position > end:
        raise TensorError("the message is cut off")
    if not cut:
        return bytes(message), []
    kept.append(message[kept_from:])
    return b"".join(kept), cut


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 63:
                break
    except IndexError:
        pass
    raise TensorError("the message is no protobuf: a number is cut off or too long")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _from_contents(one: Any) -> Array:
    name, datatype = one.name[:200], one.datatype
    if datatype in NOT_IN_JSON:
        raise TensorError(f"input '{name}' is {datatype}, which only raw contents carry")
    dtype = numpy_dtype(datatype)
    count = elements(name, one.shape)
    contents = getattr(one.contents, _CONTENTS[datatype])
    if len(contents) != count:
        raise TensorError(f"input '{name}' has {len(contents)} values in {_CONTENTS[datatype]}, its shape {count}")
    if dtype.kind in "iu" and dtype.itemsize < 4 and count:  # these share a wider field, and numpy would wrap around
        bounds = np.iinfo(dtype)
        if min(contents) < bounds.min or max(contents) > bounds.max:
            raise TensorError(f"input '{name}': contents do not fit {datatype}, {bounds.min} to {bounds.max}")
    array = np.fromiter(contents, dtype, count) if dtype.hasobject else np.array(contents, dtype)
    array = array.reshape(tuple(one.shape))
    array.flags.writeable = False
    return array


def _selection(outputs: Sequence[Any], signature: Signature) -> dict[str, bool]:
    if not outputs:
        return dict.fromkeys((spec.name for spec in signature.outputs), True)
    choose([wanted.name for wanted in outputs], signature)
    for wanted in outputs:
        if wanted.parameters:
            refuse_unoffered(wanted.name, wanted.parameters)
    return dict.fromkeys((wanted.name for wanted in outputs), True)
