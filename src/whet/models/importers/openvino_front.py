"""What every format shares that OpenVINO's front ends read: conversion errors in our words, port names, f32 IR."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet.errors import ModelError, Unsupported
from whet.models.artifact import ImageInput
from whet.models.importers.base import Converted
from whet.models.importers.isolated import one_line
from whet.models.importers.reference import load_openvino, port_name, unconverted


def read_ir(convert: Callable[[], Any], path: Path, kind: str) -> Any:
    """Return the ``openvino.Model`` that ``convert`` gives, with every port named.

    Args:
        convert: calls the front end.
        path: what is read, for messages.
        kind: the format's name for messages, such as "TensorFlow Lite".

    Raises:
        Unsupported: operators OpenVINO has no rule for, all named.
        ModelError: anything else it says, or a model without inputs or outputs.
    """
    try:
        model = convert()
    except (RuntimeError, ValueError, TypeError) as error:
        operators = unconverted(str(error))
        if operators:
            raise Unsupported(
                f"{path}: OpenVINO cannot convert the {kind} operator(s) {', '.join(operators)}; "
                "export the model without them, or to ONNX"
            ) from error
        unreadable = "Unable to read the model" in str(error)
        reason = "damaged, or of a version OpenVINO does not read" if unreadable else one_line(error)
        raise ModelError(f"{path} cannot be read as {kind}: {reason}; copy or export it again") from error
    if not model.inputs:
        raise Unsupported(
            f"{path}: the converted model has no inputs (it computes a constant); a service needs at least one. "
            "Name a signature with inputs (--signature), or export again with the inputs kept"
        )
    if not model.outputs:
        raise ModelError(f"{path}: the converted model has no outputs")
    name_ports(model)
    return model


def name_ports(model: Any) -> None:
    """Give every input and output exactly one tensor name, so that no runtime picks another alias."""
    taken: set[str] = set()
    for port in (*model.inputs, *model.outputs):
        name = port_name(port)
        tensor = port.get_tensor()
        if name not in taken:
            tensor.set_names({name})
            taken.add(name)


def saved(model: Any, workdir: Path, notes: tuple[str, ...] = (), **settings: Any) -> Converted:
    """Write ``model`` as IR with its weights as they are (no f16 compression) and return the conversion."""
    ov = load_openvino()
    target = workdir / "model.xml"
    ov.save_model(model, str(target), compress_to_fp16=False)
    return Converted(
        model=target,
        files=(target, target.with_suffix(".bin")),
        format="ir",
        recipe=f"openvino {ov.__version__.split('-')[0]}",
        notes=notes,
        settings=settings,
    )


def surrounded(
    converted: Converted, images: tuple[ImageInput, ...], labels: dict[str, tuple[str, ...]] | None = None
) -> Converted:
    """Return the conversion with the preprocessing and the class names its format carried."""
    return replace(converted, images=images, labels=labels or {})
