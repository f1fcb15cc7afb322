"""The model file of an export, with its surroundings in the graph."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from whet.engine.ov_graph import save_fused
from whet.errors import PlanRefused
from whet.export.choose import Job
from whet.models.artifact import Artifact
from whet.tensors import TensorSpec

EMBEDDED_LIMIT = 2_000_000_000
"""Bytes an ONNX model may have to be rewritten (protobuf ends at 2 GB)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A model file as it lies in an export.

    Attributes:
        file: name of the main file.
        inputs: what the graph takes.
        outputs: what the graph gives: softmax and sigmoid done, other postprocessing not.
    """

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def put_model(job: Job, folder: Path) -> Placed:
    """Write the model into ``folder`` as ``model.onnx`` or ``model.xml`` and ``model.bin``.

    Raises:
        PlanRefused: an ONNX model too large to take its preprocessing in.
        OSError: the folder cannot be written.
    """
    artifact = job.artifact
    folder.mkdir(parents=True, exist_ok=True)
    file = "model.onnx" if artifact.format == "onnx" else "model.xml"
    if not artifact.images and not artifact.post:
        _copy(artifact, file, folder)
    elif artifact.format == "onnx":
        _fuse_onnx(artifact, folder / file)
    else:
        save_fused(artifact, folder / file)
    return Placed(file, artifact.service_inputs, artifact.outputs)


def _copy(artifact: Artifact, file: str, folder: Path) -> None:
    """Copy an artifact's files; an IR's weights follow its new name, an ONNX model's are named inside it."""
    for path in artifact.folder.iterdir():
        if path.name == artifact.model:
            shutil.copyfile(path, folder / file)
        elif artifact.format == "ir" and path.name == Path(artifact.model).with_suffix(".bin").name:
            shutil.copyfile(path, folder / "model.bin")
        elif artifact.format == "onnx" and path.suffix != ".json":
            shutil.copyfile(path, folder / path.name)


def _fuse_onnx(artifact: Artifact, path: Path) -> None:
    import onnx

    from whet.models.fuse import fuse_onnx

    size = sum(each.stat().st_size for each in artifact.folder.iterdir() if each.is_file())
    if size > EMBEDDED_LIMIT:
        raise PlanRefused(
            f"a model of {size / 1e9:.1f} GB cannot take its preprocessing in: an ONNX file ends at 2 GB; "
            "import it with --to ir and optimize again"
        )
    onnx.save(fuse_onnx(onnx.load(artifact.path), artifact), path)
