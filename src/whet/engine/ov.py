"""OpenVINO. Facts this file is built around are measured by ``tests/engine/test_ov.py`` and told beside the code."""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from whet.engine.base import Capabilities
from whet.engine.cache import BlobCache, key_of
from whet.engine.environment import ISA_VARIABLE, isa_ceilings
from whet.engine.legal import refuse_illegal
from whet.engine.ov_graph import fix_batch, fuse
from whet.engine.ov_slots import OpenVINOSlot, StartedSlot
from whet.errors import EnvironmentLacks, PlanRefused, RuntimeFailed, TensorError
from whet.models.artifact import Artifact, OutputStep
from whet.plan import PRECISIONS, Effective, Plan
from whet.quiet import silence_telemetry
from whet.settings import environ
from whet.tensors import DYNAMIC, Array, TensorSpec

log = logging.getLogger("whet.engine")

FITTING_KEPT = 10_000
"""Shapes remembered as fitting a net with variable axes."""
Kept = tuple[BlobCache, str, "Future[Path | None]"]
"""Where a compiled model is kept, under which key, and its folder once it is verified (None if there is none)."""
_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_READ_BACK = (
    "NUM_STREAMS",
    "INFERENCE_NUM_THREADS",
    "INFERENCE_PRECISION_HINT",
    "ENABLE_CPU_PINNING",
    "EXECUTION_DEVICES",
    "OPTIMAL_NUMBER_OF_INFER_REQUESTS",
    "LOADED_FROM_CACHE",
)


class OpenVINO:
    """The runtime; see :class:`whet.engine.base.Runtime`."""

    def __init__(self) -> None:
        silence_telemetry()
        try:
            import openvino
        except ImportError as error:
            raise EnvironmentLacks("OpenVINO cannot be imported; install it: pip install openvino") from error
        self.ov: Any = openvino
        self.core: Any = openvino.Core()
        self._able: Capabilities | None = None

    def capabilities(self) -> Capabilities:
        """See :class:`whet.engine.base.Runtime`. Precisions are tried: the library lists some it then cannot run."""
        if self._able is None:
            self._able = self._describe(name for name in PRECISIONS if self._runs_in(name))
        return self._able

    def _describe(self, precisions: Iterable[str]) -> Capabilities:
        return Capabilities(
            formats=frozenset({"onnx", "ir"}),
            precisions=frozenset(precisions),
            pinning=True,
            openmp=False,
            fuses_images=True,
            isa_ceilings=isa_ceilings(),
            options={
                "CPU_DENORMALS_OPTIMIZATION": ("NO", "YES"),
                "ENABLE_CPU_RESERVATION": ("NO", "YES"),
                "defaults": ("no", "throughput", "latency"),  # what is compared with, never searched
            },
            version=self.ov.__version__.split("-")[0],
            devices=tuple(self.core.available_devices),
            # Under a preloaded jemalloc compile_model aborts, "munmap_chunk(): invalid pointer" (2026.4.1, 5.3.0).
            allocators=("default", "tcmalloc"),
        )

    def open(self, artifact: Artifact, plan: Plan, cache_dir: Path | None = None) -> "OpenVINOSession":
        """See :class:`whet.engine.base.Runtime`."""
        # f32 runs everywhere: a server that starts does not wait for the other precisions to be tried.
        able = self._describe(("f32",)) if plan.precision == "f32" and self._able is None else self.capabilities()
        refuse_illegal("OpenVINO", able, artifact, plan)
        refuse_other_isa(plan, environ())
        try:
            sizes: tuple[int | None, ...] = plan.batch_sizes
            if plan.dynamic_batch or not artifact.batched:
                sizes = (None,)
            with ThreadPoolExecutor(1) as verifier:  # checksums are computed while the graph is read
                kept = (
                    {} if cache_dir is None else self._look(cache_dir / "openvino", artifact, plan, (sizes, verifier))
                )
                model, inputs, rest = self.read(artifact, plan)
                compiled = {size: self._compile(fix_batch(model, inputs, size), plan, kept.get(size)) for size in sizes}
        except RuntimeError as error:
            log.exception("OpenVINO cannot compile artifact %s", artifact.sha256[:12])
            raise RuntimeFailed(f"OpenVINO cannot compile this model under {plan}: {_reason(error)}") from error
        session = OpenVINOSession(self.ov, (inputs, artifact.outputs, rest), compiled, self._effective(compiled, plan))
        if any(DYNAMIC in spec.shape[1 if artifact.batched else 0 :] for spec in inputs):
            session.graph = model
        return session

    def read(self, artifact: Artifact, plan: Plan) -> tuple[Any, tuple[TensorSpec, ...], tuple[OutputStep, ...]]:
        """Return the graph (with its surroundings, where the plan fuses them), its inputs, and the steps left out."""
        model = self.core.read_model(artifact.path)
        if not plan.fused_preprocessing:
            return model, artifact.inputs, artifact.post
        return model, artifact.service_inputs, fuse(self.ov, model, artifact)

    def compile(self, model: Any, inputs: tuple[TensorSpec, ...], size: int | None, plan: Plan, more: Any) -> Any:
        """Compile one batch size with ``more`` settings than the plan's, without a cache: for looking inside."""
        return self.core.compile_model(fix_batch(model, inputs, size), plan.device, {**settings_for(plan), **more})

    def _look(
        self, folder: Path, artifact: Artifact, plan: Plan, how: tuple[tuple[int | None, ...], ThreadPoolExecutor]
    ) -> dict[int | None, Kept]:
        """Begin to look for the compiled model of each batch size."""
        sizes, verifier = how
        cache, found = BlobCache(folder), {}
        inputs = artifact.service_inputs if plan.fused_preprocessing else artifact.inputs
        for size in sizes:
            key = key_of(
                {
                    "artifact": artifact.sha256,
                    "fused": plan.fused_preprocessing,
                    "batch": size,
                    "inputs": [(spec.name, spec.datatype, spec.shape) for spec in inputs],
                    "device": plan.device,
                    "config": settings_for(plan),
                    "version": self.ov.__version__,
                    "isa": f"{self.core.get_property(plan.device, 'FULL_DEVICE_NAME')} {isa_ceilings()}",
                    "ceiling": environ().get(ISA_VARIABLE, ""),
                }
            )
            found[size] = cache, key, verifier.submit(cache.find, key)
        return found

    def _compile(self, model: Any, plan: Plan, kept: Kept | None) -> Any:
        config = settings_for(plan)
        if kept is None:
            return self.core.compile_model(model, plan.device, config)
        cache, key, found = kept
        compiled: list[Any] = []

        def compile_into(place: Path | None) -> None:
            where = {} if place is None else {"CACHE_DIR": str(place), "CACHE_MODE": "OPTIMIZE_SPEED"}
            compiled.append(self.core.compile_model(model, plan.device, {**config, **where}))

        folder = found.result()
        if folder is None:
            cache.write(key, compile_into)
        else:
            compile_into(folder)
            if not compiled[0].get_property("LOADED_FROM_CACHE"):
                log.warning("OpenVINO did not take the cached model %s and compiled anew", key[:12])
        return compiled[0]

    def _effective(self, compiled: Mapping[int | None, Any], plan: Plan) -> Effective:
        """Read the settings back from the last compilation.

        Raises:
            PlanRefused: the precision is not the one asked for (an ``f16`` hint silently becomes bf16, for example).
        """
        last = list(compiled.values())[-1]
        raw: dict[str, str] = {}
        for name in _READ_BACK:
            try:
                value = last.get_property(name)
            except RuntimeError:  # other devices know other properties
                continue
            raw[name] = value.get_type_name() if hasattr(value, "get_type_name") else str(value)
        ceiling = environ().get(ISA_VARIABLE)
        if ceiling:
            raw[ISA_VARIABLE] = ceiling
        precision = _precision(last)
        if precision != plan.precision:
            raise PlanRefused(
                f"plan asks for precision {plan.precision}, OpenVINO runs {precision} on {plan.device}; ask for that"
            )
        streams = int(raw.get("NUM_STREAMS", plan.streams))
        return Effective(precision, streams, int(raw.get("INFERENCE_NUM_THREADS", 0)), raw)

    def _runs_in(self, precision: str) -> bool:
        """Tell whether a net compiles and reads back in ``precision`` (bf16 under an AVX2 ceiling fails, say)."""
        from openvino import opset13 as ops

        entry = ops.parameter([1, 16], np.float32, "x")
        weights = np.zeros((16, 16), np.float32)
        net = self.ov.Model([ops.matmul(entry, weights, transpose_a=False, transpose_b=False)], [entry], "probe")
        hints = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
        try:
            return _precision(self.core.compile_model(net, "CPU", {**hints, "ENABLE_CPU_PINNING": False})) == precision
        except RuntimeError:
            return False


def settings_for(plan: Plan) -> dict[str, Any]:
    """Return the compile settings of ``plan``.

    Everything is explicit: left alone, OpenVINO would choose bf16, pin its threads, and size itself by the machine.
    Pins of two models of one process land on the same cores, so pinning is off unless the plan wants it.
    """
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": plan.precision}
    hint = plan.option("defaults", "no")
    if hint != "no":  # a baseline: the library's own choice of everything else
        return {**config, "PERFORMANCE_HINT": hint.upper()}
    if plan.device == "CPU":
        config |= {
            "NUM_STREAMS": plan.streams,
            "INFERENCE_NUM_THREADS": plan.compute_threads,
            "ENABLE_CPU_PINNING": plan.pinning,
        }
    config.update(plan.options)
    return config


def refuse_other_isa(plan: Plan, env: Mapping[str, str]) -> None:
    """Raise unless the process runs under the plan's ceiling, which only its environment at start can set.

    Raises:
        PlanRefused: it does not.
    """
    if plan.isa_ceiling is not None and env.get(ISA_VARIABLE) != plan.isa_ceiling:
        raise PlanRefused(
            f"plan wants {ISA_VARIABLE}={plan.isa_ceiling}, this process started with "
            f"{env.get(ISA_VARIABLE, 'none')}; start it with that in its environment"
        )


def _precision(compiled: Any) -> str:
    kind = compiled.get_property("INFERENCE_PRECISION_HINT")
    name = kind.to_string() if hasattr(kind, "to_string") else str(kind)
    return next((short for long, short in _NAMES.items() if name in {long, short} or long in str(kind)), name)


def _reason(error: BaseException) -> str:
    """Return a short word on why a compile failed; the library's own words span screens and go to the log."""
    text = str(error)
    if "Unsupported operations" in text or "not supported" in text or "Cannot create" in text:
        return "it holds an operation OpenVINO does not have; try runtime onnxruntime"
    return "its words are in the log"


class OpenVINOSession:
    """See :class:`whet.engine.base.Session`."""

    def __init__(
        self,
        ov: Any,
        sides: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[OutputStep, ...]],
        compiled: dict[int | None, Any],
        effective: Effective,
    ) -> None:
        self.inputs, self.outputs, self.post = sides
        self.effective = effective
        self.ov = ov
        self.compiled = compiled
        # The C++ call beneath the wrapper: nothing to dispatch, and outputs come as views instead of copies.
        beneath: Any = ov.InferRequest.__mro__[1]
        self.infer, self.start = beneath.infer, beneath.start_async
        last = next(iter(compiled.values()))
        self.names = [_name_of(port, self.outputs) for port in last.outputs]

        self.graph: Any = None
        self._fitting: set[tuple[tuple[int, ...], ...]] = set()

    def slot(self) -> "OpenVINOSlot":
        """See :class:`whet.engine.base.Session`."""
        # Where axes vary, shapes are tried before a run, which takes too long for the loop: a lane's thread does it.
        return OpenVINOSlot(self) if self.graph is not None else StartedSlot(self)

    def close(self) -> None:
        """See :class:`whet.engine.base.Session`."""
        self.compiled.clear()
        self.graph = None

    def refuse_misfit(self, arrays: Mapping[str, Array]) -> None:
        """Raise unless the net can take these shapes; tried once a shape, on a copy of the graph without weights.

        Where an axis is variable OpenVINO does not look at run time: it reads past the end of the input, and may crash.

        Raises:
            TensorError: no shape of the net's tensors follows from these.
        """
        shapes = {name: array.shape for name, array in arrays.items()}
        key = tuple(shapes.values())
        if self.graph is None or key in self._fitting:
            return
        copy = self.graph.clone()
        try:
            copy.reshape({copy.input(name): list(shape) for name, shape in shapes.items()})
        except RuntimeError as error:
            log.info("shapes %s do not fit", shapes, exc_info=error)
            raise TensorError(
                f"inputs of shapes {shapes} do not fit this model, although its axes are variable"
            ) from error
        if len(self._fitting) >= FITTING_KEPT:
            self._fitting.clear()
        self._fitting.add(key)


def _name_of(port: Any, specs: tuple[TensorSpec, ...]) -> str:
    """Return the artifact's name for a port, whose tensor may have several."""
    names = port.get_names()
    return next((spec.name for spec in specs if spec.name in names), port.get_any_name() if names else "")
