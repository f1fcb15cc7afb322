"""Recipes made with nncf on OpenVINO's own representation. Calibration is seeded; the parent's file is only read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from whet.errors import PlanRefused
from whet.models.artifact import Artifact
from whet.optimize.compress.kind import RECURRENT, Kind, kind_of
from whet.optimize.compress.process import Job, Made
from whet.quiet import silence_telemetry

WEIGHTED = frozenset(
    {"Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData", "LSTMSequence", "GRUSequence"}
)
SIGNED = frozenset({"Swish", "HSwish", "Gelu", "Elu", "PRelu", "Mish", "Selu", "SoftPlus", "HSigmoid"})
"""Activations with a small negative part; nncf's documentation advises its mixed preset for them."""
EDGES = 2
"""How many weighted layers stay in float at the start and at the end of the net."""
OUTLIERS = 1e-3
"""Share of the values at each end of a tensor that robust statistics cut off."""
GROUPS = (128, 64, 32)
"""Sizes of the groups of int4 weights that share a scale; the largest that divides every layer's inputs is taken."""


def plain(job: Job) -> Made:
    """Quantize with the preset that suits the kind of net."""
    return _quantize(job, robust=False, ignored=())


def robust(job: Job) -> Made:
    """Quantize with statistics that outliers do not move."""
    return _quantize(job, robust=True, ignored=())


def edges(job: Job) -> Made:
    """Leave the first and the last weighted layers in float: there rounding hurts most and costs least."""
    layers = weighted(read(job.artifact))
    return _quantize(job, robust=True, ignored=tuple(dict.fromkeys((*layers[:EDGES], *layers[-EDGES:]))))


def sensitive(job: Job) -> Made:
    """Leave the layers in float that the ranking by measurement named."""
    if not job.work.keep:
        raise PlanRefused("names no layer to keep in float; rank the layers first")
    return _quantize(job, robust=True, ignored=job.work.keep)


def weights8(job: Job) -> Made:
    """Round weights alone to int8, one scale and zero point a channel."""
    silence_telemetry()
    import nncf

    return _weights(job, {"mode": nncf.CompressWeightsMode.INT8_ASYM}, least=8)


def weights4(job: Job) -> Made:
    """Round weights alone to int4, a scale and a zero point for each group; embeddings and the last layer to int8."""
    silence_telemetry()
    import nncf

    options = {"mode": nncf.CompressWeightsMode.INT4_ASYM, "ratio": 1.0}
    for size in GROUPS:
        try:
            return _weights(job, {**options, "group_size": size}, least=4)
        except nncf.errors.InvalidGroupSizeError:
            continue
    return _weights(job, {**options, "group_size": -1}, least=4)


def _weights(job: Job, options: dict[str, Any], *, least: int) -> Made:
    """Compress with nncf; ``least`` is the number of bits that some layer's weights must have come down to."""
    import nncf

    model = read(job.artifact)
    job.say("rounding weights")
    compressed = nncf.compress_weights(model, **options)
    bits = [op.get_element_type().bitwidth for op in compressed.get_ops() if op.get_type_name() == "Constant"]
    if least not in bits:
        raise PlanRefused(
            f"nothing in this net can be compressed to int{least}; it has no layer of weights large enough"
        )
    settings = {**options, "mode": options["mode"].value, "kind": kind(model)}
    return _save(job, compressed, settings, precision="mixed")


def kind(model: Any) -> Kind:
    """Return what kind of net a graph of OpenVINO is."""
    return kind_of(Counter(op.get_type_name() for op in model.get_ops()))


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
        and any(constant(op.input_value(i).get_node()) for i in range(op.get_input_size()))
    ]


def constant(node: Any) -> bool:
    """Tell whether a node's value is known before any input comes: weights, converted, scaled or reshaped."""
    while node.get_type_name() in {"Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeQuantize"}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def read(artifact: Artifact) -> Any:
    """Return an artifact's graph."""
    silence_telemetry()
    import openvino as ov

    return ov.Core().read_model(artifact.path)


def _quantize(job: Job, *, robust: bool, ignored: Sequence[str]) -> Made:
    quantized, settings = _quantized(job, read(job.artifact), robust=robust, ignored=ignored)
    return _save(job, quantized, settings, precision="int8")


def _quantized(job: Job, model: Any, *, robust: bool, ignored: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    silence_telemetry()
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

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
        "statistics": f"quantile {OUTLIERS:g}, mean_no_outliers" if robust else "default",
        "ignored": sorted(ignored),
    }
    advanced = AdvancedQuantizationParameters(batchwise_statistics=False)
    if robust:
        advanced.activations_range_estimator_params = _robust()
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
        # OpenVINO has no int8 kernels for recurrent layers: rounding them costs accuracy and conversions for nothing.
        ignored_scope=nncf.IgnoredScope(names=list(ignored), types=sorted(RECURRENT), validate=False),
        advanced_parameters=advanced,
    )
    if not any(op.get_type_name() == "FakeQuantize" for op in quantized.get_ops()):
        raise PlanRefused("nothing in this net can be quantized; it has no layer with int8 kernels")
    return quantized, settings


def _robust() -> Any:
    """Return how ranges are estimated where outliers must not move them: neither values in a sample, nor samples."""
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    side = StatisticsCollectorParameters(
        statistics_type=StatisticsType.QUANTILE,
        aggregator_type=AggregatorType.MEAN_NO_OUTLIERS,
        quantile_outlier_prob=OUTLIERS,
    )
    return RangeEstimatorParameters(min=side, max=side)


def _save(job: Job, model: Any, settings: dict[str, Any], *, precision: str) -> Made:
    import nncf
    import openvino as ov

    job.say("saving")
    # The default would halve the float weights that stay: a second, unasked rounding.
    ov.save_model(model, job.folder / "model.xml", compress_to_fp16=False)
    return Made("model.xml", "ir", precision, f"nncf {nncf.__version__}", settings)
