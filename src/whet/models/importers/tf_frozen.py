"""A frozen TensorFlow graph (``GraphDef``, TensorFlow 1), through OpenVINO's front end; TensorFlow is not needed."""

import io
from pathlib import Path

from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.peek import BYTES, VARINT, content, fields, head
from whet.models.importers.reference import load_openvino

# GraphDef: node 1, library 2, version 3, versions 4, debug info 5.
_GRAPH = {1: BYTES, 2: BYTES, 3: VARINT, 4: BYTES, 5: BYTES}


def sniff(path: Path) -> bool:
    """Recognise a ``GraphDef``: its first field is a ``NodeDef`` with a name, then an operator in CamelCase."""
    if head(path, 1) != b"\x0a":
        return False
    with path.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        first = next(fields(stream, 0, size), None)
        if first is None or first.number != 1 or first.wire != BYTES:
            return False
        parts = list(zip(range(3), fields(stream, first.start, min(first.end, size)), strict=False))
        if len(parts) < 2 or [part.number for _, part in parts[:2]] != [1, 2]:
            return False
        operator = content(stream, parts[1][1], 64)
    return operator.isalnum() and operator[:1].isupper()


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to IR; placeholders become the inputs, what nothing consumes becomes the outputs."""
    del options
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.Core().read_model(str(path)), path, "TensorFlow")
    return openvino_front.saved(model, workdir)
