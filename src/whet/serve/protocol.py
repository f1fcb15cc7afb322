"""The Open Inference Protocol over HTTP: bytes to tensors and back. Pure; no clock, no socket, no loop.

A request is JSON, or JSON followed by raw tensors (Triton's binary tensor extension), or one raw tensor. Tensors that
came raw are read-only views of the body; nothing is copied. An answer is a list of buffers to write in order, so that
large outputs are never joined.

Whatever the bytes, decoding raises errors of Whet's tree and nothing else.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from whet.errors import TensorError, TooLarge
from whet.serve.arrays import NOT_IN_JSON, Buffer, datatype_name, from_json, from_raw, to_json, to_raw
from whet.tensors import DYNAMIC, Array, TensorSpec

DEFAULT_PRIORITY = 1
"""The engine's class of a request that names no priority: below the first, which clients call 1."""
_UNOFFERED = {"classification": "ask for the scores", "shared_memory_region": "send tensors in the request"}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, as a request is checked against it.

    Attributes:
        inputs: of a request.
        outputs: of an answer.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(slots=True)
class Question:
    """A decoded request.

    Attributes:
        inputs: arrays by name; read-only views of the body where the tensor came raw.
        id: echoed in the answer.
        wanted: outputs asked for, in order, each with whether it shall come raw.
        priority: class in the engine, 0 first.
        timeout_s: seconds the caller gives it, or None.
    """

    inputs: dict[str, Array]
    id: str = ""
    wanted: dict[str, bool] = field(default_factory=dict)
    priority: int = DEFAULT_PRIORITY
    timeout_s: float | None = None


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Wanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    outputs: list[_Wanted] = msgspec.field(default_factory=list)


class _Output(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class _Response(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: str = ""


_requests = msgspec.json.Decoder(_Request)
_responses = msgspec.json.Encoder()


def decode(body: memoryview, json_length: int | None, signature: Signature, max_json_bytes: int) -> Question:
    """Decode a request's body.

    Args:
        body: the whole body; raw tensors of the answer are views of it.
        json_length: bytes of JSON in front (``Inference-Header-Content-Length``); None when all of it is JSON, 0 when
            the body is the model's only input.
        signature: of the model.
        max_json_bytes: bound of the JSON part: parsing it stops every other request of the process.

    Raises:
        TensorError: the request is malformed or does not fit the model.
        TooLarge: more JSON than allowed.
    """
    if json_length == 0:
        return _decode_raw(body, signature)
    length = len(body) if json_length is None else json_length
    if not 0 < length <= len(body):
        raise TensorError(f"the request's JSON is {length} bytes by its header, the body has {len(body)}")
    if length > max_json_bytes:
        raise TooLarge(
            f"the request holds {length} bytes of JSON, past the bound of {max_json_bytes}; send tensors raw"
        )
    request = _parse(body[:length])
    question = Question(
        _tensors(request.inputs, body[length:]),
        request.id,
        _selection(request, signature),
        priority(request.parameters),
        timeout_s(request.parameters),
    )
    refuse_json_only(question.wanted, signature)
    return question


def encode(
    model: str, version: str, question: Question, outputs: Mapping[str, Array]
) -> tuple[list[Buffer], int | None]:
    """Encode an answer.

    Returns:
        Buffers to write in order, and the length of the JSON in front where raw tensors follow, else None.
    """
    heads: list[_Output] = []
    raws: list[Buffer] = []
    for name, binary in question.wanted.items():
        array = outputs[name]
        datatype = datatype_name(array.dtype)
        if binary:
            raw = to_raw(array)
            raws.append(raw)
            heads.append(_Output(name, datatype, array.shape, {"binary_data_size": len(raw)}))
        else:
            heads.append(_Output(name, datatype, array.shape, None, to_json(array)))
    head = _responses.encode(_Response(model, version, heads, question.id))
    return ([head, *raws], len(head)) if raws else ([head], None)


def priority(parameters: Mapping[str, Any]) -> int:
    """Return the engine's class for the protocol's ``priority``: 1 is first, 0 and none mean the default."""
    value = parameters.get("priority", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TensorError(f"parameter 'priority' is {str(value)[:40]!r}; it is a whole number, 1 the first")
    return value - 1 if value else DEFAULT_PRIORITY


def timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """Return the protocol's ``timeout`` (microseconds) in seconds; None when absent or 0."""
    value = parameters.get("timeout", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TensorError(f"parameter 'timeout' is {str(value)[:40]!r}; it is a whole number of microseconds")
    return value / 1e6 if value else None


def refuse_json_only(wanted: Mapping[str, bool], signature: Signature) -> None:
    """Refuse outputs that JSON cannot carry, before anything is computed.

    Raises:
        TensorError: an ``FP16`` or ``BF16`` output asked for as JSON.
    """
    for spec in signature.outputs:
        if spec.datatype in NOT_IN_JSON and not wanted.get(spec.name, True):
            raise TensorError(f"output '{spec.name}' is {spec.datatype}, which JSON cannot carry; ask for binary data")


def choose(names: Sequence[str], signature: Signature) -> None:
    """Check the names of requested outputs.

    Raises:
        TensorError: a name the model does not have, or one asked for twice.
    """
    known = [spec.name for spec in signature.outputs]
    for name in names:
        if name not in known:
            raise TensorError(f"output '{name[:200]}' is unknown; the model gives {known}")
    if len(set(names)) != len(names):
        raise TensorError("an output is asked for twice; name each once")


def refuse_unoffered(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse extensions that change what an answer means, instead of ignoring them.

    Raises:
        TensorError: names the parameter and what to do instead.
    """
    for parameter, instead in _UNOFFERED.items():
        if parameter in parameters:
            raise TensorError(f"'{name[:200]}' asks for '{parameter}', which this server does not offer; {instead}")


def _parse(text: memoryview) -> _Request:
    try:
        return _requests.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TensorError(f"the request is no valid inference request: {error}") from None
    except RecursionError:
        raise TensorError("the request's JSON is nested too deeply") from None


def _selection(request: _Request, signature: Signature) -> dict[str, bool]:
    everything_raw = request.parameters.get("binary_data_output", False) is True
    if not request.outputs:
        return {spec.name: everything_raw for spec in signature.outputs}
    choose([wanted.name for wanted in request.outputs], signature)
    for wanted in request.outputs:
        refuse_unoffered(wanted.name, wanted.parameters)
    return {wanted.name: wanted.parameters.get("binary_data", everything_raw) is True for wanted in request.outputs}


def _tensors(inputs: Sequence[_Input], raw: memoryview) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    unsized = sum(one.data is msgspec.UNSET and "binary_data_size" not in one.parameters for one in inputs)
    for one in inputs:
        if one.name in tensors:
            raise TensorError(f"input '{one.name[:200]}' comes twice")
        refuse_unoffered(one.name, one.parameters)
        size = one.parameters.get("binary_data_size")
        if isinstance(one.data, msgspec.Raw):
            if size is not None:
                raise TensorError(f"input '{one.name[:200]}' has both 'data' and 'binary_data_size'; send one of them")
            tensors[one.name] = from_json(one.name, one.datatype, one.shape, bytes(one.data))
            continue
        if size is None and unsized == 1:  # a lone tensor without a size is what the others leave
            size = len(raw) - sum(_size(other) for other in inputs if other is not one)
        elif size is None:
            raise TensorError(f"input '{one.name[:200]}' has neither 'data' nor 'binary_data_size'")
        else:
            size = _size(one)
        if not 0 <= size <= len(raw):
            raise TensorError(f"input '{one.name[:200]}' wants {size} bytes, {len(raw)} are left in the body")
        tensors[one.name] = from_raw(one.name, one.datatype, one.shape, raw[:size])
        raw = raw[size:]
    if len(raw):
        raise TensorError(f"{len(raw)} bytes follow the last tensor; check the sizes")
    return tensors


def _size(one: _Input) -> int:
    size = one.parameters.get("binary_data_size", 0)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise TensorError(f"input '{one.name[:200]}': binary_data_size is {str(size)[:40]!r}; it is a number of bytes")
    return size


def _decode_raw(body: memoryview, signature: Signature) -> Question:
    """Decode a body that is the model's only input, batch 1."""
    if len(signature.inputs) != 1:
        names = [spec.name for spec in signature.inputs]
        raise TensorError(f"a raw body needs a model with one input; this one takes {names}")
    spec = signature.inputs[0]
    wanted = dict.fromkeys((output.name for output in signature.outputs), True)
    shape = [1 if index == 0 and size == DYNAMIC else size for index, size in enumerate(spec.shape)]
    if spec.datatype == "BYTES":
        array = np.empty(1, dtype=object)
        array[0] = bytes(body)
        if shape.count(DYNAMIC) + sum(size > 1 for size in shape):
            raise TensorError(f"a raw body is one element of BYTES; input '{spec.name}' has shape {list(spec.shape)}")
        return Question({spec.name: array.reshape(shape)}, wanted=wanted)
    if shape.count(DYNAMIC) > 1:
        raise TensorError(
            f"a raw body cannot say the shape of input '{spec.name}', {list(spec.shape)}; send JSON in front"
        )
    if DYNAMIC in shape:
        row = spec.dtype.itemsize * functools.reduce(lambda a, b: a * b, (size for size in shape if size != DYNAMIC), 1)
        shape[shape.index(DYNAMIC)] = len(body) // row if row else 0
    return Question({spec.name: from_raw(spec.name, spec.datatype, shape, body)}, wanted=wanted)
