"""OpenVINO's own format, version 10 and up: read, named, and written again as version 11."""

import re
from pathlib import Path

from whet.errors import ModelError, Unsupported
from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.peek import head
from whet.models.importers.reference import load_openvino

_NET = re.compile(rb"<net\b[^>]*>")
_VERSION = re.compile(rb"\bversion\s*=\s*[\"'](\d+)[\"']")
OLDEST = 10


def sniff(path: Path) -> bool:
    """Recognise an XML file whose root element is ``net``."""
    start = head(path, 4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith((b"<?xml", b"<net")) and _NET.search(start) is not None


def version_of(path: Path) -> int:
    """Return the IR version that ``<net version=...>`` says, 0 where it says none."""
    net = _NET.search(head(path, 4096))
    version = _VERSION.search(net.group()) if net else None
    return int(version.group(1)) if version else 0


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Read the IR and write it as ``model.xml`` and ``model.bin``.

    Raises:
        Unsupported: an IR older than version 10.
        ModelError: the ``.bin`` is missing or truncated, or the file is damaged.
    """
    version = version_of(path)
    if version < OLDEST:
        raise Unsupported(
            f"{path} is OpenVINO IR version {version}, no current OpenVINO reads a version below {OLDEST}; "
            "convert the model it was made from again (its Caffe, TensorFlow, ONNX or MXNet file can be given to Whet)"
        )
    weights = options.weights or path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelError(f"{path} keeps its weights in {weights.name}, which is missing beside it; copy both files")
    ov = load_openvino()
    model = openvino_front.read_ir(
        lambda: ov.Core().read_model(str(path), str(weights)), path, f"OpenVINO IR version {version}"
    )
    notes = (f"came as IR version {version}; stored as version 11",) if version != 11 else ()
    return openvino_front.saved(model, workdir, notes, ir_version=version)
