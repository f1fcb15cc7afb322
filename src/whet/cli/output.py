"""Writing files for the user: whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` beside ``path`` and rename it into place.

    Raises:
        OutputError: the folder is missing, not writable, or out of space.
    """
    beside = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as stream:
            beside = Path(stream.name)
            stream.write(text)
        beside.chmod(0o644)
        beside.rename(path)
    except OSError as error:
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another -o, or make room") from error


@contextmanager
def place_folder(out: Path) -> Iterator[Callable[[Path], None]]:
    """Yield a function that copies a folder to ``out``, whole or not at all.

    Raises:
        OutputError: ``out`` exists and is not empty, or cannot be written; said before any work is done.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out} exists already; choose another -o, or remove it yourself")
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}; choose another -o, or make room") from error

    def copy(source: Path) -> None:
        try:
            shutil.copytree(source, beside, dirs_exist_ok=True)
            beside.chmod(0o755)
            if out.exists():
                out.rmdir()
            beside.rename(out)
        except (OSError, shutil.Error) as error:
            raise OutputError(f"cannot write {out}: {error}; choose another -o, or make room") from error

    try:
        yield copy
    finally:
        shutil.rmtree(beside, ignore_errors=True)
