"""Bundles around small nets, written without a search."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

import engine_nets

from whet.models.bundle import PlanRecord, write_bundle
from whet.plan import Plan, Targets


@pytest.fixture(scope="session")
def nets():
    return engine_nets


@pytest.fixture
def bundled(tmp_path):
    """Write a bundle around artifacts: ``bundled(artifact, {"runtime": ...}, ...)``, the preferred plan first."""

    def write(*pairs, name="net"):
        evidence = tmp_path / "evidence"
        evidence.mkdir(exist_ok=True)
        records = [PlanRecord(Plan(artifact.sha256, **knobs)) for artifact, knobs in pairs]
        artifacts = {artifact.sha256: artifact for artifact, _ in pairs}
        return write_bundle(tmp_path / "bundle", name, records, artifacts, Targets(), evidence)

    return write
