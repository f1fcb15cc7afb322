"""Writing files for the user: whole or not at all."""

import tempfile
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
