"""Plans that nobody measured on this host: the plain one, and one carried over from another host. Deciding is pure.

What is carried over is a proposal: `whet optimize --revalidate` measures it against the plain plan.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from whet.engine import available_runtimes
from whet.engine.environment import ALLOCATORS, can_preload, isa_ceilings
from whet.host import Host
from whet.models.artifact import Artifact
from whet.plan import Plan

_RUNTIMES = {
    "ir": ("openvino",),
    "onnx": ("openvino", "onnxruntime"),
    "torchscript": ("torch",),
    "pt2": ("torch",),
    "savedmodel": ("tensorflow",),
    "fake": ("fake",),
}
"""Artifact format -> the runtimes that serve it when no plan says otherwise, the first choice first."""


def plain_plan(artifact: Artifact, cores: int, among: Collection[str] = ()) -> tuple[Plan, str]:
    """Return a plan that is safe everywhere for a model nobody tuned, and a second runtime to try, or "".

    Full precision, one thread a stream, one sample a batch.

    Args:
        artifact: the model.
        cores: of the budget; one stream each.
        among: the only runtimes to consider; all that are installed when empty.
    """
    usable = among or (*available_runtimes(), "fake")
    fitting = _RUNTIMES.get(artifact.format, ("openvino",))
    runtime, fallback = (*(name for name in fitting if name in usable), "", "")[:2]
    return Plan(artifact.sha256, runtime=runtime or fitting[0], streams=max(1, cores)), fallback


@dataclass(frozen=True, slots=True)
class Site:
    """What of a host decides whether a plan fits it.

    Attributes:
        cores: the cpu budget, in logical CPUs.
        physical: physical cores in it.
        nodes: NUMA nodes in it.
        native: number formats beyond f32 with instructions of their own: of ``bf16``, ``f16``, ``int8``.
        ceilings: ISA ceilings that mean something here.
        preloads: libraries that can be preloaded: allocators, ``libiomp5``.
    """

    cores: int
    physical: int
    nodes: int = 1
    native: tuple[str, ...] = ()
    ceilings: tuple[str, ...] = ()
    preloads: tuple[str, ...] = ()


def site_of(host: Host) -> Site:
    """Return what of this machine decides; reads which libraries are installed."""
    return Site(
        cores=host.budget.cores,
        physical=min(host.budget.physical, host.budget.cores),
        nodes=host.nodes_needed(),
        native=host.processor.native,
        ceilings=isa_ceilings(),
        preloads=tuple(name for name in (*ALLOCATORS, "libiomp5") if can_preload(name)),
    )


@dataclass(frozen=True, slots=True)
class Carried:
    """A plan of another host, made to fit this one.

    Attributes:
        plan: as it can run here.
        changes: what was changed and why, in words; empty where it fits as it is.
    """

    plan: Plan
    changes: tuple[str, ...] = ()


def carry_over(plan: Plan, there: Mapping[str, Any], here: Site, most: int | None = None) -> Carried:
    """Return ``plan`` as it fits another host: the same share of the cores, and nothing that is absent here.

    Args:
        plan: as it was found there.
        there: fields of the fingerprint of the host it was found on; empty where that is not known.
        here: where it is to run.
        most: cores that its targets leave to it on either host, or None.
    """
    changes: list[str] = []
    here = here if most is None else replace(here, cores=min(here.cores, most), physical=min(here.physical, most))
    there = {name: min(there[name], most or there[name]) for name in ("cores", "physical") if there.get(name)}
    fitted = _resized(plan, there, here, changes)
    for absent, knobs, words in (
        (plan.workers > here.nodes, {"workers": here.nodes}, f"{here.nodes} of {plan.workers} workers, one a node"),
        (plan.precision not in ("f32", *here.native), {"precision": "f32"},
         f"f32 instead of {plan.precision}: no instructions for it here"),
        (plan.isa_ceiling is not None and plan.isa_ceiling not in here.ceilings, {"isa_ceiling": None},
         f"no ceiling {plan.isa_ceiling}: it means nothing here"),
        (plan.allocator not in ("default", *here.preloads), {"allocator": "default"},
         f"the system's allocator: {plan.allocator} is not installed"),
    ):  # fmt: skip
        if absent:
            changes.append(words)
            fitted = fitted.with_(**knobs)
    if fitted.openmp is not None:
        openmp = replace(fitted.openmp, threads=fitted.threads)
        if openmp.intel and "libiomp5" not in here.preloads:
            openmp = replace(openmp, intel=False, blocktime_ms=None, affinity="")
            changes.append("the library's own OpenMP: libiomp5 is not installed")
        fitted = fitted.with_(openmp=openmp)
    return Carried(fitted, tuple(changes))


def _resized(plan: Plan, there: Mapping[str, Any], here: Site, changes: list[str]) -> Plan:
    """Give a plan the share of the cores that it had: a single stream stays one, several keep their width if it fits.

    A plan within the physical cores there stays within those here; one that used SMT's siblings does so here too. What
    share it had of a host that is not known cannot be told: it keeps its width as far as that fits.
    """
    used = plan.compute_threads
    had, room = there.get("physical", used), here.physical
    if used > had:
        had, room = there.get("cores", used), here.cores
    share = room / max(had, used) if there else 1.0
    wanted = min(room, max(1, round(used * share)))
    if wanted == used:
        return plan
    threads = wanted if plan.streams == 1 else min(plan.threads, wanted)
    resized = plan.with_(streams=wanted // threads, threads=threads)
    changes.append(f"{resized.streams}x{threads} streams x threads on {room} cores instead of "
                   f"{plan.streams}x{plan.threads} on {had}")  # fmt: skip
    return resized
