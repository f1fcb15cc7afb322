"""From a request to a search that can begin: the model, the host, the samples, the runtimes, the journal."""

import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from whet.engine import available_runtimes
from whet.engine.base import Capabilities
from whet.host import Host, read_host
from whet.models.artifact import Artifact
from whet.models.importers import import_model
from whet.optimize.accuracy import choose_metric
from whet.optimize.baselines import as_given, own_framework
from whet.optimize.data import Dataset, Split, open_data, split, synthetic
from whet.optimize.journal import Journal, Key
from whet.optimize.lab import Lab
from whet.optimize.lessons import ordered
from whet.optimize.pool import Pool, materialise
from whet.optimize.probe import capabilities
from whet.optimize.request import OptimizeRequest, Progress, Status
from whet.optimize.space import Variant, build
from whet.optimize.stages import room_of
from whet.optimize.state import Clock, Data, State
from whet.optimize.strategies import make
from whet.optimize.strategy import Budget
from whet.optimize.trial import START_S, Bench

MEASURE = 64
"""Samples that requests are drawn from: enough that no cache holds the answer, few enough to stay in memory."""
SEARCHED = ("openvino", "onnxruntime")
"""Runtimes that compete by default; the framework that made the model joins them where it is installed."""


def prepare(request: OptimizeRequest, work: Path, progress: Progress, clock: Clock) -> State:
    """Return a search that can begin.

    Raises:
        WhetError: the model, the data, a runtime or the host is not what the request needs.
    """

    def say(words: str) -> None:
        progress(Status("prepare", 0, 0, "", clock.left_s, words))

    if request.assumed:
        progress(Status("targets", 0, 0, "", clock.left_s, ", ".join(request.assumed)))
    block_s = min(0.6, max(0.25, request.budget_s / 250))
    strategy = make(request.strategy, Budget(0.0, 1.2, block_s + 0.08), request.seed)
    say(f"importing {request.model.name}")
    machine = read_host()
    host = _limited(machine, request)
    artifact = import_model(request.model, request.options, work / "artifacts")
    say("reading samples")
    data = _data(request, artifact, work)
    say("asking the runtimes")
    own = own_framework(artifact, request.model)
    runtimes, refused = capabilities(request.runtimes or (*SEARCHED, *_installed(own)))
    variants, artifacts = _variants(request, artifact, work)
    native = _native(request, artifact, own, runtimes, work)
    if native is not None:
        artifacts[native.sha256] = native
        variants.append(replace(_variant(native, "f32"), parent=False, native=True, precisions=("f32",)))
    space = build(variants, runtimes, room_of(host, request.service), request.targets)
    bench = Bench(host.budget.cpus, work, memory_of(host), min(START_S, max(15.0, 0.3 * request.budget_s)))
    lab = Lab(bench, data.measure.folder, artifacts, host.budget.cores, random.Random(request.seed))  # noqa: S311
    lab.narrow = request.targets.objective == "cores"
    journal = _journal(request, artifact, host, work, {name: able.version for name, able in runtimes.items()})
    lab.note = lambda kind, document: journal.add(
        kind, document, artifact=str(document.get("artifact", "")), plan=str(document.get("plan", ""))
    )
    state = State(
        request=request,
        machine=machine,
        host=host,
        clock=clock,
        work=work,
        progress=progress,
        artifact=artifact,
        data=data,
        lab=lab,
        journal=journal,
        runtimes=runtimes,
        strategy=strategy,
        space=space,
        variants=variants,
        refused=list(refused),
        block_s=block_s,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        expected=max(12, int(request.budget_s / 2.5)),
    )
    fields, objective = host.fingerprint_fields, request.targets.objective
    state.lessons = ordered(journal.everywhere("lesson"), fields, artifact.sha256, objective)
    state.allowed |= {(one.artifact, "f32") for one in variants if one.parent or one.native}
    state.service["assumed"] = list(request.assumed)
    journal.add("request", {"model": str(request.model), "targets": request.targets, "seed": request.seed})
    return state


def _limited(host: Host, request: OptimizeRequest) -> Host:
    return host.limited(cores=request.targets.max_cores) if request.targets.max_cores is not None else host


def memory_of(host: Host) -> int | None:
    """Return how much a trial may allocate: most of what is free, so that a plan that is too big fails alone."""
    free = host.memory.available_bytes
    limit = host.limits.memory_bytes
    known = [value for value in (free, limit) if value is not None]
    return int(0.8 * min(known)) if known else None


def _variants(request: OptimizeRequest, artifact: Artifact, work: Path) -> tuple[list[Variant], dict[str, Artifact]]:
    """Return the models that compete: the one given and, beside it, others of the same service."""
    found = [_variant(artifact, "f32" if artifact.precision in {"f32", "f16", "bf16"} else artifact.precision)]
    artifacts = {artifact.sha256: artifact}
    for label, path in request.variants.items():
        other = import_model(path, request.options, work / "artifacts")
        artifacts[other.sha256] = other
        found.append(replace(_variant(other, label), parent=False))
    return found, artifacts


def _installed(own: tuple[str, str] | None) -> tuple[str, ...]:
    return (own[0],) if own is not None and own[0] in available_runtimes() else ()


def _native(
    request: OptimizeRequest,
    artifact: Artifact,
    own: tuple[str, str] | None,
    runtimes: dict[str, Capabilities],
    work: Path,
) -> Artifact | None:
    """Return the user's own file as an artifact of the framework that made it, to compete; None where it cannot."""
    if own is None or own[0] not in runtimes or artifact.format == own[1] or request.options.signature:
        return None  # a signature that is not the file's own first one is a choice of the importer
    if own[1] == "pt2":  # an exported program cannot be frozen
        able = runtimes["torch"]
        runtimes["torch"] = replace(able, options={**able.options, "compile": ("none",)})
    return as_given(artifact, request.model, own[1], work / "artifacts")


def _variant(artifact: Artifact, label: str) -> Variant:
    return Variant(
        artifact.sha256,
        label,
        artifact.format,
        batched=artifact.batched,
        images=bool(artifact.images),
        precisions=("f32", "bf16"),
        int8=artifact.precision in {"int8", "mixed"},
    )


def _data(request: OptimizeRequest, artifact: Artifact, work: Path) -> Data:
    if request.data is not None:
        dataset = open_data(request.data, artifact)
    else:
        assert request.synthetic is not None
        dataset = synthetic(artifact, request.synthetic, request.seed)
    trusted = not dataset.synthetic or request.allow_synthetic_calibration
    parts = split(dataset, seed=request.seed, calibration=request.calibration, evaluation=request.evaluation)
    measure = parts.evaluation[:MEASURE] or tuple(range(min(MEASURE, len(dataset))))
    data = Data(dataset, parts, materialise(dataset, measure, artifact, work / "measure"))
    if trusted and parts.evaluation:
        data.metric = choose_metric(request.targets.metric, artifact.outputs, labelled=dataset.labels is not None)
        data.evaluation = materialise(dataset, parts.evaluation, artifact, work / "evaluation")
    if trusted and parts.calibration:
        data.calibration = materialise(dataset, parts.calibration, artifact, work / "calibration")
        data.calibration_sha256 = _content(dataset, parts, data.calibration)
    return data


def _content(dataset: Dataset, parts: Split, pool: Pool) -> str:
    digest = hashlib.sha256()
    for index in parts.calibration[: len(pool)]:
        digest.update(dataset.fingerprint(index).encode())
    return digest.hexdigest()


def _journal(request: OptimizeRequest, artifact: Artifact, host: Host, work: Path, versions: dict[str, str]) -> Journal:
    """Open the journal; what was measured under other versions or another load has another key."""
    load = {"service": request.service, "objective": request.targets.objective, "cores": host.budget.cores}
    same = hashlib.sha256(msgspec.json.encode((versions, load), order="sorted")).hexdigest()[:12]
    path = (request.journal or work) / "journal.sqlite"
    journal = Journal(path, Key(run="", host=host.fingerprint, versions=same))
    journal.begin(artifact.sha256, resume=request.resume)
    return journal
