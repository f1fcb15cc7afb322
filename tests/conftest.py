"""Fixtures every test may use, and the rule for optional packages: skipped by default, a failure under ``--extras``."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBES = {
    "torch": "torch",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "sklearn": "sklearn",
    "prune": "torch_pruning",
    "tpe": "optuna",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--extras", action="store_true", help="run only tests that need an extra; a missing extra fails")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--extras")
    kept = [item for item in items if bool(item.get_closest_marker("extra")) == wanted]
    dropped = [item for item in items if item not in set(kept)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("extra"):
        for extra in marker.args:
            if importlib.util.find_spec(PROBES[extra]) is None:
                pytest.fail(f"the extra '{extra}' is not installed; install it: pip install 'whet[{extra}]'")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample models and pictures beside the project; never part of the package."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("sample models absent: no ../shared/data beside this checkout")
    return path
