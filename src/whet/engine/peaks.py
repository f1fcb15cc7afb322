"""The compute peaks of this host as OpenVINO's kernels reach them: large nets of one operator, in each precision.

They are run as throughput plans run: one stream a core, one thread a stream, all streams busy at the same time, warm::

    peak = cores x (runs a second of one stream) x (operations of a run), in slices of the measured time

A stream that spreads over all cores would pay for sharing out every operator and waiting for the slowest core, which
plans of several streams do not: its figure is a roof that they pass. A matrix product and two convolutions are measured
and the fastest slice of the fastest is the peak: in one precision the library has better kernels for this, in another
for that (3x3 convolutions may even save multiplications, by Winograd's algorithm), and a roof must not be beaten by
what stands below it. It remains a measurement: of these kernels, in this hour, on a machine that others may share.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from whet.engine import load_runtime
from whet.engine.ov import OpenVINO, settings_for
from whet.host.roofline import Peak, together
from whet.plan import Plan

SIDE = 1024
"""Rows and columns of the product: 2.1 GFLOP, operands of 4 MB in f32."""
CONVOLUTIONS = ((3, 28, 256), (1, 56, 256))
"""Side of the kernel and of the picture, channels in and out: 0.92 and 0.41 GFLOP."""
SECONDS = 0.3
"""Spent on each operator in each precision: about a second a precision."""
_LIKE = {"f32": "f32", "bf16": "bf16", "f16": "f16", "int8": "f32"}
"""Precision of the peak -> precision of the float layers."""


def compute_peaks(cores: int, seconds: float = SECONDS) -> dict[str, Peak]:
    """Measure how many operations a second this host computes at best, by precision, in GFLOP/s.

    A multiply-add counts two, in int8 as well (GOP/s, strictly).

    Args:
        cores: streams of one thread each that compute at the same time.
        seconds: spent on each operator in each precision, about; compiling comes on top (under 0.2 s).

    Raises:
        EnvironmentLacks: OpenVINO is not installed.
    """
    runtime = load_runtime("openvino")
    assert isinstance(runtime, OpenVINO)
    found: dict[str, Peak] = {}
    for precision in (*runtime.capabilities().precisions, "int8"):
        plan = Plan("", precision=_LIKE[precision], streams=cores)
        for words, model, shape, flops in _nets(runtime.ov, quantized=precision == "int8"):
            compiled = runtime.core.compile_model(model, "CPU", settings_for(plan))
            requests = [compiled.create_infer_request() for _ in range(cores)]
            for request in requests:
                request.set_input_tensor(runtime.ov.Tensor(np.random.default_rng(0).random(shape, np.float32)))
            how = f"OpenVINO, {words} in {precision}, {cores} stream{'s' if cores > 1 else ''} of one thread"
            reached = together([one.infer for one in requests], flops / 1e9, "GFLOP/s", how, seconds=seconds)
            if precision not in found or reached.best > found[precision].best:
                found[precision] = reached
    return found


def _nets(ov: Any, *, quantized: bool) -> Iterator[tuple[str, Any, tuple[int, ...], int]]:
    """Yield words, graph, shape of the input and floating-point operations of each net."""
    shape: tuple[int, ...] = (SIDE, SIDE)
    data, taken = _input(ov, shape, quantized=quantized)
    net = ov.opset13.matmul(taken, _weights(ov, shape, quantized=quantized), False, True)
    yield f"{SIDE} x {SIDE} matrices", ov.Model([net], [data], "product"), shape, 2 * SIDE**3
    for side, pixels, channels in CONVOLUTIONS:
        shape = (1, channels, pixels, pixels)
        data, taken = _input(ov, shape, quantized=quantized)
        kernel, pads = _weights(ov, (channels, channels, side, side), quantized=quantized), [side // 2] * 2
        net = ov.opset13.convolution(taken, kernel, [1, 1], pads, pads, [1, 1])
        words = f"{side}x{side} convolution of {channels} channels"
        yield words, ov.Model([net], [data], "convolution"), shape, 2 * (side * channels * pixels) ** 2


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
