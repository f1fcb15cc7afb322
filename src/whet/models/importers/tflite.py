"""TensorFlow Lite: float, uint8 and int8, through OpenVINO's front end."""

from pathlib import Path
from typing import Any

from whet.models.artifact import ImageInput
from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.peek import head
from whet.models.importers.reference import load_openvino, openvino_shape

_CHANNELS: dict[int, Any] = {1: "GRAY", 3: "RGB"}


def sniff(path: Path) -> bool:
    """Recognise the flatbuffer identifier ``TFL3``."""
    return head(path, 8)[4:8] == b"TFL3"


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to IR. Quantised inputs and outputs keep their integer type, as in TensorFlow Lite.

    A ``uint8`` input of image shape takes pictures as they are: it becomes image preprocessing without arithmetic.
    """
    del options
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.Core().read_model(str(path)), path, "TensorFlow Lite")
    notes = []
    for port in (*model.inputs, *model.outputs):
        kind = port.element_type.to_string()
        if kind in {"u8", "i8"}:
            notes.append(f"tensor '{port.any_name}' is quantised: it carries {kind} levels, not real values")
    images = tuple(image for image in map(_image, model.inputs) if image is not None)
    converted = openvino_front.saved(model, workdir, tuple(notes), quantised_tensors=len(notes))
    return openvino_front.with_images(converted, images)


def _image(port: Any) -> ImageInput | None:
    shape = openvino_shape(port)
    if port.element_type.to_string() != "u8" or len(shape) != 4 or shape[3] not in _CHANNELS or min(shape[1:]) < 1:
        return None
    channels = _CHANNELS[shape[3]]
    return ImageInput(port.any_name, shape[1], shape[2], channels, channels, layout="NHWC")
