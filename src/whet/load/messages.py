"""The Open Inference Protocol as a client writes and reads it: HTTP with binary tensors, and gRPC's protobuf. Pure.

The few protobuf fields a client needs are written by hand, so that a load generator carries no generated classes and
collides with nobody's. Field numbers are those of ``open_inference_grpc.proto``: ModelInferRequest model_name 1,
model_version 2, inputs 5, raw_input_contents 7; ModelInferResponse outputs 5, raw_output_contents 6; tensors name 1,
datatype 2, shape 3; ModelMetadataResponse name 1, versions 2, platform 3, inputs 4, outputs 5. The encoding is that of
protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from whet.errors import UsageError, WhetError, WrongAnswer
from whet.tensors import Array, Tensors, TensorSpec, datatype_of, numpy_dtype

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def http_infer(tensors: Tensors) -> tuple[bytes, int]:
    """Return the body of an infer request that sends and asks for raw tensors, and the length of its JSON part."""
    raws = [to_raw(array) for array in tensors.values()]
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(array.dtype),
            "parameters": {"binary_data_size": len(raw)},
        }
        for (name, array), raw in zip(tensors.items(), raws, strict=True)
    ]
    head = msgspec.json.encode({"inputs": inputs, "parameters": {"binary_data_output": True}})
    return b"".join([head, *raws]), len(head)


def http_infer_json(tensors: Tensors) -> bytes:
    """Return the body of an infer request whose numbers are written out as JSON, and whose answer will be.

    Raises:
        UsageError: a tensor holds BYTES or a float that JSON has no number for; only raw tensors carry these.
    """
    inputs = []
    for name, array in tensors.items():
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise UsageError(f"input '{name}' cannot be written as JSON numbers; send it as a raw tensor")
        inputs.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype_of(array.dtype),
                "data": array.ravel().tolist(),
            }
        )
    return msgspec.json.encode({"inputs": inputs})


def http_outputs(body: bytes, json_length: int | None) -> dict[str, Array]:
    """Return the outputs of an infer answer.

    Args:
        body: of the answer.
        json_length: of ``Inference-Header-Content-Length``, or None where the whole body is JSON.

    Raises:
        WrongAnswer: the body is not what the protocol says.
    """
    end = len(body) if json_length is None else json_length
    try:
        head = msgspec.json.decode(body[:end])
        found = {}
        for output in head["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                data = np.asarray(output["data"]).astype(numpy_dtype(output["datatype"]))
                found[output["name"]] = data.reshape(output["shape"])
            else:
                raw = body[end : end + size]
                found[output["name"]] = from_raw(raw, output["datatype"], output["shape"])
                end += size
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError, WhetError) as error:
        raise WrongAnswer(f"the answer does not follow the protocol: {error}") from error
    return found


def http_specs(document: Any) -> tuple[TensorSpec, ...]:
    """Return the inputs of a model's metadata document.

    Raises:
        WrongAnswer: it is none.
    """
    try:
        return tuple(TensorSpec(each["name"], each["datatype"], tuple(each["shape"])) for each in document["inputs"])
    except (KeyError, TypeError) as error:
        raise WrongAnswer(f"the model's metadata does not follow the protocol: {error!r} is missing or odd") from error


def grpc_infer(model: str, version: str, tensors: Tensors) -> bytes:
    """Return a ModelInferRequest with raw contents."""
    parts = [_text(1, model), _text(2, version)]
    for name, array in tensors.items():
        shape = b"".join(_varint(dimension) for dimension in array.shape)
        tensor = _text(1, name) + _text(2, datatype_of(array.dtype)) + _bytes(3, shape)
        parts.append(_bytes(5, tensor))
    parts += [_bytes(7, to_raw(array)) for array in tensors.values()]
    return b"".join(parts)


def grpc_outputs(message: bytes) -> dict[str, Array]:
    """Return the outputs of a ModelInferResponse with raw contents.

    Raises:
        WrongAnswer: it is truncated, or its outputs are not raw.
    """
    try:
        specs = [_spec(value) for number, value in _fields(message) if number == 5]
        raws = [value for number, value in _fields(message) if number == 6]
        pairs = zip(specs, raws, strict=True)
        return {spec.name: from_raw(raw, spec.datatype, list(spec.shape)) for spec, raw in pairs}
    except (ValueError, TypeError, AttributeError, WhetError) as error:
        raise WrongAnswer(f"the answer does not follow the protocol: {error}") from error


def grpc_metadata_request(model: str, version: str) -> bytes:
    """Return a ModelMetadataRequest."""
    return _text(1, model) + _text(2, version)


def grpc_metadata(message: bytes) -> dict[str, Any]:
    """Return a ModelMetadataResponse as the document HTTP would give.

    Raises:
        WrongAnswer: it is truncated or odd.
    """
    found: dict[str, Any] = {"name": "", "versions": [], "platform": "", "inputs": [], "outputs": []}
    try:
        for number, value in _fields(message):
            if number in (1, 3):
                found["name" if number == 1 else "platform"] = value.decode()
            elif number == 2:
                found["versions"].append(value.decode())
            elif number in (4, 5):
                spec = _spec(value)
                entry = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
                found["inputs" if number == 4 else "outputs"].append(entry)
    except (ValueError, TypeError, AttributeError) as error:
        raise WrongAnswer(f"the model's metadata does not follow the protocol: {error}") from error
    return found


def to_raw(array: Array) -> bytes:
    """Return a tensor's bytes: little-endian, row-major; elements of BYTES each after their length (u32)."""
    if array.dtype.kind in "OSU":
        texts = (item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist())
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_raw(raw: bytes, datatype: str, shape: list[int]) -> Array:
    """Return the array that :func:`to_raw` wrote.

    Raises:
        ValueError: the bytes do not fill the shape exactly.
        TensorError: the datatype is unknown.
    """
    if datatype == "BYTES":
        return np.array(list(_elements(raw)), dtype=object).reshape(shape)
    return np.frombuffer(raw, numpy_dtype(datatype)).reshape(shape)


def _elements(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise ValueError("a BYTES tensor ends within a length")
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise ValueError("a BYTES tensor ends within an element")
        yield raw[at + 4 : end]
        at = end


def _spec(message: Any) -> TensorSpec:
    if not isinstance(message, bytes):
        raise TypeError("a tensor's description is a number")
    name = datatype = ""
    shape: list[int] = []
    for number, value in _fields(message):
        if number == 1:
            name = value.decode()
        elif number == 2:
            datatype = value.decode()
        elif number == 3:  # packed, or one varint a field
            shape += [value] if isinstance(value, int) else list(_varints(value))
    return TensorSpec(name, datatype, tuple(size - (1 << 64) if size >> 63 else size for size in shape))


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode()) if value else b""


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value): int for a varint, bytes for the rest; ValueError where the message is cut short."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} is unknown")
        if at + size > len(message):
            raise ValueError(f"field {key >> 3} is cut short")
        yield key >> 3, message[at : at + size]
        at += size


def _varints(packed: bytes) -> Iterable[int]:
    at = 0
    while at < len(packed):
        value, at = _read_varint(packed, at)
        yield value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
    raise ValueError("a number is cut short")


def same(found: Mapping[str, Array], expected: Tensors, tolerance: float) -> str:
    """Return how the answer differs from what is expected, or "" where every expected output is within ``tolerance``.

    Args:
        found: the answer's outputs; more than expected is no difference.
        expected: what is right.
        tolerance: relative and absolute, added, as :func:`numpy.allclose` does.
    """
    for name, want in expected.items():
        got = found.get(name)
        if got is None:
            return f"output '{name}' is missing; the answer has {sorted(found)}"
        if got.shape != want.shape:
            return f"output '{name}' has shape {list(got.shape)}, expected {list(want.shape)}"
        if want.dtype.kind in "OSU":
            if got.tolist() != want.tolist():
                return f"output '{name}' differs"
        elif not np.allclose(got.astype(np.float64), want.astype(np.float64), tolerance, tolerance, equal_nan=True):
            gap = float(np.max(np.abs(got.astype(np.float64) - want.astype(np.float64))))
            return f"output '{name}' differs by up to {gap:.3g}, allowed is {tolerance:g}"
    return ""
