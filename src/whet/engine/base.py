"""The contract between Whet and a runtime: read this file, and nothing else, to add one.

A :class:`Runtime` opens an artifact under a plan and returns a :class:`Session`. A session hands out :class:`Slot`
objects; a slot is one batch's place: its inputs are filled in place on the event loop, then a lane (a thread of the
engine) calls ``run``, which computes without the GIL and returns when the outputs are there. A runtime that computes on
threads of its own may offer :class:`SelfRunning` slots instead, which need no thread of ours. Sessions never queue,
batch, pad, time or start threads: that is the engine's work, the same in ``serve``, in a trial and in a video pipeline.
Why, by measurement: ``docs/decisions/0002-lanes.md`` and ``0013-openvino-threads.md``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from whet.models.artifact import Artifact, OutputStep
from whet.plan import Effective, Plan
from whet.tensors import Array, TensorSpec


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
        options: switches worth searching, name -> values, the default first; no values where they are free-form.
        version: of the library.
        devices: values of ``Plan.device``.
        allocators: values of ``Plan.allocator`` it runs under.
    """

    formats: frozenset[str]
    precisions: frozenset[str]
    pinning: bool
    openmp: bool
    fuses_images: bool
    isa_ceilings: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    version: str
    devices: tuple[str, ...] = ("CPU",)
    allocators: tuple[str, ...] = ("default", "jemalloc", "tcmalloc")


class Slot(Protocol):
    """One batch's place in a session. Used by one batch at a time; not thread-safe."""

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Array]:
        """Return writable C-contiguous arrays of exactly ``shapes``, the inputs of the next ``run``.

        Runs on the loop. Memory is reused where shapes repeat; the caller fills every element.
        """

    def run(self) -> None:
        """Compute, without the GIL, and return when ``outputs`` is ready. Runs on a lane.

        Raises:
            Exception: whatever the library raises; the engine maps and logs it.
        """

    def outputs(self) -> Mapping[str, Array]:
        """Return the outputs of the last ``run``; the arrays are valid until the next ``prepare``."""


@runtime_checkable
class SelfRunning(Slot, Protocol):
    """A slot that its runtime computes on a thread of its own. All slots of a session are of one kind."""

    def start(self, done: Callable[[], None]) -> None:
        """Begin to compute and return; ``done`` is called on any thread if it went well, and must not raise."""

    def over(self) -> bool:
        """Return whether nothing computes and ``done`` has returned, or raise what the run raised."""


class Session(Protocol):
    """A model compiled under a plan. Slots of one session may ``run`` at the same time on different threads.

    Attributes:
        inputs: what ``prepare`` takes: the service's inputs when preprocessing is fused, else the net's.
        outputs: the net's outputs, in names and order of ``Slot.outputs``.
        post: steps of ``Artifact.post`` that are not in the graph; the engine runs them.
        effective: settings read back from the runtime after compiling.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    post: tuple[OutputStep, ...]
    effective: Effective

    def slot(self) -> Slot:
        """Return a new slot; slots of one session share its weights. At most ``plan.streams`` run at the same time."""

    def close(self) -> None:
        """Free the memory. No slot runs when this is called."""


class Runtime(Protocol):
    """A library that executes models. One instance per process; constructing it imports the library.

    Raises:
        MissingExtra: (constructor) the library is not installed; names the extra.
    """

    def capabilities(self) -> Capabilities:
        """Return what it can honour on this host, asked of the library where the library knows."""

    def open(self, artifact: Artifact, plan: Plan, cache_dir: Path | None = None) -> Session:
        """Compile ``artifact`` for every size in ``plan.batch_sizes``; ``cache_dir`` may keep what was compiled.

        Raises:
            PlanRefused: a knob it cannot honour, or whose read-back differs from what was asked.
            Unsupported: the model holds an operator it does not have.
            RuntimeFailed: the library raised anything else.
        """
