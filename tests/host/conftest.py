"""Recorded hosts, written on demand below a temporary folder and read once."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from whet.host import Host, read_host

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "hosts"))


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: big hosts have thousands of files, which disks are slow to delete."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def scratch(folder: Path) -> Iterator[Path]:
    """A path in that folder that does not exist yet, for a copy of a host to change."""
    path = folder / "scratch"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def tree(folder: Path) -> Callable[[str], Path]:
    """Return the root of a recorded host; shared, so tests that change files copy it to ``scratch`` first."""
    from make import make

    roots: dict[str, Path] = {}

    def root_of(name: str) -> Path:
        if name not in roots:
            roots[name] = make(name, folder / name)
        return roots[name]

    return root_of


@pytest.fixture(scope="session")
def host(tree: Callable[[str], Path]) -> Callable[[str], Host]:
    """Return a recorded host, read."""
    hosts: dict[str, Host] = {}

    def read(name: str) -> Host:
        if name not in hosts:
            hosts[name] = read_host(tree(name))
        return hosts[name]

    return read
