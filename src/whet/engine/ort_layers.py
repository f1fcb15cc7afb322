"""ONNX Runtime's own account of where time goes: its profile, read back as executed layers."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from whet.engine import load_runtime
from whet.models.artifact import Artifact
from whet.plan import Plan
from whet.tensors import DYNAMIC

WARM_RUNS = 3
VARIABLE = 8
"""Length of variable axes."""
_INT8 = re.compile(r"QLinear|Integer|QGemm|QAttention|DynamicQuantize(MatMul|LSTM)|ToFloat$")
_TYPES = {"float": "f32", "float16": "f16", "double": "f64", "bool": "bool"}


def profile_ort(artifact: Artifact, plan: Plan, runs: int) -> list[tuple[str, str, str, float]]:
    """Run ``artifact`` under ONNX Runtime's profiler, on zeros, and return (name, operator, precision, ms) a layer.

    The graph is the one after its optimisations, so what it fused is one layer. An operator with integer arithmetic
    counts as int8 whatever it returns; of the others the type of the first output says the precision.
    """
    from whet.engine.ort import OnnxRuntime

    runtime = load_runtime("onnxruntime")
    assert isinstance(runtime, OnnxRuntime)
    size = plan.max_batch if artifact.batched else None
    feeds = {}
    for spec in artifact.inputs:
        shape = spec.shape if size is None else spec.with_batch(size)
        feeds[spec.name] = np.zeros(tuple(VARIABLE if dim == DYNAMIC else dim for dim in shape), spec.dtype)
    with tempfile.TemporaryDirectory(prefix="whet-profile-") as folder:
        options = runtime.options(plan)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "layers"))
        session = runtime.ort.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
        for _ in range(WARM_RUNS + runs):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _layers(events)


def _layers(events: list[dict[str, Any]]) -> list[tuple[str, str, str, float]]:
    times: dict[str, list[float]] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for event in events:
        name, _, what = str(event.get("name", "")).rpartition("_")
        if event.get("cat") != "Node" or what != "time" or not name.endswith("_kernel"):
            continue
        name, told = name.removesuffix("_kernel"), event["args"]
        kinds[name] = (told["op_name"], _precision(told))
        times.setdefault(name, []).append(event["dur"] / 1e3)
    return [(name, *kinds[name], float(np.median(of[WARM_RUNS:]))) for name, of in times.items()]


def _precision(told: dict[str, Any]) -> str:
    if _INT8.search(told["op_name"]):
        return "int8"
    first: dict[str, Any] = (told.get("output_type_shape") or [{}])[0]
    kind = next(iter(first), "unknown")
    return _TYPES.get(kind, kind)
