"""What a trial process and its parent say to each other: one JSON document a line, commands down, replies up."""

from pathlib import Path
from typing import Any

import msgspec

from whet.plan import Effective, Plan
from whet.tensors import TensorSpec


class Order(msgspec.Struct, frozen=True):
    """What a trial is started with.

    Attributes:
        artifact: folder of the artifact.
        plan: knobs under test.
        pool: folder of the samples to measure with.
        parent: process id of the parent; the trial dies with it.
        started: when the parent started it, seconds of the monotonic clock, which all processes share.
        memory_bytes: the trial may allocate no more than this, or None.
    """

    artifact: Path
    plan: Plan
    pool: Path
    parent: int
    started: float
    memory_bytes: int | None = None


class Block(msgspec.Struct, frozen=True, tag="block", tag_field="do"):
    """Measure in a closed loop: ``callers`` send requests of ``rows`` samples, each as soon as it has its answer."""

    seconds: float
    callers: int
    rows: int = 1


class Rate(msgspec.Struct, frozen=True, tag="rate", tag_field="do"):
    """Measure in an open loop: one-sample requests arrive as a Poisson process of ``qps`` a second."""

    qps: float
    seconds: float
    seed: int


class Evaluate(msgspec.Struct, frozen=True, tag="evaluate", tag_field="do"):
    """Compute every sample of ``pool`` and score it.

    Attributes:
        pool: folder of the evaluation samples.
        metric: name of the metric.
        output: the output that holds class scores, where the metric needs one.
        parent: folder with the f32 parent's outputs, or None when this is the parent.
        save: folder to keep the outputs in, or None.
        limit_s: no new batch is begun after so many seconds; the items done by then are scored.
    """

    pool: Path
    metric: str
    output: str
    parent: Path | None = None
    save: Path | None = None
    limit_s: float = 600.0


Command = Block | Rate | Evaluate


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field="is"):
    """The engine serves.

    Attributes:
        load_ms: from the start of the interpreter to ready, milliseconds.
        rss_mb: resident memory, MB.
        effective: settings read back from the runtime.
        inputs: what a request carries.
        outputs: what an answer carries.
        service_ms: time of a batch by its size, as measured while warming.
    """

    load_ms: float
    rss_mb: float
    effective: Effective
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    service_ms: dict[int, float]


class Measured(msgspec.Struct, frozen=True, tag="measured", tag_field="is"):
    """One block.

    Attributes:
        rows: samples answered.
        wall_s: seconds of the window in which throughput is counted.
        throughput_per_s: samples answered per second of that window.
        latencies_ms: of every answered request; in an open loop from its intended start.
        cpu_s: CPU seconds of the process.
        rss_mb: resident memory afterwards, MB.
        errors: requests that failed, by slug.
        batches: batches computed, by their rows.
    """

    rows: int
    wall_s: float
    throughput_per_s: float
    latencies_ms: list[float]
    cpu_s: float
    rss_mb: float
    errors: dict[str, int] = {}
    batches: dict[int, int] = {}


class Scored(msgspec.Struct, frozen=True, tag="scored", tag_field="is"):
    """An evaluation.

    Attributes:
        scores: of the items in the pool's order, from the first on, in [0, 1], higher is better.
        noise: noise-to-signal ratio of every item against the parent, by output; empty without a parent.
    """

    scores: list[float]
    noise: dict[str, list[float]] = {}


class Failed(msgspec.Struct, frozen=True, tag="failed", tag_field="is"):
    """Something went wrong.

    Attributes:
        slug: of the error.
        reason: its message.
    """

    slug: str
    reason: str


Reply = Ready | Measured | Scored | Failed

_ORDER = msgspec.json.Decoder(Order, dec_hook=lambda kind, value: kind(value))
_COMMAND = msgspec.json.Decoder(Command, dec_hook=lambda kind, value: kind(value))
_REPLY = msgspec.json.Decoder(Reply)


def encode(message: Order | Command | Reply) -> bytes:
    """Return the line that says ``message``."""
    return msgspec.json.encode(message, enc_hook=str) + b"\n"


def decode_order(line: bytes) -> Order:
    """Return the order in a line."""
    return _ORDER.decode(line)


def decode_command(line: bytes) -> Command:
    """Return the command in a line."""
    found: Any = _COMMAND.decode(line)
    return found  # type: ignore[no-any-return]


def decode_reply(line: bytes) -> Reply:
    """Return the reply in a line.

    Raises:
        msgspec.DecodeError: it is none.
    """
    found: Any = _REPLY.decode(line)
    return found  # type: ignore[no-any-return]
