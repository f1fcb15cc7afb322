"""TensorFlow Lite: float, uint8 and int8, through OpenVINO's front end."""

from pathlib import Path
from typing import Any

from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.peek import head
from whet.models.importers.reference import load_openvino


def sniff(path: Path) -> bool:
    """Recognise the flatbuffer identifier ``TFL3``."""
    return head(path, 8)[4:8] == b"TFL3"


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to IR. Quantised inputs and outputs keep their integer type, as in TensorFlow Lite."""
    del options
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.Core().read_model(str(path)), path, "TensorFlow Lite")
    quantised = [port for port in model.inputs if port.element_type.to_string() in {"u8", "i8"}]
    notes = tuple(
        f"input '{port.any_name}' is quantised: it takes {port.element_type.to_string()} levels, not real values"
        for port in quantised
    )
    return openvino_front.saved(model, workdir, notes)


def _quantised(port: Any) -> bool:
    return port.element_type.to_string() in {"u8", "i8"}
