"""A runtime that computes nothing: it sleeps as a cost model says and answers a function of its inputs.

For tests of everything above a runtime, for demonstrations, and for measuring what serving costs by itself. Its
switches are options of the plan:

* ``base_us``, ``row_us``: a run of ``n`` rows takes ``base_us + n * row_us`` microseconds, slept without the GIL.
* ``fault``: what goes wrong: ``fail`` (raises), ``rows`` (answers one row too few), ``hang`` (never returns),
  ``segfault`` and ``abort`` (the process dies as it would of a runtime's own bug).
* ``fault_every``: how often, in runs; runs whose inputs begin with zero (as in warm-up) neither fail nor count.
"""

import itertools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from whet.engine.base import Capabilities
from whet.engine.legal import refuse_illegal
from whet.models.artifact import Artifact
from whet.plan import Effective, Plan
from whet.tensors import DYNAMIC, Array, Tensors, TensorSpec

FAULTS = ("none", "fail", "rows", "hang", "segfault", "abort")
"""Values of the option ``fault``."""


def fake_answer(inputs: Tensors, outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return what the fake answers: output ``i`` repeats, row by row, the values of input ``i`` (modulo their number).

    Args:
        inputs: arrays with the batch axis in front.
        outputs: what to answer; variable dimensions become 1. Values are cast to the output's dtype.
    """
    arrays = list(inputs.values())
    answer = {}
    for index, spec in enumerate(outputs):
        source = arrays[index % len(arrays)]
        rows = source.shape[0]
        rest = tuple(1 if dim == DYNAMIC else dim for dim in spec.shape[1:])
        wide = int(np.prod(rest))
        flat = source.reshape(rows, -1)[:, :wide]
        if flat.shape[1] < wide:
            flat = np.tile(flat, -(-wide // flat.shape[1]))[:, :wide]
        answer[spec.name] = flat.astype(spec.dtype).reshape(rows, *rest)
    return answer


class Fake:
    """The runtime. Opens artifacts of format ``fake``, of which only the manifest matters."""

    def capabilities(self) -> Capabilities:
        """See :class:`whet.engine.base.Runtime`."""
        return Capabilities(
            formats=frozenset({"fake"}),
            precisions=frozenset({"f32", "bf16"}),
            pinning=False,
            openmp=False,
            fuses_images=True,
            isa_ceilings=(),
            options={"base_us": (), "row_us": (), "fault": FAULTS, "fault_every": ()},
            version="0",
        )

    def open(self, artifact: Artifact, plan: Plan, cache_dir: Path | None = None) -> "FakeSession":  # noqa: ARG002
        """See :class:`whet.engine.base.Runtime`."""
        refuse_illegal("fake", self.capabilities(), artifact, plan)
        return FakeSession(artifact, plan)


class FakeSession:
    """See :class:`whet.engine.base.Session`."""

    def __init__(self, artifact: Artifact, plan: Plan) -> None:
        self.inputs = artifact.service_inputs if plan.fused_preprocessing else artifact.inputs
        self.outputs = artifact.outputs
        self.post = artifact.post
        self.effective = Effective(plan.precision, plan.streams, plan.compute_threads, {"fake": "a cost model"})
        self.batched = artifact.batched
        self.base_s = float(plan.option("base_us", "0")) / 1e6
        self.row_s = float(plan.option("row_us", "0")) / 1e6
        self.fault = plan.option("fault", "none")
        self.fault_every = int(plan.option("fault_every", "1"))
        self.runs = itertools.count(1)

    def slot(self) -> "FakeSlot":
        """See :class:`whet.engine.base.Session`."""
        return FakeSlot(self)

    def close(self) -> None:
        """See :class:`whet.engine.base.Session`."""


class FakeSlot:
    """See :class:`whet.engine.base.Slot`."""

    def __init__(self, session: FakeSession) -> None:
        self._session = session
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self._inputs: dict[str, Array] = {}
        self._outputs: dict[str, Array] = {}

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        if shapes is not self._shapes:
            dtypes = {spec.name: spec.dtype for spec in self._session.inputs}
            self._inputs = {name: np.zeros(shape, dtypes[name]) for name, shape in shapes.items()}
            self._shapes = shapes
        return self._inputs

    def run(self) -> None:
        """See :class:`whet.engine.base.Slot`."""
        session = self._session
        first = next(iter(self._inputs.values()))
        rows = first.shape[0] if session.batched else 1
        seconds = session.base_s + rows * session.row_s
        if seconds:
            time.sleep(seconds)
        faulty = session.fault != "none" and first.flat[0] != 0 and next(session.runs) % session.fault_every == 0
        if faulty:
            _go_wrong(session.fault)
        inputs = self._inputs if session.batched else {name: array[None] for name, array in self._inputs.items()}
        specs = session.outputs
        if not session.batched:
            specs = tuple(TensorSpec(spec.name, spec.datatype, (1, *spec.shape)) for spec in specs)
        answer = fake_answer(inputs, specs)
        if not session.batched:
            answer = {name: array[0] for name, array in answer.items()}
        elif faulty:
            answer = {name: array[:-1] for name, array in answer.items()}
        self._outputs = answer

    def outputs(self) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        return self._outputs


def _go_wrong(fault: str) -> None:
    if fault == "fail":
        raise ArithmeticError("the fake was told to fail: these words must not reach a client")
    if fault == "hang":
        threading.Event().wait()
    elif fault == "segfault":
        import ctypes

        ctypes.string_at(0)
    elif fault == "abort":
        os.abort()
