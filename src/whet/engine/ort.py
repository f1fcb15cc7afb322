"""ONNX Runtime on the CPU."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whet.engine.base import Capabilities
from whet.engine.legal import refuse_illegal
from whet.errors import EnvironmentLacks, PlanRefused, RuntimeFailed, Unsupported
from whet.models.artifact import Artifact
from whet.plan import Effective, Plan
from whet.tensors import Array, TensorSpec

log = logging.getLogger("whet.engine")

SHAPES_KEPT = 16
"""Input shapes whose arrays a slot keeps, where shapes vary."""
EMBEDDED_LIMIT = 2_000_000_000
"""Bytes a model may have to be rewritten in memory (protobuf ends at 2 GB)."""
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
"""Option ``graph`` -> the library's name of it."""
SWITCHES = {
    "spinning": "session.intra_op.allow_spinning",
    "denormals_as_zero": "session.set_denormal_as_zero",
}
"""Option -> the session's configuration entry."""


class OnnxRuntime:
    """The runtime; see :class:`whet.engine.base.Runtime`."""

    def __init__(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EnvironmentLacks("ONNX Runtime cannot be imported; install it: pip install onnxruntime") from error
        self.ort: Any = onnxruntime

    def capabilities(self) -> Capabilities:
        """See :class:`whet.engine.base.Runtime`."""
        return Capabilities(
            formats=frozenset({"onnx"}),
            precisions=frozenset({"f32"}),
            pinning=False,
            openmp=False,
            fuses_images=True,
            isa_ceilings=(),
            options={
                "spinning": ("1", "0"),
                "graph": tuple(LEVELS),
                "denormals_as_zero": ("0", "1"),
                "defaults": ("0", "1"),  # what is compared with, never searched
            },
            version=self.ort.__version__,
        )

    def open(self, artifact: Artifact, plan: Plan, cache_dir: Path | None = None) -> "OrtSession":  # noqa: ARG002
        """See :class:`whet.engine.base.Runtime`. One session takes every batch size; its streams share the weights."""
        refuse_illegal("ONNX Runtime", self.capabilities(), artifact, plan)
        fused = plan.fused_preprocessing and bool(artifact.images or artifact.post)
        source = _fused(artifact) if fused else str(artifact.path)
        before = _tasks()
        try:
            session = self.ort.InferenceSession(source, self.options(plan), providers=["CPUExecutionProvider"])
        except Exception as error:
            log.exception("ONNX Runtime cannot open artifact %s", artifact.sha256[:12])
            if "NOT_IMPLEMENTED" in str(error) or "not a registered function" in str(error):
                raise Unsupported(
                    "this model holds an operator ONNX Runtime does not have (see the log); try runtime openvino"
                ) from error
            raise RuntimeFailed("ONNX Runtime cannot open this model; its words are in the log") from error
        return OrtSession(session, artifact, plan, _effective(session, plan, _tasks() - before))

    def options(self, plan: Plan) -> Any:
        """Return the session options of ``plan``."""
        options = self.ort.SessionOptions()
        options.log_severity_level = 3
        if plan.option("defaults", "0") == "1":  # a baseline: the library's own choice of everything
            return options
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = pool_size(plan, len(os.sched_getaffinity(0)))
        options.graph_optimization_level = getattr(self.ort.GraphOptimizationLevel, LEVELS[plan.option("graph", "all")])
        for name, entry in SWITCHES.items():
            if plan.option(name):
                options.add_session_config_entry(entry, plan.option(name))
        return options


def pool_size(plan: Plan, cores: int) -> int:
    """Return ``intra_op_num_threads`` such that no more than ``min(plan.compute_threads, cores)`` threads compute.

    The lanes that call ``run`` compute too, beside the pool of ``intra_op_num_threads - 1`` threads they share.
    """
    return max(min(plan.compute_threads, cores) - min(plan.streams, cores), 0) + 1


def _tasks() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _effective(session: Any, plan: Plan, made: int) -> Effective:
    """Describe what runs: threads are counted in ``/proc``, not taken from the options."""
    cores = len(os.sched_getaffinity(0))
    options = session.get_session_options()
    raw = {
        "intra_op_num_threads": str(options.intra_op_num_threads),
        "inter_op_num_threads": str(options.inter_op_num_threads),
        "graph_optimization_level": str(options.graph_optimization_level),
        "providers": ",".join(session.get_providers()),
        "threads_made": str(made),
    }
    streams = min(plan.streams, cores)
    # Other threads of this process may have started meanwhile; the pool has no more than it was given.
    pool = min(max(made, 0), options.intra_op_num_threads - 1)
    return Effective("f32", streams, min(streams + pool, cores), raw)


def _fused(artifact: Artifact) -> bytes:
    """Return the model with its surroundings in the graph, as bytes.

    Raises:
        PlanRefused: too large to be rewritten in memory.
    """
    import onnx

    from whet.models.fuse import fuse_onnx

    size = sum(path.stat().st_size for path in artifact.folder.iterdir() if path.is_file())
    if size > EMBEDDED_LIMIT:
        raise PlanRefused(
            f"a model of {size / 1e9:.1f} GB cannot be rewritten for fused preprocessing; set fused_preprocessing=False"
        )
    fused: bytes = fuse_onnx(onnx.load(artifact.path), artifact).SerializeToString()
    return fused


class OrtSession:
    """See :class:`whet.engine.base.Session`."""

    def __init__(self, session: Any, artifact: Artifact, plan: Plan, effective: Effective) -> None:
        from whet.models.around import split_post

        self.session: Any = session
        self.inputs: tuple[TensorSpec, ...] = artifact.service_inputs if plan.fused_preprocessing else artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs
        self.post = split_post(artifact.post)[1] if plan.fused_preprocessing else artifact.post
        self.effective = effective
        self.names = [output.name for output in session.get_outputs()]

    def slot(self) -> "OrtSlot":
        """See :class:`whet.engine.base.Session`."""
        return OrtSlot(self)

    def close(self) -> None:
        """See :class:`whet.engine.base.Session`."""
        self.session = None


class OrtSlot:
    """See :class:`whet.engine.base.Slot`. Inputs are bound once for each shape; runs read our arrays in place."""

    def __init__(self, session: OrtSession) -> None:
        self._session = session
        self._bound: dict[tuple[tuple[int, ...], ...], tuple[Any, dict[str, Array]]] = {}
        self._shapes: Mapping[str, tuple[int, ...]] | None = None
        self._current: dict[str, Array] = {}
        self._binding: Any = None
        self._results: list[Array] = []

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        if shapes is self._shapes:
            return self._current
        key = tuple(shapes.values())
        found = self._bound.get(key)
        if found is None:
            if len(self._bound) >= SHAPES_KEPT:
                del self._bound[next(iter(self._bound))]
            found = self._bound[key] = self._bind(shapes)
        self._binding, self._current = found
        self._shapes = shapes
        return self._current

    def _bind(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Any, dict[str, Array]]:
        dtypes = {spec.name: spec.dtype for spec in self._session.inputs}
        arrays = {name: np.zeros(shape, dtypes[name]) for name, shape in shapes.items()}
        if any(dtype.hasobject for dtype in dtypes.values()):  # texts cannot be bound: they are handed over each time
            return None, arrays
        binding = self._session.session.io_binding()
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name in self._session.names:
            binding.bind_output(name, "cpu")
        return binding, arrays

    def run(self) -> None:
        """See :class:`whet.engine.base.Slot`."""
        if self._binding is None:
            self._results = self._session.session.run(self._session.names, self._current)
        else:
            self._session.session.run_with_iobinding(self._binding)

    def outputs(self) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        if self._binding is not None:
            self._results = self._binding.copy_outputs_to_cpu()
        return dict(zip(self._session.names, self._results, strict=True))
