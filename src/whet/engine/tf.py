"""TensorFlow, for SavedModels: for models no other runtime takes, and for baselines."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whet.engine.base import Capabilities
from whet.engine.legal import refuse_illegal
from whet.errors import MissingExtra, PlanRefused, RuntimeFailed, Unsupported
from whet.models.artifact import Artifact
from whet.plan import Effective, Plan
from whet.tensors import Array

log = logging.getLogger("whet.engine")

SERVE = "serving_default"
"""Signature that is run unless the plan's option ``signature`` names another."""


class TensorFlow:
    """The runtime; see :class:`whet.engine.base.Runtime`."""

    def __init__(self) -> None:
        try:
            import tensorflow as tf
        except ImportError as error:
            raise MissingExtra("TensorFlow", "tensorflow") from error
        self.tf: Any = tf

    def capabilities(self) -> Capabilities:
        """See :class:`whet.engine.base.Runtime`."""
        return Capabilities(
            formats=frozenset({"savedmodel"}),
            precisions=frozenset({"f32"}),
            pinning=False,
            openmp=False,
            fuses_images=False,
            isa_ceilings=(),
            options={
                "signature": (),
                "defaults": ("0", "1"),  # what is compared with, never searched
            },
            version=self.tf.__version__,
        )

    def open(self, artifact: Artifact, plan: Plan, cache_dir: Path | None = None) -> "TensorFlowSession":  # noqa: ARG002
        """See :class:`whet.engine.base.Runtime`.

        TensorFlow's thread pools belong to the process and are sized once, before its first operation: a second model
        that wants another size is refused.
        """
        refuse_illegal("TensorFlow", self.capabilities(), artifact, plan)
        threads = min(plan.compute_threads, len(os.sched_getaffinity(0)))
        if plan.option("defaults", "0") == "0":  # a baseline leaves the choice to the library
            self._size_pools(threads, plan.streams)
        folder = artifact.path if artifact.path.is_dir() else artifact.folder
        try:
            loaded = self.tf.saved_model.load(str(folder))
        except Exception as error:
            log.exception("TensorFlow cannot open artifact %s", artifact.sha256[:12])
            raise RuntimeFailed("TensorFlow cannot open this SavedModel; its words are in the log") from error
        name = plan.option("signature", SERVE)
        if name not in loaded.signatures:
            raise Unsupported(f"this SavedModel has no signature '{name}'; it has {', '.join(loaded.signatures)}")
        return TensorFlowSession(self.tf, (loaded, loaded.signatures[name]), artifact, plan)

    def _size_pools(self, threads: int, streams: int) -> None:
        pools = self.tf.config.threading
        if (made := pool_threads(self.tf)) == threads:
            return
        try:
            pools.set_intra_op_parallelism_threads(threads)
            pools.set_inter_op_parallelism_threads(streams)
        except RuntimeError as error:
            raise PlanRefused(
                f"TensorFlow computes with {made} threads in this process, the plan wants {threads}; "
                "serve the two models by different servers, or give both plans the same threads"
            ) from error


def pool_threads(tf: Any) -> int:
    """Return the threads of TensorFlow's compute pool; left unset it makes one for each core of the mask."""
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))


class TensorFlowSession:
    """See :class:`whet.engine.base.Session`. One function, called from several lanes."""

    def __init__(self, tf: Any, model: tuple[Any, Any], artifact: Artifact, plan: Plan) -> None:
        self.tf = tf
        self._loaded, self.function = model  # a signature does not keep its variables alive
        self.inputs = artifact.inputs
        self.outputs = artifact.outputs
        self.post = artifact.post
        made = pool_threads(tf)
        raw = {"intra_op": str(made), "inter_op": str(tf.config.threading.get_inter_op_parallelism_threads())}
        self.effective = Effective("f32", min(plan.streams, len(os.sched_getaffinity(0))), made, raw)
        _, takes = self.function.structured_input_signature
        self.names = {spec.name: _matching(spec.name, list(takes)) for spec in artifact.inputs}
        self.gives = {spec.name: _matching(spec.name, list(self.function.structured_outputs)) for spec in self.outputs}

    def slot(self) -> "TensorFlowSlot":
        """See :class:`whet.engine.base.Session`."""
        return TensorFlowSlot(self)

    def close(self) -> None:
        """See :class:`whet.engine.base.Session`."""
        self._loaded = self.function = None


def _matching(name: str, known: list[str]) -> str:
    """Return the signature's own name for ``name``, which may carry TensorFlow's ``:0`` or a prefix.

    Raises:
        Unsupported: there is none.
    """
    bare = name.partition(":")[0]
    for candidate in (name, bare, bare.removeprefix(f"{SERVE}_")):
        if candidate in known:
            return candidate
    if len(known) == 1:
        return known[0]
    raise Unsupported(f"the signature has no tensor '{name}'; it has {', '.join(known)}")


class TensorFlowSlot:
    """See :class:`whet.engine.base.Slot`."""

    def __init__(self, session: TensorFlowSession) -> None:
        self._session = session
        self._dtypes = {spec.name: spec.dtype for spec in session.inputs}
        self._shapes: Mapping[str, tuple[int, ...]] | None = None
        self._arrays: dict[str, Array] = {}
        self._results: Any = None

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        if shapes is not self._shapes:
            self._arrays = {name: np.zeros(shape, self._dtypes[name]) for name, shape in shapes.items()}
            self._shapes = shapes
        return self._arrays

    def run(self) -> None:
        """See :class:`whet.engine.base.Slot`."""
        session = self._session
        feeds = {session.names[name]: session.tf.constant(array) for name, array in self._arrays.items()}
        self._results = session.function(**feeds)

    def outputs(self) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        session = self._session
        return {spec.name: np.asarray(self._results[session.gives[spec.name]].numpy()) for spec in session.outputs}
