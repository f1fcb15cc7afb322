"""The contract between Whet and a runtime: read this file, and nothing else, to add one.

A :class:`Runtime` opens an artifact under a plan and returns a :class:`Session`. A session hands out
:class:`Slot` objects; a slot is one batch's place: its inputs are filled in place, ``start`` returns at once, and the
runtime calls ``done`` on a thread of its own when the outputs are there. Sessions never queue, batch, pad or time
anything: that is the engine's work, the same in ``serve``, in a trial and in a video pipeline.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from whet.models.artifact import Artifact
from whet.plan import Effective, Plan
from whet.tensors import Array, TensorSpec

Done = Callable[[BaseException | None], None]
"""Called exactly once per ``start``, on a thread of the runtime: ``None``, or what went wrong."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runtime can honour on this host; the search proposes nothing else.

    Attributes:
        formats: artifact formats it opens.
        precisions: precisions of float layers that read back as asked.
        pinning: it can pin its own threads.
        openmp: its compute threads are OpenMP threads.
        fuses_images: it can run :class:`whet.models.artifact.ImageInput` inside its graph.
        isa_ceilings: values of ``Plan.isa_ceiling`` it obeys, lowest first.
        options: runtime switches worth searching: name -> values; the first value is the runtime's default.
        version: of the library.
    """

    formats: frozenset[str]
    precisions: frozenset[str]
    pinning: bool
    openmp: bool
    fuses_images: bool
    isa_ceilings: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    version: str


class Slot(Protocol):
    """One batch's place in a session. Used by one batch at a time; not thread-safe."""

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Array]:
        """Return writable C-contiguous arrays of exactly ``shapes``, the inputs of the next ``start``.

        Memory is reused from call to call where shapes repeat; the caller fills every element.
        """
        ...

    def start(self, done: Done) -> None:
        """Begin computing and return at once. Raises nothing: a failure reaches ``done``."""
        ...

    def outputs(self) -> Mapping[str, Array]:
        """Return the outputs of the last finished ``start``; the arrays are valid until the next ``prepare``."""
        ...


class Session(Protocol):
    """A model compiled under a plan. Thread-safe; owns its compute threads.

    Attributes:
        inputs: what ``prepare`` takes: the service's inputs when preprocessing is fused, else the net's.
        outputs: what ``Slot.outputs`` gives.
        effective: settings read back from the runtime after compiling.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    effective: Effective

    def slot(self) -> Slot:
        """Return a new slot. Slots of one session share its weights. ``plan.streams + 1`` of them keep it busy."""
        ...

    def close(self) -> None:
        """Free the memory. No slot is in flight when this is called."""
        ...


class Runtime(Protocol):
    """A library that executes models. One instance per process; constructing it imports the library.

    Raises:
        MissingExtra: (constructor) the library is not installed; names the extra.
    """

    def capabilities(self) -> Capabilities:
        """Return what it can honour on this host, asked of the library where the library knows."""
        ...

    def open(self, artifact: Artifact, plan: Plan) -> Session:
        """Compile ``artifact`` for every size in ``plan.batch_sizes`` and return the session.

        Raises:
            PlanRefused: a knob it cannot honour, or whose read-back differs from what was asked.
            Unsupported: the model holds an operator it does not have.
            RuntimeFailed: the library raised anything else.
        """
        ...
