"""The same plan without an ailment, or the same plan under a load it carries. Pure."""

from dataclasses import dataclass

from whet.doctor.diagnosis import Diagnosis
from whet.doctor.observation import ModelSeen, Observation
from whet.plan import Plan

EASY = 0.7
"""Share of its capacity at which a plan's queue is short: at 0.7 a Poisson queue waits about one service time."""


@dataclass(frozen=True, slots=True)
class Change:
    """A plan without an ailment.

    Attributes:
        plan: the changed plan; the plan itself where only the load changes.
        words: what was changed.
        callers: samples in flight on both sides, as they were seen; None for enough to fill both plans.
        share: of the plan's own capacity that is offered instead, in an open loop; None where the load stays.
    """

    plan: Plan
    words: str
    callers: int | None = None
    share: float | None = None


def counterfactual(found: Diagnosis, seen: Observation, model: ModelSeen) -> Change | None:
    """Return the plan without the ailment, or None where no knob of a plan makes the difference. Pure."""
    plan, host = model.plan, seen.host
    if plan is None:
        return None
    match found.slug:
        case "oversubscribed" | "quota-throttled" if host is not None and plan.compute_threads > host.cores:
            return _narrowed(plan, host.cores)
        case "smt-contention" if host is not None and plan.compute_threads > host.physical:
            return _narrowed(plan, host.physical)
        case "too-small-batch" if "padded_share" in found.evidence:
            sizes = tuple(sorted({1, *plan.batch_sizes}))
            return Change(plan.with_(batch_sizes=sizes), f"batch sizes {_sizes(sizes)}")
        case "too-small-batch":
            larger = 4 * plan.max_batch
            sizes = (*plan.batch_sizes, larger)
            changed = plan.with_(batch_sizes=sizes, queue_bound=max(plan.queue_bound, 4 * larger))
            return Change(changed, f"batch sizes {_sizes(sizes)}")
        case "preprocessing-not-fused":
            return Change(plan.with_(fused_preprocessing=True), "preprocessing in the graph")
        case "isa-ceiling" if plan.isa_ceiling is not None:
            return Change(plan.with_(isa_ceiling=None), "no ceiling on instruction sets")
        case "no-vnni" if plan.isa_ceiling is not None:
            return Change(plan.with_(isa_ceiling=None), "no ceiling on instruction sets")
        case "no-vnni" if plan.precision != "f32":
            return Change(plan.with_(precision="f32"), "float layers in f32")
        case "memory-bandwidth" if plan.max_batch == 1:
            return Change(plan.with_(batch_sizes=(1, 4)), "batch sizes 1, 4")
        case "queueing" if "window_ms" in found.evidence:
            return Change(plan.with_(batch_window_ms=0.0), "no batch window", callers=in_flight(seen, model))
        case "queueing" if model.requests:
            return Change(plan, f"{EASY:.0%} of what it carries", callers=in_flight(seen, model), share=EASY)
    return None


def in_flight(seen: Observation, model: ModelSeen) -> int:
    """Return how many samples each worker held on average, at least 1, at most its queue's bound (Little's law)."""
    held = (model.queue_s + model.compute_s) / seen.seconds if seen.seconds else 0.0
    rows = model.rows / model.requests if model.requests else 1.0
    bound = model.plan.queue_bound if model.plan else held
    return int(max(1, min(round(held * rows / max(1, len(seen.workers))), bound)))


def _narrowed(plan: Plan, cores: int) -> Change:
    if plan.threads <= cores:
        narrow = plan.with_(streams=cores // plan.threads)
    else:
        narrow = plan.with_(streams=1, threads=cores)
    return Change(narrow, f"{narrow.streams} streams of {narrow.threads} threads")


def _sizes(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))
