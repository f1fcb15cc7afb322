"""What takes requests and gives answers: batcher, lanes and one file a runtime. Importing this imports no runtime."""

import importlib
import importlib.util
from functools import cache
from typing import TYPE_CHECKING

from whet.errors import PlanRefused

if TYPE_CHECKING:
    from pathlib import Path

    from whet.engine.base import Runtime
    from whet.engine.engine import Engine
    from whet.engine.gate import CoreGate
    from whet.models.artifact import Artifact
    from whet.plan import Plan

RUNTIMES: dict[str, str] = {
    "openvino": "whet.engine.ov:OpenVINO",
    "onnxruntime": "whet.engine.ort:OnnxRuntime",
    "torch": "whet.engine.pytorch:Torch",
    "tensorflow": "whet.engine.tf:TensorFlow",
    "fake": "whet.engine.fake:Fake",
}
"""Runtime name -> "module:class". Strings, so that no library is imported before it is used."""

_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torch": "torch", "tensorflow": "tensorflow"}


@cache
def load_runtime(name: str) -> "Runtime":
    """Return the runtime ``name``, one instance per process.

    Raises:
        PlanRefused: no runtime has that name.
        MissingExtra: its library is not installed.
    """
    try:
        module, kind = RUNTIMES[name].split(":")
    except KeyError:
        raise PlanRefused(f"runtime '{name}' is unknown; known are {', '.join(RUNTIMES)}") from None
    runtime: Runtime = getattr(importlib.import_module(module), kind)()
    return runtime


def available_runtimes() -> list[str]:
    """Return the names of the runtimes whose library is installed here, without importing any; never ``fake``."""
    return [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package) is not None]


async def open_engine(
    artifact: "Artifact",
    plan: "Plan",
    *,
    gate: "CoreGate | None" = None,
    name: str = "",
    weight: float = 1.0,
    cache_dir: "Path | None" = None,
    beside: bool = False,
) -> "Engine":
    """Compile and warm ``artifact`` under ``plan`` beside the running loop, and return its engine, ready to serve.

    Args:
        artifact: the model.
        plan: its knobs.
        gate: the worker's cores, where several models share them; one-thread plans are widened to all of them.
        name: shown in logs and in the gate's shares.
        weight: part of the gate's cores, relative to the other models'.
        cache_dir: where compiled models are kept between starts, or None to keep none.
        beside: other models serve meanwhile, and are to be disturbed little.

    Raises:
        PlanRefused: a knob that cannot be honoured.
        MissingExtra: the runtime is not installed.
        RuntimeFailed: the runtime cannot compile or run the model.
    """
    import asyncio

    from whet.engine.engine import Engine
    from whet.engine.ready import get_ready

    wide = plan if gate is None else gate.widen(plan)
    ready = await asyncio.to_thread(get_ready, artifact, wide, cache_dir, beside=beside)
    try:
        return Engine(ready, name=name, gate=gate, weight=weight)
    except PlanRefused:
        ready.free()
        raise
