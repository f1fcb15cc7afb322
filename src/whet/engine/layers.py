"""Where a net's time goes: the layers the runtime really executes, their precision and their time."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.engine import load_runtime
from whet.errors import RuntimeFailed
from whet.models.artifact import Artifact
from whet.plan import Plan
from whet.tensors import DYNAMIC

WARM_RUNS = 3
_SHORT = {"i8": "int8", "u8": "uint8", "i32": "int32", "i64": "int64", "boolean": "bool"}
_SKIPPED = {"Input", "Output", "Constant", "Const", "Parameter", "Result"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One executed layer (the runtime fuses several of the net's into one).

    Attributes:
        name: the runtime's name for it, usually that of the last fused node.
        type: what it is: ``Convolution``, ``FullyConnected``, ``Reorder``, ...
        precision: in which it is executed: ``f32``, ``bf16``, ``int8``, ...
        time_ms: median wall time of one run, milliseconds, on one stream with the plan's threads.
        share: part of the sum of all layers, 0 to 1.
    """

    name: str
    type: str
    precision: str
    time_ms: float
    share: float


def profile_layers(artifact: Artifact, plan: Plan, runs: int = 20) -> list[Layer]:
    """Compile ``artifact`` once more with counters, run it on zeros, and return its executed layers, slowest first.

    One stream is profiled, at the plan's largest batch; counters cost a little, so the sum is not the plan's latency.
    Variable axes are set to 8.

    Raises:
        RuntimeFailed: the plan's runtime is not one that tells (OpenVINO and ONNX Runtime do).
    """
    if plan.runtime == "onnxruntime":
        from whet.engine.ort_layers import profile_ort

        return _shared(profile_ort(artifact, plan, runs))
    if plan.runtime != "openvino":
        raise RuntimeFailed(
            f"runtime {plan.runtime} does not tell the time of its layers; profile an openvino or onnxruntime plan"
        )
    from whet.engine.ov import OpenVINO

    runtime = load_runtime("openvino")
    assert isinstance(runtime, OpenVINO)
    model, inputs, _ = runtime.read(artifact, plan)
    size = plan.max_batch if artifact.batched else None
    compiled = runtime.compile(model, inputs, size, plan.with_(streams=1), {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    for spec in inputs:
        shape = spec.shape if size is None else spec.with_batch(size)
        fixed = tuple(8 if dim == DYNAMIC else dim for dim in shape)
        request.set_tensor(spec.name, runtime.ov.Tensor(np.zeros(fixed, spec.dtype)))
    micros: dict[str, list[float]] = {}
    for run in range(WARM_RUNS + runs):
        request.infer()
        if run >= WARM_RUNS:
            for info in request.get_profiling_info():
                micros.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1e6)
    return _layers(compiled.get_runtime_model(), micros)


def _layers(graph: Any, micros: dict[str, list[float]]) -> list[Layer]:
    found = []
    for node in graph.get_ops():
        told = {
            key: str(value.value if hasattr(value, "value") else value) for key, value in node.get_rt_info().items()
        }
        kind = told.get("layerType", node.get_type_name())
        times = micros.get(node.get_friendly_name(), [])
        if kind in _SKIPPED or not times:
            continue
        precision = told.get("runtimePrecision") or _from_primitive(told.get("primitiveType", ""))
        found.append((node.get_friendly_name(), kind, _SHORT.get(precision, precision), float(np.median(times)) / 1e3))
    return _shared(found)


def _shared(found: list[tuple[str, str, str, float]]) -> list[Layer]:
    """Return layers with their share of the whole, slowest first."""
    total = sum(time for *_, time in found) or 1.0
    layers = [Layer(name, kind, precision, time, time / total) for name, kind, precision, time in found]
    return sorted(layers, key=lambda layer: -layer.time_ms)


def _from_primitive(primitive: str) -> str:
    """Return the precision at the end of a name such as ``brgconv_avx512_core_vnni_I8``."""
    match = re.search(r"_(I8|U8|BF16|FP16|FP32|F32)$", primitive)
    return {"FP32": "f32", "FP16": "f16"}.get(match[1], match[1].lower()) if match else "unknown"
