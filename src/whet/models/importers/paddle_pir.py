"""PaddlePaddle's current format (PIR, ``.json`` with ``.pdiparams``), which OpenVINO does not read.

Paddle's own converter writes ONNX from it, and pins an old ``onnx``; it gets an environment of its own, made once on
request (``--allow-converter-env``, 1.1 GB) and run with a time limit. Nothing of it enters this environment.
"""

import shutil
import sys
from pathlib import Path

from whet.errors import ModelError, Unsupported
from whet.models.importers.base import Converted, Options
from whet.models.importers.isolated import Limits, run_program
from whet.models.importers.onnx_file import convert as convert_onnx
from whet.models.importers.peek import head

PACKAGES = ("paddlepaddle==3.3.1", "paddle2onnx==2.1.0", "packaging")
"""``packaging`` is what paddle2onnx imports and forgets to ask for."""
OPSET = 17
BUILD = Limits(seconds=1800.0)
RUN = Limits(seconds=300.0)
_EXPORT = (
    "import sys, paddle2onnx; "
    "paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], opset_version=int(sys.argv[4]), verbose=False)"
)


def sniff(path: Path) -> bool:
    """Recognise the program's magic, ``pir``, near the start of the JSON."""
    start = b"".join(head(path, 256).split())
    return start.startswith(b'{"base_code"') and b'"magic":"pir"' in start


def environment_folder() -> Path:
    """Return where the converter's environment lies, one a pair of versions."""
    return Path.home() / ".cache" / "whet" / "converters" / "-".join(PACKAGES[:2]).replace("==", "-")


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to ONNX in the converter's environment.

    Raises:
        Unsupported: the environment is not allowed.
        EnvironmentLacks: it cannot be made, or the converter failed in it.
        ModelError: the weights are missing.
    """
    weights = options.weights or path.with_suffix(".pdiparams")
    if not weights.is_file():
        raise ModelError(
            f"{path} keeps its weights in {weights.name}, which is missing beside it; name it by --weights"
        )
    if not options.allow_converter_env:
        raise Unsupported(
            f"{path} is in PaddlePaddle's PIR form, which only Paddle's own converter reads. Allow Whet to make an "
            f"environment for it ({', '.join(PACKAGES)}; 1.1 GB in {environment_folder()}): --allow-converter-env. "
            "Or save the model with FLAGS_enable_pir_api=0, as .pdmodel"
        )
    python = ensure_environment(environment_folder())
    made = workdir / "converted.onnx"
    run_program([str(python), "-c", _EXPORT, str(path), str(weights), str(made), str(OPSET)], RUN)
    if not made.is_file():
        raise ModelError(f"{path}: Paddle's converter ended without an ONNX file; the model is probably damaged")
    converted = convert_onnx(made, options, workdir)
    recipe = f"{' '.join(PACKAGES)}, {converted.recipe}"
    return Converted(
        converted.model, converted.files, "onnx", recipe, notes=converted.notes, settings=converted.settings
    )


def ensure_environment(folder: Path) -> Path:
    """Return the Python of the converter's environment, made first where it is not there yet.

    Raises:
        EnvironmentLacks: ``venv`` or ``pip`` failed; says its last line.
    """
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        run_program([sys.executable, "-m", "venv", str(folder)], BUILD)
        run_program([str(python), "-m", "pip", "install", "--no-input", "--quiet", *PACKAGES], BUILD)
        # A virtual environment holds its own path, so it cannot be renamed into place; this file says it is whole.
        ready.touch()
    finally:
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
    return python
