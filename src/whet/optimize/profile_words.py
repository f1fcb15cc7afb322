"""What the profiling process is asked and what it answers."""

import msgspec

from whet.engine.layers import Layer
from whet.host.roofline import Peak
from whet.plan import Plan


class Subject(msgspec.Struct, frozen=True):
    """A plan to look into.

    Attributes:
        artifact: folder of the artifact.
        plan: knobs.
        runs: how often it is run.
    """

    artifact: str
    plan: Plan
    runs: int


class Order(msgspec.Struct, frozen=True):
    """What to look at.

    Attributes:
        chosen: the plan that serves.
        parent: the same knobs over the f32 parent, where the chosen plan is not that itself.
        cores: the peaks are measured on so many threads.
        shapes: shape of one sample by input, for axes the model leaves free.
    """

    chosen: Subject
    parent: Subject | None
    cores: int
    shapes: dict[str, tuple[int, ...]] = {}


class Profile(msgspec.Struct, frozen=True):
    """What was seen.

    Attributes:
        layers: executed layers of the chosen plan, slowest first, at its largest batch.
        parent: those of the f32 parent, empty where there is none.
        flops: floating-point operations of one sample, two a multiply-add, by artifact; lacks what cannot be counted.
        peaks: GFLOP/s this host reaches, by precision.
        bandwidth: GB/s this host reads, or None.
        unseen: what could not be told, and why.
    """

    layers: list[Layer]
    parent: list[Layer]
    flops: dict[str, float]
    peaks: dict[str, Peak]
    bandwidth: Peak | None
    unseen: list[str]
