"""Folders that change all at once: built beside their place, exchanged with what lies there, one writer at a time.

Whoever opens the name sees the old folder or the new one, whole, at any moment, also when the writer is killed: the
kernel exchanges two names in one step (``renameat2`` with ``RENAME_EXCHANGE``, Linux 3.15). File systems without it
(NFS) are left with two renames, between which the name is missing for some microseconds.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.errors import OutputError

_AT_FDCWD, _EXCHANGE = -100, 2
_UNABLE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` that takes its name at the end, or vanishes on failure.

    Raises:
        OutputError: it cannot be written.
    """
    folder = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        folder.chmod(0o755)
        yield folder
        exchange(folder, out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}; free space or choose another -o") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def exchange(new: Path, out: Path) -> None:
    """Give ``new`` the name ``out``; what lay there, if anything did, is ``new`` afterwards.

    Raises:
        OSError: the names cannot be changed.
    """
    if not out.exists():
        new.rename(out)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    code = errno.ENOSYS
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(out), ctypes.c_uint(_EXCHANGE))
        if not failed:
            return
        code = ctypes.get_errno()
    if code not in _UNABLE:
        raise OSError(code, os.strerror(code))
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    out.rename(old / out.name)
    new.rename(out)
    (old / out.name).rename(new)
    old.rmdir()


@contextmanager
def alone(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the lock file ``path`` for as long as the block runs; the kernel frees it when the process dies.

    Args:
        path: the lock file; removed at the end, and made again by whoever comes next.
        busy: what to say, instead of waiting, where another process holds it.

    Raises:
        OutputError: it cannot be made; or it is held by another, and ``busy`` is given.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _locked(path, wait=not busy)
    except BlockingIOError as error:
        raise OutputError(busy) from error
    except OSError as error:
        raise OutputError(f"cannot lock {path}: {error.strerror}; choose another -o") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(held)


def _locked(path: Path, *, wait: bool) -> int:
    """Return a descriptor of the locked file that has the name: one that its last holder removed is no lock."""
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(held), path.stat()):
                return held
        except FileNotFoundError:  # removed between the two looks
            pass
        except BaseException:
            os.close(held)
            raise
        os.close(held)
