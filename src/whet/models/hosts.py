"""A bundle of several hosts: what one host puts into it, and what it leaves alone.

Each host has the plan that was chosen on it and, as a reference, its plain f32 plan; both with figures, and evidence of
its own. Artifacts are shared by hash. One host at a time writes (:func:`whet.models.swap.alone`), each reads the bundle
anew under the lock and replaces only its own part, so that two that write at the same time lose nothing.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from whet.errors import BundleError, OutputError, UsageError
from whet.host.fingerprint import Fields, differences, distance
from whet.models.artifact import Artifact
from whet.models.bundle import Bundle, PlanRecord, is_bundle, read_bundle, refuse_strangers, write_bundle
from whet.models.swap import alone
from whet.plan import Targets

EVIDENCE, OTHERS, RESULT = "evidence", "hosts", "result.json"


@dataclass(frozen=True, slots=True)
class Share:
    """What one host puts into a bundle.

    Attributes:
        name: the model's name when served.
        model: tells the model from others, see :func:`model_key`.
        fingerprint: of the host.
        records: its plans, the chosen one first.
        artifacts: every artifact they name, by sha256.
        targets: what the search was asked for.
        evidence: folder of its evidence; None keeps what the bundle has.
    """

    name: str
    model: str
    fingerprint: str
    records: tuple[PlanRecord, ...]
    artifacts: Mapping[str, Artifact]
    targets: Targets = field(default_factory=Targets)
    evidence: Path | None = None


def model_key(artifact: Artifact) -> str:
    """Return twelve hex digits that tell an imported model from others: its file's content and what the service takes.

    Paths, converters and their versions do not count, and neither does compressing: the same file imported on two hosts
    is the same model.
    """
    made = [step for step in artifact.lineage if step.action != "compress"]
    content = [(one.action, one.settings.get("sha256") or one.source, one.settings.get("preprocess_sha256"))
               for one in made]  # fmt: skip
    known = (content or artifact.sha256, artifact.service_inputs, artifact.outputs, artifact.post)
    return hashlib.sha256(msgspec.json.encode(known)).hexdigest()[:12]


def put(out: Path, share: Share) -> tuple[Bundle, str]:
    """Put one host's share into the bundle at ``out``; a bundle of another model is replaced as a whole.

    Returns:
        The bundle as it is now, and in words what became of what lay there; empty where nothing did.

    Raises:
        OutputError: ``out`` exists and is no bundle, or cannot be written.
    """
    with alone(lock_of(out)):
        refuse_strangers(out)
        old, said = _there(out, share)
        kept = [record for record in old.plans if record.fingerprint != share.fingerprint] if old else []
        records = _ordered(old, kept, share)
        artifacts = {**(old.artifacts if old else {}), **share.artifacts}
        targets = share.targets if share.evidence is not None or old is None else old.targets
        with tempfile.TemporaryDirectory(prefix="whet-evidence-") as folder:
            evidence = Path(folder) / EVIDENCE
            try:
                _gather(old, share, {record.fingerprint for record in kept}, evidence)
            except OSError as error:
                raise OutputError(f"cannot gather evidence: {error.strerror or error}; free space") from error
            return write_bundle(out, share.name, records, artifacts, targets, evidence, share.model), said


def _ordered(old: Bundle | None, kept: list[PlanRecord], share: Share) -> tuple[PlanRecord, ...]:
    """Return all records: a search's own first, since the first is preferred; others where their host's stood."""
    before = [one.fingerprint for one in old.plans] if old is not None else []
    place = before.index(share.fingerprint) if share.fingerprint in before else len(kept)
    place = 0 if share.evidence is not None else place
    return (*kept[:place], *share.records, *kept[place:])


def lock_of(out: Path) -> Path:
    """Return the lock file of a bundle's place: it lies beside the bundle, which is replaced under it."""
    return out.parent / f".{out.name}.lock"


def _there(out: Path, share: Share) -> tuple[Bundle | None, str]:
    """Return the bundle at ``out`` if it is of the same model, and what to say of it."""
    if not is_bundle(out):
        return None, ""
    try:
        old = read_bundle(out)
    except BundleError as error:
        return None, f"what lay there could not be read and was replaced ({error})"
    if of_model(old) != share.model:
        return None, f"a bundle of another model ('{old.name}') lay there and was replaced"
    kept = sorted({record.fingerprint for record in old.plans} - {share.fingerprint})
    return old, f"the plans of {len(kept)} other host(s) were kept ({', '.join(kept)})" if kept else ""


def of_model(bundle: Bundle) -> str:
    """Return the key of a bundle's model; of one that does not say, the key of its preferred artifact."""
    return bundle.model or model_key(bundle.artifacts[bundle.plans[0].plan.artifact])


def _gather(old: Bundle | None, share: Share, kept: set[str], into: Path) -> None:
    """Put the evidence of a bundle-to-be together: the newest on top, one folder for each of the other hosts."""
    if share.evidence is None:
        if old is None:
            into.mkdir(parents=True)
        else:
            shutil.copytree(old.folder / EVIDENCE, into)
        return
    shutil.copytree(share.evidence, into)
    if old is None:
        return
    top, others = old.folder / EVIDENCE, old.folder / EVIDENCE / OTHERS
    for fingerprint in sorted(kept):
        if (others / fingerprint).is_dir():
            shutil.copytree(others / fingerprint, into / OTHERS / fingerprint)
    before = _fingerprint_of(top / RESULT) or (old.plans[0].fingerprint)
    if before in kept and before:
        ignored = shutil.ignore_patterns(OTHERS)
        shutil.copytree(top, into / OTHERS / before, ignore=ignored, dirs_exist_ok=True)


def _fingerprint_of(result: Path) -> str:
    try:
        return str(msgspec.json.decode(result.read_bytes())["host"]["fingerprint"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return ""


def evidence_folder(bundle: Path, fingerprint: str = "") -> Path:
    """Return the folder with a host's evidence; that of the host optimized on last where none is named.

    Raises:
        UsageError: the bundle holds no evidence of that host; names those it has.
    """
    top = bundle / EVIDENCE
    if not fingerprint:
        return top
    known = {_fingerprint_of(top / RESULT): top}
    if (top / OTHERS).is_dir():
        known |= {one.name: one for one in sorted((top / OTHERS).iterdir())}
    matching = [one for name, one in known.items() if name and name.startswith(fingerprint)]
    if len(matching) != 1:
        names = ", ".join(name for name in known if name) or "none"
        raise UsageError(f"--host '{fingerprint}': {bundle} holds evidence of {names}; name one of them")
    return matching[0]


def of_host(bundle: Bundle, fingerprint: str) -> Bundle:
    """Return the bundle with the plans of one host alone; the fingerprint's beginning will do.

    Raises:
        UsageError: it has no plan of such a host, or of several; names those it has.
    """
    known = sorted({record.fingerprint for record in bundle.plans if record.fingerprint})
    matching = [one for one in known if one.startswith(fingerprint)]
    if len(matching) != 1:
        raise UsageError(
            f"--host '{fingerprint}': {bundle.folder} has plans of {', '.join(known) or 'none'}; name one of them"
        )
    return replace(bundle, plans=tuple(one for one in bundle.plans if one.fingerprint == matching[0]))


def nearest(bundle: Bundle, here: Fields) -> tuple[PlanRecord, float | None]:
    """Return the chosen plan of the host most like this one and how far that is; the preferred one wins ties.

    The distance is None where the plan's host is not recorded.
    """
    ranked = sorted(bundle.chosen or bundle.plans, key=lambda one: distance(here, one.host) if one.host else _NOWHERE)
    best = ranked[0]
    return best, distance(here, best.host) if best.host else None


_NOWHERE = float("inf")


def host_words(host: Mapping[str, Any]) -> str:
    """Return a recorded host in a few words: processor and cores."""
    if not host:
        return "a host that is not recorded"
    cores = host.get("cores")
    named = str(host.get("model") or host.get("vendor") or host.get("arch") or "unknown processor")
    return f"{named}, {cores} core{'s' if cores != 1 else ''}" if cores else named


def rows(bundle: Bundle, here: Fields) -> list[dict[str, Any]]:
    """Return one row a plan: whose, how far from here, what differs, and the figures measured there."""
    found = []
    for record in bundle.plans:
        measured = record.measured
        speed, latency = measured.get("throughput_per_s"), measured.get("latency_ms") or {}
        found.append(
            {
                "host": record.fingerprint,
                "words": host_words(record.host),
                "away": distance(here, record.host) if record.host else None,
                "differs": list(differences(record.host, here)) if record.host else [],
                "role": record.role,
                "plan_id": record.plan.id,
                "plan": str(record.plan),
                "precision": bundle.artifacts[record.plan.artifact].precision,
                "artifact": record.plan.artifact,
                "throughput_per_s": speed.get("value") if isinstance(speed, dict) else speed,
                "latency_p99_ms": _value(latency.get("p99")),
                "over_f32": measured.get("over_f32"),
                "revalidated": measured.get("revalidated"),
            }
        )
    return found


def _value(found: Any) -> Any:
    return found.get("value") if isinstance(found, dict) else found


def remember(cache: Path, bundle: Bundle, records: Sequence[PlanRecord]) -> None:
    """Keep in a cache what was found out about a bundle on this host: the bundle itself cannot be written.

    Raises:
        OSError: the cache cannot be written either.
    """
    path = _remembered(cache, bundle, records[0].fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(msgspec.json.encode(list(records)))
    beside.rename(path)


def recall(cache: Path, bundle: Bundle, fingerprint: str) -> tuple[PlanRecord, ...]:
    """Return what a cache holds of this very bundle on a host, the chosen plan first; empty where there is nothing."""
    try:
        found = msgspec.json.decode(_remembered(cache, bundle, fingerprint).read_bytes(), type=tuple[PlanRecord, ...])
    except (OSError, msgspec.DecodeError):
        return ()
    return found if all(one.plan.artifact in bundle.artifacts for one in found) else ()


def contents(bundle: Bundle) -> str:
    """Return twelve hex digits over a bundle's plans and figures: a cache must not outlive what it is about."""
    return hashlib.sha256(msgspec.json.encode(bundle.plans, order="sorted")).hexdigest()[:12]


def _remembered(cache: Path, bundle: Bundle, fingerprint: str) -> Path:
    return cache / "revalidated" / f"{contents(bundle)}on{fingerprint}.json"
