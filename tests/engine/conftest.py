"""Lets the tests of this folder import the helpers beside them, and gives them a place to seal artifacts."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")
