"""The bundle: artifacts, plans and evidence in one folder. What ``optimize`` emits and what ``serve`` takes.

::

    bundle.json               schema version, name, which plan to prefer
    artifacts/<sha256>/       one or several artifacts
    plans/<id>.json           a plan, the host it was found on, what it measured there
    evidence/                 journal, accuracy record, report

Written beside its place and renamed; a folder of that name is either a whole bundle or not there.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from whet.errors import BundleError, OutputError
from whet.models.artifact import Artifact, load_artifact
from whet.plan import Plan, Targets

SCHEMA = (1, 0)
"""Major and minor version of the layout: an unknown major is refused, an unknown minor is read."""
MANIFEST = "bundle.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan with the host it was found on and what was measured there.

    Attributes:
        plan: the knobs.
        host: fields of the host's fingerprint (see ``whet.host``).
        measured: what the search measured: ``throughput_per_s``, ``latency_p99_ms``, ``accuracy``, ... with intervals.
    """

    plan: Plan
    host: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        folder: where it lies.
        name: the model's name when served.
        artifacts: by sha256.
        plans: every plan it carries, the preferred one first.
        targets: what the search was asked for.
    """

    folder: Path
    name: str
    artifacts: dict[str, Artifact]
    plans: tuple[PlanRecord, ...]
    targets: Targets = field(default_factory=Targets)


@dataclass(frozen=True, slots=True)
class _Manifest:
    schema: tuple[int, int]
    name: str
    plans: tuple[str, ...]
    targets: Targets


def write_bundle(
    out: Path,
    name: str,
    plans: Iterable[PlanRecord],
    artifacts: Mapping[str, Artifact],
    targets: Targets,
    evidence: Path,
) -> Bundle:
    """Write a whole bundle to ``out``, replacing a bundle that lies there; anything else there is left alone.

    Args:
        out: the folder to make.
        name: the model's name when served.
        plans: the preferred plan first.
        artifacts: every artifact the plans name, by sha256.
        targets: what the search was asked for.
        evidence: folder whose files become ``evidence/``.

    Raises:
        OutputError: ``out`` exists and is no bundle, or cannot be written.
    """
    records = tuple(plans)
    manifest = _Manifest(SCHEMA, name, tuple(record.plan.id for record in records), targets)
    with _beside(out) as beside:
        for sha256 in {record.plan.artifact for record in records}:
            shutil.copytree(artifacts[sha256].folder, beside / "artifacts" / sha256)
        (beside / "plans").mkdir()
        for record in records:
            _write(beside / "plans" / f"{record.plan.id}.json", record)
        shutil.copytree(evidence, beside / "evidence")
        _write(beside / MANIFEST, manifest)
    return read_bundle(out)


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle in ``folder``.

    Raises:
        BundleError: not a bundle, damaged, or of another major version.
    """
    manifest = _read(folder / MANIFEST, _Manifest)
    if manifest.schema[0] != SCHEMA[0]:
        raise BundleError(
            f"{folder} has bundle schema {manifest.schema[0]}, this Whet reads {SCHEMA[0]}; optimize again"
        )
    records = tuple(_read(folder / "plans" / f"{_plain(name)}.json", PlanRecord) for name in manifest.plans)
    if not records:
        raise BundleError(f"{folder / MANIFEST} names no plan; optimize again")
    shas = {_plain(record.plan.artifact) for record in records}
    artifacts = {sha: load_artifact(folder / "artifacts" / sha) for sha in shas}
    return Bundle(folder, manifest.name, artifacts, records, manifest.targets)


def is_bundle(folder: Path) -> bool:
    """Tell whether ``folder`` holds a bundle's manifest."""
    return (folder / MANIFEST).is_file()


def _plain(name: str) -> str:
    if not name.isalnum():
        raise BundleError(
            f"'{name}' is no plan id or sha256: only letters and digits are; the bundle was tampered with"
        )
    return name


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}; this is no whole bundle") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise BundleError(f"{path} is damaged: {error}; optimize again") from error


def _write(path: Path, value: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n")


@contextmanager
def _beside(out: Path) -> Any:
    """Yield a folder beside ``out`` that takes its name at the end, or vanishes on failure."""
    if out.exists() and not is_bundle(out) and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is no bundle; choose another -o, or remove it yourself")
    beside = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        beside.chmod(0o755)
        yield beside
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
            out.rename(old / out.name)
            beside.rename(out)
            shutil.rmtree(old, ignore_errors=True)
        else:
            beside.rename(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}; free space or choose another -o") from error
    finally:
        if beside is not None and beside != out:
            shutil.rmtree(beside, ignore_errors=True)
