"""From an artifact and a plan to a compiled, warm model. Blocking: runs on a thread beside the loop."""

import logging
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from whet.engine.base import Session
from whet.engine.batcher import Batch, Limits
from whet.engine.costs import ServiceTimes
from whet.engine.environment import unmet
from whet.engine.lanes import WATCH_S, Lanes, Place, lanes_for
from whet.engine.surround import After, Before, postprocessing, preprocessing
from whet.errors import PlanRefused, RuntimeFailed
from whet.host import confined
from whet.models.around import service_outputs
from whet.models.artifact import Artifact
from whet.plan import Plan
from whet.settings import environ
from whet.tensors import DYNAMIC, TensorSpec

log = logging.getLogger("whet.engine")

WARM_DIM = 8
"""Length of a variable dimension during warm-up."""
WARM_TIMEOUT_S = 300.0
"""How long one round of warm-up may take before the model counts as stuck."""


@dataclass(slots=True, eq=False)
class Ready:
    """A warm model, ready for an engine's loop.

    Attributes:
        artifact: the model.
        plan: how it runs.
        session: what the runtime compiled.
        places: one more than lanes.
        limits: of the batcher.
        costs: service times seen in warm-up.
        before: preprocessing the graph does not hold, or None.
        after: postprocessing, or None.
        outputs: what an answer carries.
        closed: the engine freed the session.
    """

    artifact: Artifact
    plan: Plan
    session: Session
    places: list[Place]
    limits: Limits
    costs: ServiceTimes
    before: Before | None
    after: After | None
    outputs: tuple[TensorSpec, ...]
    closed: bool = False

    def free(self) -> None:
        """Free the model; nothing runs any more."""
        self.places.clear()  # their slots hold memory of the runtime
        self.session.close()


def get_ready(artifact: Artifact, plan: Plan, cache_dir: Path | None = None, *, beside: bool = False) -> Ready:
    """Compile and warm ``artifact`` under ``plan``.

    Args:
        artifact: the model.
        plan: its knobs.
        cache_dir: where compiled models are kept, or None.
        beside: other models serve meanwhile: compile on half of the CPUs. (A plan that pins threads is compiled on
            all of them: its pins are the runtime's own.)

    Raises:
        PlanRefused: the plan is for another artifact or holds a knob the runtime cannot honour.
        MissingExtra: the runtime is not installed.
        RuntimeFailed: it cannot compile or run the model.
    """
    from whet.engine import load_runtime

    if plan.artifact != artifact.sha256:
        raise PlanRefused(
            f"plan {plan.id} is for artifact {plan.artifact[:12] or 'none'}, not {artifact.sha256[:12]}; "
            "take the plan that lies beside the artifact in its bundle"
        )
    lacks = unmet(plan, environ()) if plan.allocator != "default" or plan.openmp is not None else []
    if lacks:
        raise PlanRefused(f"plan needs another environment: {'; '.join(lacks)}; start the process with it")
    with confined() if beside and not plan.pinning else nullcontext():
        session = load_runtime(plan.runtime).open(artifact, plan, cache_dir)
    try:
        limits = limits_of(artifact, plan, session.effective.streams)
        places = [Place(session.slot()) for _ in range(limits.lanes + limits.ahead)]
        costs = warm(session, places, limits, batched=artifact.batched)
        before, after = preprocessing(artifact, session), postprocessing(artifact, session)
    except BaseException:
        session.close()
        raise
    return Ready(artifact, plan, session, places, limits, costs, before, after, service_outputs(artifact))


def limits_of(artifact: Artifact, plan: Plan, streams: int) -> Limits:
    """Return the batcher's bounds under ``plan`` with the ``streams`` the runtime really has.

    An unbatched model takes one request a run.
    """
    lanes = min(plan.streams, streams)
    if not artifact.batched:
        return Limits((1,), lanes, 1, plan.queue_bound, 0.0)
    return Limits(plan.batch_sizes, lanes, 1, plan.queue_bound, plan.batch_window_ms / 1e3)


def warm(session: Session, places: list[Place], limits: Limits, *, batched: bool) -> ServiceTimes:
    """Run every place at every batch size, one after the other and then all lanes at once; return the last times.

    The first run of a place allocates and is slow; one at a time it leaves the other cores to models that serve.

    Raises:
        RuntimeFailed: a run failed or hung. A model whose inputs have variable dimensions may refuse the shape chosen
            here; that is logged, and the model is left unmeasured.
    """
    costs = ServiceTimes()
    woken = threading.Event()
    lanes = lanes_for(places, limits.lanes, woken.set, "warm")
    try:
        for size in limits.batch_sizes:
            # Alone first also because two threads making a process's first OpenVINO calls at the same moment can
            # deadlock (one waits for the interpreter's lock in a static initialiser, the other for the initialiser).
            shapes = _warm_shapes(session, size, batched=batched)
            for place in places:
                _round(lanes, woken, [place], shapes, size)
            seconds = _round(lanes, woken, places, shapes, size)
            costs.observe(size, sorted(seconds)[len(seconds) // 2])
    except RuntimeFailed:
        if all(DYNAMIC not in (spec.shape[1:] if batched else spec.shape) for spec in session.inputs):
            raise
        log.warning("warm-up with variable dimensions set to %d failed; the first requests will be slower", WARM_DIM)
    finally:
        lanes.close()
    return costs


def _round(
    lanes: Lanes, woken: threading.Event, places: list[Place], shapes: dict[str, tuple[int, ...]], size: int
) -> list[float]:
    for place in places:
        for array in place.slot.prepare(shapes).values():
            array[...] = b"" if array.dtype == object else 0
        place.batch = Batch([], size, size, 0.0)
        lanes.start(place)
    seconds: list[float] = []
    until = monotonic() + WARM_TIMEOUT_S
    while len(seconds) < len(places):
        if not woken.wait(WATCH_S):
            if monotonic() > until:
                raise RuntimeFailed(f"warm-up with batch {size} did not end in {WARM_TIMEOUT_S:.0f} s; the model hangs")
            lanes.watch()
            continue
        woken.clear()
        for place in lanes.finished():
            if place.error is not None:
                log.error("warm-up with batch %d failed", size, exc_info=place.error)
                raise RuntimeFailed(f"warm-up with batch {size} failed in the runtime; its words are in the log")
            place.slot.outputs()
            seconds.append(place.ended - place.began)
            place.batch = None
    return seconds


def _warm_shapes(session: Session, size: int, *, batched: bool) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for spec in session.inputs:
        shape = spec.with_batch(size) if batched else spec.shape
        shapes[spec.name] = tuple(WARM_DIM if dim == DYNAMIC else dim for dim in shape)
    return shapes
