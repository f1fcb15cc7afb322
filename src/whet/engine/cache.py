"""Compiled models kept between starts, each beside its own checksums.

A runtime that loads a compiled blob checks little of it: OpenVINO refuses truncated ones, but loads one with flipped
weight bytes and answers wrongly. So every entry carries a ``SHA256SUMS`` over its files, verified before the runtime
sees them. An entry that is damaged, half-written or not ours is ignored with a warning and written anew.

An entry is a folder named by the hash of everything its content depends on; it is written beside and renamed, so that
several workers may start at once.
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from whet.models.artifact import hash_path

log = logging.getLogger("whet.engine")

SUMS = "SHA256SUMS"
KEPT = 64
"""Entries kept; the least recently used ones beyond that are removed."""


class BlobCache:
    """Entries of one runtime under ``root``. A cache that cannot be written only costs time, so it never raises."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Path | None:
        """Return the folder of a verified entry, or None."""
        folder = self.root / key
        if not folder.exists():
            return None
        trouble = verify(folder)
        if trouble:
            log.warning("cached model %s is ignored and compiled anew: %s", key[:12], trouble)
            return None
        try:
            (folder / SUMS).touch()
        except OSError as error:
            log.debug("cannot mark cached model %s as used: %s", key[:12], error)
        return folder

    def write(self, key: str, compile_into: Callable[[Path | None], object]) -> None:
        """Let ``compile_into`` put its files into a fresh folder (or None, if there can be none), and keep them."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.root))
        except OSError as error:
            log.warning(
                "compiled models cannot be kept in %s: %s; give another cache folder", self.root, error.strerror
            )
            compile_into(None)
            return
        try:
            compile_into(beside)
            self._publish(beside, key)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _publish(self, beside: Path, key: str) -> None:
        try:
            files = sorted(path for path in beside.iterdir() if path.is_file())
            if not files:
                return
            (beside / SUMS).write_text("".join(f"{hash_path(path)}  {path.name}\n" for path in files))
            target = self.root / key
            if target.exists():
                if not verify(target):  # another worker was faster
                    return
                shutil.rmtree(target, ignore_errors=True)
            beside.chmod(0o755)
            beside.rename(target)
            self._prune()
        except OSError as error:
            log.warning("compiled model cannot be kept in %s: %s", self.root, error.strerror)

    def _prune(self) -> None:
        entries = [path for path in self.root.iterdir() if (path / SUMS).is_file() and not path.name.startswith(".")]
        entries.sort(key=lambda path: (path / SUMS).stat().st_mtime, reverse=True)
        for path in entries[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def key_of(parts: Mapping[str, object]) -> str:
    """Return the name of the entry that depends on exactly ``parts``."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted", enc_hook=str)).hexdigest()


def verify(folder: Path) -> str:
    """Return what is wrong with an entry, or nothing: every file present is listed, and every listed file matches."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        present = {path.name for path in folder.iterdir()} - {SUMS}
        if not listed or present != set(listed):
            return "its files are not those of its checksum list"
        for name, digest in listed.items():
            if hash_path(folder / name) != digest:
                return f"{name} does not match its checksum"
    except (OSError, ValueError) as error:
        return f"its checksum list cannot be read ({error})"
    return ""
