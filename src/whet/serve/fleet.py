"""Whether the fleet of workers is ready, and what was counted by workers that are gone. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from whet.serve.meters import ModelNumbers, WorkerNumbers
from whet.serve.metrics import Fleet

Key = tuple[str, str]
"""Name and version of a model."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one worker stands.

    Attributes:
        serving: it takes requests.
        models: what it has loaded.
    """

    serving: bool = False
    models: frozenset[Key] = field(default_factory=frozenset)


def assess(wanted: Collection[Key], standings: Collection[Standing], fleet: Fleet) -> Fleet:
    """Return the fleet's state.

    Ready for the first time when every worker serves every wanted model; afterwards while at least one worker serves
    each. ``degraded`` says that it is ready and something is missing somewhere.

    Args:
        wanted: models that should be served.
        standings: one for each worker there should be.
        fleet: the state before.
    """
    serving = [standing for standing in standings if standing.serving]
    complete = bool(standings) and all(one.serving and one.models.issuperset(wanted) for one in standings)
    covered = bool(serving) and all(any(key in one.models for one in serving) for key in wanted)
    ready = complete or (fleet.ready_once and covered)
    return Fleet(
        whet=fleet.whet,
        ready=ready,
        degraded=ready and not complete,
        ready_once=fleet.ready_once or complete,
        workers=len(serving),
        wanted=len(standings),
        restarts=fleet.restarts,
    )


def departed(worker: WorkerNumbers) -> list[ModelNumbers]:
    """Return what a worker that is gone had counted: its counters stay in the totals, its gauges do not."""
    for model in worker.models:
        model.workers = model.queued = model.in_flight = model.lanes = 0
    return worker.models


def totals(workers: Iterable[WorkerNumbers], gone: list[ModelNumbers]) -> list[WorkerNumbers]:
    """Return the workers' numbers, and those of workers that are gone as one more, of index -1."""
    listed = list(workers)
    return [*listed, WorkerNumbers(index=-1, pid=0, models=gone)] if gone else listed
