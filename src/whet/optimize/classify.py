"""What a service is bound by, said as soon as the defaults are measured, and what that means for the order of search.

The first verdict rests on the baselines: batch 1 against 8, the CPU they used, and how long a sample takes to move
through memory. The search's own batches confirm or correct it before anything is compressed.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whet.optimize.lab import Record
from whet.optimize.state import State
from whet.plan import Plan

Bound = Literal["compute", "memory", "io", "queue", "unknown"]
BATCHING_PAYS = 1.6
"""Batching that gains more than this means that weights, or the cost of a call, are the limit, not arithmetic."""
IDLE = 0.5
"""A loop that is always fed and leaves more of its cores idle than this waits for something other than arithmetic."""
MOVING = 0.3
"""Moving a sample that takes more than this share of the time it is computed in is a limit of its own."""
COPIES = 3
"""How often a sample is copied on its way: out of the socket, into a tensor, into its place in the batch."""


@dataclass(frozen=True, slots=True)
class Order:
    """How a verdict orders the search.

    Attributes:
        system: share of the budget that is spent when the system level ends.
        application: the same for the application level.
        batches: batches to begin the application level with, most promising first.
        must: how many of them are measured even when time is short.
        words: for people.
    """

    system: float
    application: float
    batches: tuple[int, ...]
    must: int
    words: str


ORDERS: dict[str, Order] = {
    "compute": Order(0.24, 0.34, (8,), 1, "more of the time goes to precision"),
    "memory": Order(0.2, 0.38, (16, 8, 4), 2, "large batches are tried first, smaller weights with them"),
    "queue": Order(0.2, 0.38, (16, 8, 4), 2, "large batches are tried first"),
    "io": Order(0.26, 0.36, (8, 2), 1, "streams that overlap moving and computing are tried first"),
    "unknown": Order(0.26, 0.38, (8,), 1, "every level gets its usual share"),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a short measurement saw; None where it could not.

    Attributes:
        gain: throughput with batches over throughput without.
        busy: share of the cores' time that was computed in, under a closed loop, 0 to 1.
        moving: time to copy a sample on its way over the time it is computed in.
        weights_bytes: size of the model.
        cache_bytes: last-level cache of the budget.
    """

    gain: float | None
    busy: float | None
    moving: float | None
    weights_bytes: int
    cache_bytes: int | None


def judge(seen: Seen) -> tuple[Bound, str]:
    """Return what limits the service, and why in words."""
    if seen.moving is not None and seen.moving > MOVING:
        return "io", f"moving a sample takes {100 * seen.moving:.0f} % of the time it is computed in: bytes limit it"
    if seen.busy is not None and seen.busy < IDLE:
        return "io", f"the cores compute {100 * seen.busy:.0f} % of the time though requests always wait"
    if seen.gain is None:
        return "unknown", "batches were not measured: whether weights or arithmetic limit it is unknown"
    said = f"batching gains {100 * (seen.gain - 1):+.0f} %"
    if seen.gain <= BATCHING_PAYS:
        return "compute", f"{said}: arithmetic limits it"
    size = seen.weights_bytes / 1e6
    if seen.cache_bytes is not None and seen.weights_bytes > seen.cache_bytes / 2:
        return "memory", f"{said} and the weights ({size:.0f} MB) do not stay in the cache: reading them limits it"
    return "queue", f"{said} though the weights ({size:.1f} MB) stay in the cache: the cost of a call limits it"


def first(state: State) -> None:
    """Judge by the baselines, and say so at once."""
    measured = [[state.record(case) for case in one.tried] for one in state.baselines if one.best is not None]
    records = max(measured, key=lambda tried: max(map(_speed, tried)), default=[])
    single = max((_speed(one) for one in records if one.case.rows == 1), default=None)
    batched = max((_speed(one) for one in records if one.case.rows > 1), default=None)
    gain = batched / single if single and batched else None
    fastest = max(records, key=_speed, default=None)
    moving = _moving_s(state) * _speed(fastest) if fastest is not None else None
    _conclude(state, Seen(gain, _busy(state, records), moving, _weights(state), _cache(state)), "defaults")


def confirm(state: State) -> None:
    """Judge again by the search's own plans, once batches were measured."""
    ranking = {one.key: one.score for one in state.strategy.ranking()}
    plans = {key: state.lab.records[key].case.plan for key in ranking}
    own = {key: plan for key, plan in plans.items() if _exact(state, plan)}
    single = max((ranking[key] for key, plan in own.items() if plan.max_batch == 1), default=None)
    batched = max((ranking[key] for key, plan in own.items() if plan.max_batch > 1), default=None)
    gain = None if single is None or batched is None else math.exp(batched - single)
    seen = Seen(gain, None, state.service.get("moving"), _weights(state), _cache(state))
    if gain is not None:
        _conclude(state, seen, "search")


def order(state: State) -> Order:
    """Return how the verdict so far orders the search."""
    return ORDERS[state.service.get("bound", "unknown")]


def latency_oriented(state: State) -> bool:
    """Tell whether a single answer's time matters more than their number."""
    return state.request.targets.objective == "latency" or state.request.service == "stream"


def _conclude(state: State, seen: Seen, by: str) -> None:
    bound, words = judge(seen)
    before = state.service.get("bound")
    found: dict[str, Any] = {
        "kind": "latency-oriented" if latency_oriented(state) else "throughput-oriented",
        "bound": bound,
        "batching_gain": seen.gain,
        "busy": seen.busy if seen.busy is not None else state.service.get("busy"),
        "moving": seen.moving,
        "words": words,
        "order": ORDERS[bound].words,
        "by": by,
        "first": before if before is not None else bound,
    }
    state.service |= found
    state.journal.add("service", found)
    if before != bound:
        limit = "unknown limit" if bound == "unknown" else f"{bound}-bound"
        state.say(
            "service" if before is None else "service again", f"{found['kind']}, {limit}: {words}; {found['order']}"
        )


def _speed(record: Record) -> float:
    return max((block.throughput_per_s for block in record.kept), default=0.0)


def _exact(state: State, plan: Plan) -> bool:
    return (plan.artifact, plan.precision) == (state.artifact.sha256, "f32")


def _busy(state: State, records: Sequence[Record]) -> float | None:
    """Return the share of the cores' time that loops with a request always waiting computed in."""
    blocks = [block for one in records if one.case.callers > 1 for block in one.kept]
    shares = [block.cpu_s / (block.wall_s * state.host.budget.cores) for block in blocks if block.wall_s > 0]
    return min(1.0, max(shares)) if shares else None


def _moving_s(state: State) -> float:
    """Return how long the copies of one sample take here, seconds: the median of some, caches warm."""
    sample = state.data.measure.rows(0, 1)
    took = []
    for _ in range(9):
        began = time.perf_counter()
        for _ in range(COPIES):
            for array in sample.values():
                np.array(array, copy=True)
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def _weights(state: State) -> int:
    return sum(path.stat().st_size for path in state.artifact.folder.iterdir() if path.is_file())


def _cache(state: State) -> int | None:
    cache = state.host.fingerprint_fields.get("l3_bytes")
    return cache if isinstance(cache, int) else None
