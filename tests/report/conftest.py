"""Made-up evidence in the shape of a search's."""

import copy
import json
from pathlib import Path

import pytest

_SAMPLE = json.loads((Path(__file__).parent / "sample_result.json").read_text())


@pytest.fixture
def sample():
    """The sample evidence, to change at will."""
    return copy.deepcopy(_SAMPLE)
