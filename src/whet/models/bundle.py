"""The bundle: artifacts, plans and evidence in one folder. What ``optimize`` emits and what ``serve`` takes.

::

    bundle.json                    schema version, name, which plan to prefer
    artifacts/<sha256>/            one or several artifacts, shared by the hosts' plans
    plans/<id>on<fingerprint>.json a plan, the host it was found on, what it measured there
    evidence/                      journal, accuracy record, report of the host that was optimized on last
    evidence/hosts/<fingerprint>/  the same of every other host

Written beside its place and exchanged with what lies there (:mod:`whet.models.swap`); a folder of that name is either a
whole bundle or not there. What one host adds to a bundle of several: :mod:`whet.models.hosts`.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from whet.errors import BundleError, OutputError
from whet.host.fingerprint import digest
from whet.models.artifact import Artifact, load_artifact
from whet.models.swap import beside
from whet.plan import Plan, Targets

SCHEMA = (1, 1)
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
        role: ``chosen`` serves; ``reference`` is the host's plain f32 plan, what the chosen one is compared with.
    """

    plan: Plan
    host: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    role: Literal["chosen", "reference"] = "chosen"

    @property
    def fingerprint(self) -> str:
        """Fingerprint of its host, or empty where that is not recorded."""
        fields = {name: value for name, value in self.host.items() if name != "fingerprint"}
        return str(self.host.get("fingerprint") or (digest(fields) if fields else ""))

    @property
    def name(self) -> str:
        """Its file's name, without the ending: two hosts may have found the same plan."""
        return f"{self.plan.id}on{self.fingerprint}" if self.fingerprint else self.plan.id


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        folder: where it lies.
        name: the model's name when served.
        artifacts: by sha256.
        plans: every plan it carries, the preferred one first.
        targets: what the last search was asked for.
        model: tells its model from others, see :func:`whet.models.hosts.model_key`; empty in old bundles.
    """

    folder: Path
    name: str
    artifacts: dict[str, Artifact]
    plans: tuple[PlanRecord, ...]
    targets: Targets = field(default_factory=Targets)
    model: str = ""

    @property
    def chosen(self) -> tuple[PlanRecord, ...]:
        """The plans that may serve, the preferred one first."""
        return tuple(record for record in self.plans if record.role == "chosen")


@dataclass(frozen=True, slots=True)
class _Manifest:
    schema: tuple[int, int]
    name: str
    plans: tuple[str, ...]
    targets: Targets
    model: str = ""


def write_bundle(
    out: Path,
    name: str,
    plans: Iterable[PlanRecord],
    artifacts: Mapping[str, Artifact],
    targets: Targets,
    evidence: Path,
    model: str = "",
) -> Bundle:
    """Write a whole bundle to ``out``, replacing a bundle that lies there; anything else there is left alone.

    Args:
        out: the folder to make.
        name: the model's name when served.
        plans: the preferred plan first.
        artifacts: every artifact the plans name, by sha256.
        targets: what the search was asked for.
        evidence: folder whose files become ``evidence/``.
        model: tells the model from others.

    Raises:
        OutputError: ``out`` exists and is no bundle, or cannot be written.
    """
    records = tuple(plans)
    manifest = _Manifest(SCHEMA, name, tuple(record.name for record in records), targets, model)
    refuse_strangers(out)
    with beside(out) as place:
        for sha256 in {record.plan.artifact for record in records}:
            folder = artifacts[sha256].folder
            # What lies in the bundle already is linked, not copied: nobody ever writes into an artifact.
            copy = _linked if folder.is_relative_to(out) else shutil.copy2
            shutil.copytree(folder, place / "artifacts" / sha256, copy_function=copy)
        (place / "plans").mkdir()
        for record in records:
            _write(place / "plans" / f"{record.name}.json", record)
        shutil.copytree(evidence, place / "evidence")
        _write(place / MANIFEST, manifest)
    return read_bundle(out)


def refuse_strangers(out: Path) -> None:
    """Refuse to write a bundle over anything but a bundle or an empty folder.

    Raises:
        OutputError: ``out`` is something else.
    """
    if out.exists() and not is_bundle(out) and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is no bundle; choose another -o, or remove it yourself")


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle in ``folder``.

    While it is being replaced, what is returned is of the old bundle or of the new one, never of both.

    Raises:
        BundleError: not a bundle, damaged, or of another major version.
    """
    for _ in range(_LOOKS):
        before = _inode(folder)
        with suppress(BundleError):
            found = _read_once(folder)
            if _inode(folder) == before:
                return found
        if _inode(folder) == before:
            break
    return _read_once(folder)


_LOOKS = 5
"""A bundle that was replaced so often while it was read is read as it is."""


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _read_once(folder: Path) -> Bundle:
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
    return Bundle(folder, manifest.name, artifacts, records, manifest.targets, manifest.model)


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


def _linked(source: str, target: str) -> str:
    """Link a file, or copy it where it cannot be linked."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
