"""PaddlePaddle's older format, ``.pdmodel`` with ``.pdiparams``, through OpenVINO's front end; Paddle is not needed."""

from pathlib import Path

from whet.errors import ModelError
from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.peek import BYTES, VARINT, first_message
from whet.models.importers.reference import load_openvino


def sniff(path: Path) -> bool:
    """Recognise a ``ProgramDesc``: blocks (1), the first of which has index 0 (1) and a parent (2), both numbers."""
    block = first_message(path, 3)
    numbers = [(part.number, part.wire) for part in block]
    return numbers == [(1, VARINT), (2, VARINT), (3, BYTES)] and block[0].value == 0


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to IR.

    Raises:
        ModelError: the ``.pdiparams`` is missing, or something is damaged.
    """
    weights = options.weights or path.with_suffix(".pdiparams")
    if not weights.is_file():
        raise ModelError(
            f"{path} keeps its weights in {weights.name}, which is missing beside it; name it by --weights"
        )
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.Core().read_model(str(path), str(weights)), path, "PaddlePaddle")
    return openvino_front.saved(model, workdir)
