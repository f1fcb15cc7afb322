"""How much each layer's rounding disturbs the outputs: each quantized layer is put back to float once, and measured."""

import time
from typing import Any

import numpy as np

from whet.optimize.accuracy import noise_to_signal
from whet.optimize.compress.process import Job

ITEMS = 16
"""Calibration samples each layer is measured on."""
MOST_S = 60.0
"""Ranking stops here; layers it did not reach rank last."""


def rank(original: Any, quantized: Any, job: Job) -> list[tuple[str, float]]:
    """Return (layer, how much of the noise its return to float takes away), most first.

    The gain is the drop of the mean noise-to-signal ratio over the outputs, against the float net.
    """
    from whet.optimize.compress.ov_recipes import weighted

    items = [job.net_inputs(i) for i in range(min(ITEMS, job.samples))]
    reference = _outputs(original, items)
    before = _noise(_outputs(quantized, items), reference)
    names, gains, began = weighted(original), list[tuple[str, float]](), time.monotonic()
    for place, name in enumerate(names):
        spent = time.monotonic() - began
        if spent > MOST_S:
            break
        left = spent / max(place, 1) * (len(names) - place)
        job.say(f"measuring layer {place + 1} of {len(names)}" + (f", about {left:.0f} s left" if place else ""))
        reverted = with_float_layer(original, quantized, name)
        if reverted is not None:
            gains.append((name, before - _noise(_outputs(reverted, items), reference)))
    return sorted(gains, key=lambda one: (-one[1], one[0]))


def with_float_layer(original: Any, quantized: Any, name: str) -> Any | None:
    """Return a copy of ``quantized`` in which layer ``name`` computes in float, or None where it is not quantized."""
    copy = quantized.clone()
    layers = {op.get_friendly_name(): op for op in copy.get_ops()}
    sources = {op.get_friendly_name(): op for op in original.get_ops()}
    layer, source = layers.get(name), sources.get(name)
    if layer is None or source is None:
        return None
    changed = False
    for place in range(layer.get_input_size()):
        node = layer.input_value(place).get_node()
        if node.get_type_name() == "FakeQuantize":
            layer.input(place).replace_source_output(node.input_value(0))
            changed = True
        elif (
            weight := _constant_of(source.input_value(place).get_node())
        ) is not None and node.get_type_name() not in (
            "Parameter",
            "Constant",
        ):
            layer.input(place).replace_source_output(weight.output(0))
            changed = True
    copy.validate_nodes_and_infer_types()
    return copy if changed else None


def _constant_of(node: Any) -> Any | None:
    return node if node.get_type_name() == "Constant" else None


def _outputs(model: Any, items: list[dict[str, Any]]) -> list[list[Any]]:
    import openvino as ov

    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [[np.array(value) for value in compiled(item).values()] for item in items]


def _noise(outputs: list[list[Any]], reference: list[list[Any]]) -> float:
    ratios = [
        float(np.minimum(noise_to_signal(value[None], wanted[None]), 1.0)[0])
        for one, other in zip(outputs, reference, strict=True)
        for value, wanted in zip(one, other, strict=True)
    ]
    return float(np.mean(ratios))
