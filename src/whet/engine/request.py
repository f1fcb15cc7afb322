"""The values that cross the engine: a caller's question, its answer with its timing, and the engine's counters."""

from collections.abc import Callable
from dataclasses import dataclass, field

from whet.errors import WhetError
from whet.tensors import Array, Tensors

NS = 1_000_000_000
"""Nanoseconds in a second."""

WAITING, STARTED, SETTLED = 0, 1, 2
"""States of a request: some rows wait; every row is being computed; answered, refused, failed or left."""

EDGES_NS: tuple[int, ...] = tuple(int(10_000 * 1.6**step) for step in range(32))
"""Upper edges of the duration histograms, nanoseconds: 10 us to about 21 s in steps of 1.6; one more bucket follows."""


@dataclass(slots=True)
class Timing:
    """How long each stage took, nanoseconds. Headers, metrics and spans are printed from this record alone.

    Attributes:
        queue_ns: from submission until its first row began to be computed.
        compute_ns: in the runtime; for a request split over several batches, from the first start to the last end.
        decode_ns: what the transport spent before submission.
        encode_ns: what the transport spent after the answer; the transport fills it in.
        batch: rows computed together (the largest batch, for a split request), without padding.
        padded: rows of padding beside them.
    """

    queue_ns: int
    compute_ns: int
    decode_ns: int = 0
    encode_ns: int = 0
    batch: int = 1
    padded: int = 0


@dataclass(slots=True, eq=False)
class Answer:
    """What a request gets: one array an output, with exactly the request's rows, and the timing."""

    outputs: dict[str, Array]
    timing: Timing


@dataclass(slots=True, eq=False)
class Request:
    """One caller's question. The fields after ``decode_ns`` belong to the engine.

    Attributes:
        inputs: arrays with the batch axis in front (rows >= 1) where the model has one; read-only views are fine. They
            must stay alive and unchanged until ``done`` is called.
        done: called exactly once, on the loop's thread, with the answer or the error; never after ``cancel``.
        rows: rows of the batch axis; filled by ``submit``.
        deadline: absolute, seconds of ``time.monotonic()``; None for the plan's default.
        priority: 0 is served first; classes past the last one count as the last.
        decode_ns: what the transport spent before submission.
        arrived: when it was submitted, seconds of ``time.monotonic()``.
        shapes: shapes without the batch axis, where the model's vary; only equal ones share a batch.
        taken: rows given to batches so far.
        answered: rows answered so far.
        began: when its first batch began, or 0.
        state: :data:`WAITING`, :data:`STARTED` or :data:`SETTLED`.
        probe: admitted against the estimate, to measure again.
        promised: when compute times alone said that the answer would be there, or 0 for a request without a deadline
            or one that found the engine idle.
        parts: answers of a split request, joined when the last one is there.
    """

    inputs: Tensors
    done: Callable[[Answer | WhetError], None]
    rows: int = 1
    deadline: float | None = None
    priority: int = 0
    decode_ns: int = 0
    arrived: float = field(default=0.0, init=False)
    shapes: object = field(default=None, init=False)
    taken: int = field(default=0, init=False)
    answered: int = field(default=0, init=False)
    began: float = field(default=0.0, init=False)
    state: int = field(default=WAITING, init=False)
    probe: bool = field(default=False, init=False)
    promised: float = field(default=0.0, init=False)
    parts: list[tuple[int, Answer]] | None = field(default=None, init=False)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of an engine's counters since it opened.

    Attributes:
        accepted: requests admitted to the queue.
        answered: requests answered.
        failed: requests that the runtime failed.
        refused: slug of the error -> requests refused (``queue-full``, ``deadline-exceeded``, ``cancelled``, ...).
        batches: rows in a batch, without padding -> how many were computed.
        padded_rows: rows computed for nothing.
        queued: rows waiting now.
        in_flight: batches prepared or computing now.
        lanes: batches that can be computed at the same time.
        lane_busy_ns: nanoseconds the lanes spent computing, summed; utilisation is this over ``lanes`` x wall time.
        service_ms: batch size -> current estimate of one batch's compute time, milliseconds.
        queue_ns_sum: sum of ``Timing.queue_ns`` over answered requests.
        compute_ns_sum: sum of ``Timing.compute_ns`` over answered requests.
        queue_histogram: answered requests per bucket of :data:`EDGES_NS` (and one past the last) by time in the queue.
        compute_histogram: the same by compute time.
    """

    accepted: int
    answered: int
    failed: int
    refused: dict[str, int]
    batches: dict[int, int]
    padded_rows: int
    queued: int
    in_flight: int
    lanes: int
    lane_busy_ns: int
    service_ms: dict[int, float]
    queue_ns_sum: int
    compute_ns_sum: int
    queue_histogram: tuple[int, ...]
    compute_histogram: tuple[int, ...]
