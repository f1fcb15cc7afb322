"""The compute peaks of this host as OpenVINO's kernels reach them: large nets of one operator, in each precision.

A matrix product and a 3x3 convolution are both measured and the faster one is the peak: in one precision the library
has better kernels for this, in another for that, and a roof must not be beaten by what stands below it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from whet.engine import load_runtime
from whet.engine.ov import OpenVINO, settings_for
from whet.host.roofline import Peak, rate
from whet.plan import Plan

SIDE = 1024
"""Rows and columns of the product: 2.1 GFLOP, operands of 4 MB in f32."""
PIXELS, CHANNELS = 28, 256
"""Side of the convolved picture and its channels, in and out: 0.92 GFLOP."""
SECONDS = 0.2
"""Spent on each operator in each precision."""
_LIKE = {"f32": "f32", "bf16": "bf16", "f16": "f16", "int8": "f32"}
"""Precision of the peak -> precision of the float layers."""


def compute_peaks(cores: int, seconds: float = SECONDS) -> dict[str, Peak]:
    """Measure how many operations a second this host computes at best, by precision, in GFLOP/s.

    A multiply-add counts two, in int8 as well (GOP/s, strictly).

    Args:
        cores: threads of the one stream that computes.
        seconds: spent on each operator in each precision, about; compiling comes on top (under 0.2 s).

    Raises:
        EnvironmentLacks: OpenVINO is not installed.
    """
    runtime = load_runtime("openvino")
    assert isinstance(runtime, OpenVINO)
    found: dict[str, Peak] = {}
    for precision in (*runtime.capabilities().precisions, "int8"):
        plan = Plan("", precision=_LIKE[precision], threads=cores)
        for words, model, shape, flops in _nets(runtime.ov, quantized=precision == "int8"):
            request = runtime.core.compile_model(model, "CPU", settings_for(plan)).create_infer_request()
            request.set_input_tensor(runtime.ov.Tensor(np.random.default_rng(0).random(shape, np.float32)))
            how = f"OpenVINO, {words} in {precision}, {cores} thread{'s' if cores > 1 else ''}"
            reached = rate(request.infer, flops / 1e9, "GFLOP/s", how, seconds=seconds)
            if precision not in found or reached.best > found[precision].best:
                found[precision] = reached
    return found


def _nets(ov: Any, *, quantized: bool) -> Iterator[tuple[str, Any, tuple[int, ...], int]]:
    """Yield words, graph, shape of the input and floating-point operations of each net."""
    shape: tuple[int, ...] = (SIDE, SIDE)
    data, taken = _input(ov, shape, quantized=quantized)
    net = ov.opset13.matmul(taken, _weights(ov, shape, quantized=quantized), False, True)
    yield f"{SIDE} x {SIDE} matrices", ov.Model([net], [data], "product"), shape, 2 * SIDE**3
    shape = (1, CHANNELS, PIXELS, PIXELS)
    data, taken = _input(ov, shape, quantized=quantized)
    kernel = _weights(ov, (CHANNELS, CHANNELS, 3, 3), quantized=quantized)
    net = ov.opset13.convolution(taken, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    words = f"3x3 convolution of {CHANNELS} channels"
    yield words, ov.Model([net], [data], "convolution"), shape, 2 * 9 * CHANNELS**2 * PIXELS**2


def _input(ov: Any, shape: tuple[int, ...], *, quantized: bool) -> tuple[Any, Any]:
    data = ov.opset13.parameter(list(shape), np.float32)
    if not quantized:
        return data, data
    low, high = np.float32(0.0), np.float32(2.55)
    return data, ov.opset13.fake_quantize(data, low, high, low, high, 256)


def _weights(ov: Any, shape: tuple[int, ...], *, quantized: bool) -> Any:
    rng = np.random.default_rng(1)
    if not quantized:
        return ov.opset13.constant(rng.standard_normal(shape, np.float32))
    whole = ov.opset13.constant(rng.integers(-127, 128, shape, np.int8))
    scale = np.full((shape[0], *(1 for _ in shape[1:])), 0.01, np.float32)
    return ov.opset13.multiply(ov.opset13.convert(whole, np.float32), ov.opset13.constant(scale))
