"""A frozen TensorFlow graph (``GraphDef``, TensorFlow 1), through OpenVINO's front end; TensorFlow is not needed."""

from pathlib import Path

from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.peek import content, first_message
from whet.models.importers.reference import load_openvino


def sniff(path: Path) -> bool:
    """Recognise a ``GraphDef``: its first field is a ``NodeDef`` with a name, then an operator in CamelCase."""
    node = first_message(path, 2)
    if [part.number for part in node] != [1, 2]:
        return False
    with path.open("rb") as stream:
        operator = content(stream, node[1], 64)
    return operator.isalnum() and operator[:1].isupper()


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to IR; placeholders become the inputs, what nothing consumes becomes the outputs."""
    del options
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.Core().read_model(str(path)), path, "TensorFlow")
    return openvino_front.saved(model, workdir)
