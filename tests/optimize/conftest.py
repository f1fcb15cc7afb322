"""Small artifacts that the tests of the optimiser share; helpers beside the tests can be imported by name."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_artifacts import make_artifact

from whet.models.artifact import Artifact, ImageInput
from whet.tensors import TensorSpec


@pytest.fixture
def artifact(tmp_path) -> Artifact:
    return make_artifact(tmp_path / "artifact")


@pytest.fixture
def image_artifact(tmp_path) -> Artifact:
    return make_artifact(
        tmp_path / "images-artifact",
        inputs=(TensorSpec("image", "FP32", (-1, 3, 16, 16)),),
        images=(ImageInput("image", 16, 16, mean=(127.5,) * 3, scale=(127.5,) * 3),),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
