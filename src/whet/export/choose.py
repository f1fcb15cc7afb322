"""Which of a bundle's plans a target takes. Pure."""

import re
from dataclasses import dataclass

from whet.errors import BundleError, PlanRefused, UsageError
from whet.host.fingerprint import distance
from whet.host.topology import Host
from whet.models.artifact import Artifact
from whet.models.bundle import Bundle, PlanRecord
from whet.plan import Plan

FITS: dict[str, dict[str, tuple[str, ...]]] = {
    "ovms": {"openvino": ("ir", "onnx")},
    "triton": {"openvino": ("ir", "onnx"), "onnxruntime": ("onnx",)},
    "ort": {"onnxruntime": ("onnx",)},
}
"""Target -> runtime it has -> artifact formats that runtime reads."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*")


@dataclass(frozen=True, slots=True)
class Job:
    """What is exported.

    Attributes:
        target: ``ovms``, ``triton`` or ``ort``.
        name: the model's name.
        plan: the plan.
        artifact: the plan's artifact.
        runtime: the target's runtime that will run it; the plan's own, or the nearest the target has.
    """

    target: str
    name: str
    plan: Plan
    artifact: Artifact
    runtime: str


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        target: for which server.
        name: the model's name there.
        plan: the plan that was translated.
        files: relative paths, sorted.
        notes: what could not be expressed, and what to set outside the files, one sentence or two each.
    """

    target: str
    name: str
    plan: Plan
    files: tuple[str, ...]
    notes: tuple[str, ...]


def choose(bundle: Bundle, target: str, host: Host, plan_id: str = "") -> Job:
    """Return the plan a target can honour best: measured under its runtime, then found on the host most like this one.

    Raises:
        BundleError: the model's name cannot name a folder.
        UsageError: ``plan_id`` names no plan of the bundle.
        PlanRefused: the target reads no artifact of these plans.
    """
    if not _NAME.fullmatch(bundle.name):
        raise BundleError(f"{bundle.folder}: '{bundle.name[:80]}' cannot name a folder; the bundle was tampered with")
    records = [record for record in bundle.plans if plan_id in ("", record.plan.id)]
    if not records:
        known = ", ".join(record.plan.id for record in bundle.plans)
        raise UsageError(f"--plan '{plan_id}' is not in {bundle.folder}; it has {known}")
    record = min(records, key=lambda one: (_translated(bundle, target, one), _away(host, one), one.role == "reference"))
    artifact = bundle.artifacts[record.plan.artifact]
    runtime = _runtime(target, record.plan, artifact)
    if runtime is None:
        reads = sorted({form for forms in FITS[target].values() for form in forms})
        raise PlanRefused(
            f"{target} cannot run artifact {artifact.sha256[:12]}: its format is {artifact.format}, {target} reads "
            f"{', '.join(reads)}; import the model with --to onnx and optimize again"
        )
    return Job(target, bundle.name, record.plan, artifact, runtime)


def _runtime(target: str, plan: Plan, artifact: Artifact) -> str | None:
    readers = [name for name, formats in FITS[target].items() if artifact.format in formats]
    if plan.runtime in readers:
        return plan.runtime
    return readers[0] if readers else None


def _translated(bundle: Bundle, target: str, record: PlanRecord) -> int:
    """Return 0 for a plan whose runtime the target has, 1 for one that another runtime will run, 2 for neither."""
    runtime = _runtime(target, record.plan, bundle.artifacts[record.plan.artifact])
    return 2 if runtime is None else int(runtime != record.plan.runtime)


def _away(host: Host, record: PlanRecord) -> float:
    return distance(host.fingerprint_fields, record.host) if record.host else float("inf")
