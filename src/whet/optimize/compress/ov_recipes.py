"""Recipes made with nncf on OpenVINO's own representation. Calibration is seeded; the parent's file is only read."""

from collections.abc import Sequence
from typing import Any

from whet.errors import PlanRefused
from whet.optimize.compress.process import Job, Made
from whet.quiet import silence_telemetry

WEIGHTED = frozenset(
    {"Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData", "LSTMSequence", "GRUSequence"}
)
RECURRENT = frozenset({"LSTMSequence", "GRUSequence", "RNNSequence", "LSTMCell", "GRUCell", "Loop", "TensorIterator"})
SIGNED = frozenset({"Swish", "HSwish", "Gelu", "Elu", "PRelu", "Mish", "Selu", "SoftPlus", "HSigmoid"})
"""Activations with a small negative part; nncf's documentation advises its mixed preset for them."""
EDGES = 2
"""How many weighted layers stay in float at the start and at the end of the net."""
MOST_REVERTED = 0.25
"""Share of the weighted layers that may go back to float; past that the net is hardly int8 any more."""


def plain(job: Job) -> Made:
    """Quantize with the preset that suits the kind of net."""
    return _quantize(job, robust=False, ignored=())


def robust(job: Job) -> Made:
    """Quantize with statistics that outliers do not move."""
    return _quantize(job, robust=True, ignored=())


def edges(job: Job) -> Made:
    """Leave the first and the last weighted layers in float: there rounding hurts most and costs least."""
    layers = weighted(_read(job))
    return _quantize(job, robust=True, ignored=tuple(dict.fromkeys((*layers[:EDGES], *layers[-EDGES:]))))


def sensitive(job: Job) -> Made:
    """Leave the layers in float whose rounding, measured one by one, disturbs the outputs most."""
    from whet.optimize.compress.sensitivity import rank

    original = _read(job)
    quantized, _ = _quantized(job, original, robust=True, ignored=())
    ranked = rank(original, quantized, job)
    most = max(1, int(len(weighted(original)) * MOST_REVERTED))
    return _quantize(job, robust=True, ignored=tuple(name for name, gain in ranked[:most] if gain > 0))


def weights(job: Job) -> Made:
    """Round weights alone to int8."""
    silence_telemetry()
    import nncf

    model = _read(job)
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    return _save(job, compressed, {"mode": "int8_asym", "kind": kind(model)}, precision="mixed")


def kind(model: Any) -> str:
    """Return ``transformer``, ``recurrent``, ``cnn`` or ``other`` from the operators of a net."""
    found = [op.get_type_name() for op in model.get_ops()]
    if RECURRENT.intersection(found):
        return "recurrent"
    attention = found.count("Softmax") + found.count("ScaledDotProductAttention")
    normalised = found.count("MVN") + found.count("RMS")
    if attention >= 2 and (normalised >= 2 or found.count("MatMul") >= 4 * attention):
        return "transformer"
    return "cnn" if "Convolution" in found or "GroupConvolution" in found else "other"


def signed(model: Any) -> bool:
    """Tell whether activations take both signs unevenly, so that they need a zero point of their own.

    Symmetric quantization fits nets of ReLU, costs less to run, and was more accurate on one whose normalised inputs
    lie unevenly around zero (top-1 of the video quality net: symmetric 0.994, with zero points 0.977, f32 0.994).
    """
    return any(op.get_type_name() in SIGNED for op in model.get_ops())


def weighted(model: Any) -> list[str]:
    """Return the names of the layers with constant weights, in execution order."""
    return [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() in WEIGHTED
        and any(_constant(op.input_value(i).get_node()) for i in range(op.get_input_size()))
    ]


def _constant(node: Any) -> bool:
    while node.get_type_name() in {"Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeQuantize"}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _read(job: Job) -> Any:
    silence_telemetry()
    import openvino as ov

    return ov.Core().read_model(job.artifact.path)


def _quantize(job: Job, *, robust: bool, ignored: Sequence[str]) -> Made:
    quantized, settings = _quantized(job, _read(job), robust=robust, ignored=ignored)
    return _save(job, quantized, settings, precision="int8")


def _quantized(job: Job, model: Any, *, robust: bool, ignored: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    silence_telemetry()
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    if not job.samples:
        raise PlanRefused("needs real samples to calibrate with; give --data")
    of = kind(model)
    preset = (
        nncf.QuantizationPreset.MIXED if of == "transformer" or signed(model) else nncf.QuantizationPreset.PERFORMANCE
    )
    settings: dict[str, Any] = {
        "kind": of,
        "preset": preset.value,
        "model_type": "transformer" if of == "transformer" else None,
        "statistics": "mean_no_outliers, quantile" if robust else "default",
        "ignored": sorted(ignored),
    }
    advanced = AdvancedQuantizationParameters(batchwise_statistics=False)
    if robust:
        advanced.activations_range_estimator_params = RangeEstimatorParametersSet.MEAN_QUANTILE
    job.say(f"calibrating on {job.samples} samples ({of})")
    dataset = nncf.Dataset(list(range(job.samples)), job.net_inputs)
    quantized = nncf.quantize(
        model,
        dataset,
        preset=preset,
        target_device=nncf.TargetDevice.CPU,
        subset_size=job.samples,
        fast_bias_correction=True,
        model_type=nncf.ModelType.TRANSFORMER if of == "transformer" else None,
        ignored_scope=nncf.IgnoredScope(names=list(ignored), validate=False) if ignored else None,
        advanced_parameters=advanced,
    )
    if not any(op.get_type_name() == "FakeQuantize" for op in quantized.get_ops()):
        raise PlanRefused("nothing in this net can be quantized; it has no layer with int8 kernels")
    return quantized, settings


def _save(job: Job, model: Any, settings: dict[str, Any], *, precision: str) -> Made:
    import nncf
    import openvino as ov

    job.say("saving")
    # The default would halve the float weights that stay: a second, unasked rounding.
    ov.save_model(model, job.folder / "model.xml", compress_to_fp16=False)
    return Made("model.xml", "ir", precision, f"nncf {nncf.__version__}", settings)
