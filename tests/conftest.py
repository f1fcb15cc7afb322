"""Fixtures every test may use, and the rule for optional packages: skipped by default, a failure under ``--extras``."""

import contextlib
import importlib.util
import os
import time
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


@pytest.fixture
def group():
    """A control group whose CPU quota can be set: ``limit(0.5)``; gone afterwards."""
    from whet.host.cgroups import levels
    from whet.host.files import Tree

    own = levels(Tree(Path("/")), "cpu")
    if os.geteuid() != 0 or not own:
        pytest.skip("no cpu control groups here, or not root")
    folder = Path("/", own[0].path) / f"whet-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cpu control groups cannot be written: {error.strerror}")

    def limit(quota, period_us=20_000):
        if (folder / "cpu.cfs_quota_us").exists():
            (folder / "cpu.cfs_period_us").write_text(str(period_us))
            (folder / "cpu.cfs_quota_us").write_text(str(int(quota * period_us)))
        elif (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text(f"{int(quota * period_us)} {period_us}")
        else:
            pytest.skip("the cpu controller is not passed on below this group")

    try:
        yield folder, limit
    finally:
        # Whatever still runs in it moves back, and the kernel keeps a group busy for a moment after that.
        for _ in range(250):
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    (folder.parent / "cgroup.procs").write_text(pid)
                folder.rmdir()
            if not folder.exists():
                break
            time.sleep(0.02)
        assert not folder.exists()
