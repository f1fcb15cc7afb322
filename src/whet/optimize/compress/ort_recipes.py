"""Recipes made with ONNX Runtime's own quantizers, for that runtime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whet.errors import PlanRefused
from whet.optimize.compress.process import Job, Made


def static(job: Job) -> Made:
    """Quantize weights and activations from calibration samples: QDQ, weights per channel, unsigned activations."""
    from onnxruntime import __version__
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if not job.samples:
        raise PlanRefused("needs real samples to calibrate with; give --data")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._items: Iterator[int] = iter(range(job.samples))

        def get_next(self) -> dict[str, Any] | None:
            index = next(self._items, None)
            return None if index is None else job.net_inputs(index)

    prepared = _prepared(job)
    job.say(f"calibrating on {job.samples} samples")
    quantize_static(
        prepared,
        job.folder / "model.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    _tidy(job, prepared)
    settings = {"format": "QDQ", "per_channel": True, "activations": "uint8", "weights": "int8", "method": "minmax"}
    return Made("model.onnx", "onnx", "int8", f"onnxruntime {__version__}", settings)


def dynamic(job: Job) -> Made:
    """Quantize the weights of MatMul-like layers; activations are rounded on the fly."""
    from onnxruntime import __version__
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = _prepared(job)
    job.say("rounding weights")
    quantize_dynamic(prepared, job.folder / "model.onnx", per_channel=True, weight_type=QuantType.QInt8)
    _tidy(job, prepared)
    return Made(
        "model.onnx", "onnx", "mixed", f"onnxruntime {__version__}", {"weights": "int8", "activations": "dynamic"}
    )


def _prepared(job: Job) -> Path:
    """Return a copy with shapes inferred and nodes folded, as the quantizers ask for."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    opset = {
        entry.domain: entry.version for entry in onnx.load(job.artifact.path, load_external_data=False).opset_import
    }
    if opset.get("", 0) < 10:
        raise PlanRefused(f"the file has ONNX opset {opset.get('', 0)}, quantization starts at 10; export it anew")
    prepared = job.folder / "prepared.onnx"
    job.say("preparing")
    quant_pre_process(str(job.artifact.path), str(prepared), skip_symbolic_shape=True)
    return prepared


def _tidy(job: Job, prepared: Path) -> None:
    import onnx

    prepared.unlink()
    kinds = {node.op_type for node in onnx.load(job.folder / "model.onnx").graph.node}
    if not any("Quant" in kind or kind.endswith("Integer") for kind in kinds):
        raise PlanRefused("nothing in this net can be quantized by ONNX Runtime")
