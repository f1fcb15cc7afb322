"""Artifacts of the fake runtime, for tests that need one and no model."""

from pathlib import Path

from whet.models.artifact import Artifact, seal
from whet.tensors import TensorSpec


def make_artifact(folder: Path, **changes) -> Artifact:
    """Seal an artifact of the fake runtime: eight numbers in, four out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.fake").write_text("nothing")
    fields = {
        "inputs": (TensorSpec("x", "FP32", (-1, 8)),),
        "outputs": (TensorSpec("y", "FP32", (-1, 4)),),
        "batched": True,
        "format": "fake",
        **changes,
    }
    return seal(Artifact(Path(), "model.fake", sha256="", **fields), [folder / "model.fake"], folder / "store")
