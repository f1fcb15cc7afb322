"""Reads an ONNX file that nobody vouches for: bounded, no path outside its folder, one-line reasons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whet.errors import ModelError, Unsupported
from whet.models.importers.isolated import one_line
from whet.models.importers.onnx_graph import varint

MAX_PROTO_BYTES = (1 << 31) - 1
"""Protobuf's own bound on one message."""


def load_onnx(path: Path) -> Any:
    """Return the file's ``ModelProto`` with every external tensor read in.

    Raises:
        ModelError: missing, truncated, garbage, or external data that is missing, too short or outside the folder.
    """
    import onnx
    from google.protobuf.message import DecodeError

    size = path.stat().st_size
    if size > MAX_PROTO_BYTES:
        raise ModelError(f"{path} holds {size} bytes, an ONNX file at most {MAX_PROTO_BYTES}; keep weights beside it")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} ({size} bytes) is a damaged ONNX file: {one_line(error)}; copy or export it again"
        ) from error
    if not model.graph.output or not model.graph.node:
        raise ModelError(f"{path} ({size} bytes) is an ONNX file without a graph: nothing can be run")
    external = [tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in external:
        _check_external(tensor, path)
    if external:
        try:
            onnx.load_external_data_for_model(model, str(path.parent.resolve()))
        except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{path}: its external data cannot be read: {one_line(error)}") from error
    return model


def external_files(path: Path) -> tuple[Path, ...]:
    """Return the files an ONNX file keeps its weights in, sorted; none for a self-contained one."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    names = {_entry(t, "location") for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL}
    return tuple(sorted(path.parent / name for name in names))


def opset_of(model: Any) -> int:
    """Return the version of the default operator set, 1 where the file (of IR version 1 or 2) names none."""
    versions = [entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}]
    return max(versions, default=1)


def save_onnx(model: Any, path: Path) -> tuple[Path, ...]:
    """Write ``model`` to ``path`` and return every file made; large models keep their weights in ``<name>.data``."""
    import onnx

    # The size of a message costs a serialised copy of it: one tensor at a time, never the model.
    sizes = [tensor.ByteSize() for tensor in model.graph.initializer]
    if sum(sizes) < MAX_PROTO_BYTES // 2:
        _save_whole(model, sizes, path)
        return (path,)
    beside = path.with_name(path.name + ".data")
    onnx.save_model(model, str(path), save_as_external_data=True, location=beside.name)
    return (path, beside)


def _save_whole(model: Any, sizes: Sequence[int], path: Path) -> None:
    """Write a model into one file, tensor by tensor: serialised at once, the weights would be in memory thrice."""
    graph = _but(model.graph, "initializer").SerializeToString()
    heads = [b"\x2a" + varint(size) for size in sizes]  # GraphProto.initializer = 5
    total = len(graph) + sum(len(head) for head in heads) + sum(sizes)
    with path.open("wb") as out:
        out.write(_but(model, "graph").SerializeToString() + b"\x3a" + varint(total) + graph)  # ModelProto.graph = 7
        for head, tensor in zip(heads, model.graph.initializer, strict=True):
            out.write(head + tensor.SerializeToString())


def _but(message: Any, left_out: str) -> Any:
    """Return a copy of a message without one of its fields."""
    copy = type(message)()
    for field, value in message.ListFields():
        if field.name == left_out:
            continue
        if field.is_repeated:
            getattr(copy, field.name).extend(value)
        elif field.message_type is not None:
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy


def _check_external(tensor: Any, path: Path) -> None:
    location = _entry(tensor, "location")
    folder = path.parent.resolve()
    place = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not place.is_relative_to(folder):
        raise Unsupported(
            f"{path}: tensor '{tensor.name}' keeps its data at '{location}', outside the model's folder; "
            "Whet reads nothing outside it. Move the data beside the model and export again"
        )
    if not place.is_file():
        raise ModelError(f"{path}: tensor '{tensor.name}' keeps its data in '{location}', which is missing beside it")
    offset, length = _number(tensor, "offset", path), _number(tensor, "length", path)
    if offset + length > place.stat().st_size:
        raise ModelError(
            f"{path}: tensor '{tensor.name}' wants bytes {offset} to {offset + length} of '{location}', "
            f"which has {place.stat().st_size}; the file is truncated"
        )


def _number(tensor: Any, key: str, path: Path) -> int:
    text = _entry(tensor, key) or "0"
    if not text.isdigit():
        raise ModelError(f"{path}: tensor '{tensor.name}' has {key} '{text}', which is no size")
    return int(text)


def _entry(tensor: Any, key: str) -> str:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == key), "")


def _tensors(model: Any) -> Any:
    from onnx.external_data_helper import _get_all_tensors

    return _get_all_tensors(model)
