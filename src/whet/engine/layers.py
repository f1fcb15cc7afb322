"""Where a net's time goes: the layers the runtime really executes, their precision and their time."""

import re
from collections.abc import Iterable
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
        moved_bytes: what one run of it reads (inputs, weights) and writes, each tensor counted once; caches keep a
            part of that from the memory bus. 0 where the runtime does not tell.
    """

    name: str
    type: str
    precision: str
    time_ms: float
    share: float
    moved_bytes: int = 0


def profile_layers(artifact: Artifact, plan: Plan, runs: int = 20) -> list[Layer]:
    """Compile ``artifact`` once more with counters, run it on zeros, and return its executed layers, slowest first.

    One stream is profiled, at the plan's largest batch; counters cost a little, so the sum is not the plan's latency.
    Variable axes are set to 8.

    Raises:
        RuntimeFailed: the plan's runtime is not one that tells (OpenVINO and ONNX Runtime do).
    """
    if plan.runtime == "onnxruntime":
        from whet.engine.ort_layers import profile_ort

        return _shared((*row, 0) for row in profile_ort(artifact, plan, runs))
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
    sizes = {node.get_friendly_name(): _output_bytes(node) for node in graph.get_ops()}
    for node in graph.get_ops():
        told = _told(node)
        kind = told.get("layerType", node.get_type_name())
        name = node.get_friendly_name()
        times = micros.get(name, [])
        if kind in _SKIPPED or not times:
            continue
        precision = told.get("runtimePrecision") or _from_primitive(told.get("primitiveType", ""))
        moved = sizes[name] + sum(sizes[value.get_node().get_friendly_name()] for value in node.input_values())
        found.append((name, kind, _SHORT.get(precision, precision), float(np.median(times)) / 1e3, moved))
    return _shared(found)


def _shared(found: Iterable[tuple[str, str, str, float, int]]) -> list[Layer]:
    """Return layers with their share of the whole, slowest first."""
    rows = list(found)
    total = sum(time for _, _, _, time, _ in rows) or 1.0
    layers = [Layer(name, kind, precision, time, time / total, moved) for name, kind, precision, time, moved in rows]
    return sorted(layers, key=lambda layer: -layer.time_ms)


def _told(node: Any) -> dict[str, str]:
    return {key: str(value.value if hasattr(value, "value") else value) for key, value in node.get_rt_info().items()}


def _output_bytes(node: Any) -> int:
    """Return the size of what a node writes; 0 where a shape is not known before the run."""
    precisions = _told(node).get("outputPrecisions", "").split(",")
    total = 0
    for place, output in enumerate(node.outputs()):
        shape = output.get_partial_shape()
        bits = re.search(r"\d+", precisions[min(place, len(precisions) - 1)])
        if shape.is_static:
            width = int(bits[0]) if bits else 8  # boolean, or a tensor that is empty
            total += int(np.prod(list(shape.to_shape()), dtype=np.int64)) * width // 8
    return total


def _from_primitive(primitive: str) -> str:
    """Return the precision at the end of a name such as ``brgconv_avx512_core_vnni_I8``."""
    match = re.search(r"_(I8|U8|BF16|FP16|FP32|F32)$", primitive)
    return {"FP32": "f32", "FP16": "f16"}.get(match[1], match[1].lower()) if match else "unknown"
