"""How much each layer's rounding disturbs the outputs, measured with every other layer put back to float.

One layer is rounded at a time: were one put back at a time instead, a net that two layers ruin would show neither.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from whet.errors import PlanRefused
from whet.models.artifact import Artifact
from whet.optimize.accuracy import noise_to_signal
from whet.optimize.compress.ov_recipes import constant, read, weighted
from whet.optimize.compress.process import Job

ITEMS = 16
"""Calibration samples each layer is measured on."""
SHARE = 0.6
"""Share of the process's time after which ranking stops; layers it did not reach are not in the ranking."""
MOVING = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Pad", "Concat", "Gather"})
"""Operators that pass values on: nncf puts one quantizer before them for the layers behind."""


def rank(job: Job, start: Artifact) -> list[tuple[str, float]]:
    """Return (layer, noise that its rounding alone brings), most first.

    Noise is the mean noise-to-signal ratio over items and outputs against the float net, at most 1 for each; a layer
    that was not quantized brings none. What was measured is appended to ``job.work.ranking``, and what stands there
    already is not measured again.

    Raises:
        PlanRefused: there are no samples to measure on.
    """
    if not job.samples:
        raise PlanRefused("needs real samples to measure layers on; give --data")
    original, quantized = read(job.artifact), read(start)
    items = [job.net_inputs(i) for i in range(min(ITEMS, job.samples))]
    reference = _outputs(original, items)
    names, noise = weighted(original), _known(job.work.ranking)
    todo = [name for name in names if name not in noise]
    began = time.monotonic()
    floor = _noise(_outputs(with_float_layers(original, quantized, names), items), reference)
    each = time.monotonic() - began
    job.say(f"{len(todo)} of {len(names)} layers to measure, about {each * len(todo):.0f} s", len(noise), len(names))
    for place, name in enumerate(todo):
        spent = time.monotonic() - began
        if spent > SHARE * job.work.limit_s:
            break
        left = spent / (place + 1) * (len(todo) - place)
        job.say(f"measuring layer {place + 1} of {len(todo)}, about {left:.0f} s left", len(noise), len(names))
        alone = with_float_layers(original, quantized, [other for other in names if other != name])
        noise[name] = max(0.0, _noise(_outputs(alone, items), reference) - floor)
        _keep(job.work.ranking, name, noise[name])
    return sorted(noise.items(), key=lambda one: (-one[1], one[0]))


def _known(path: Path | None) -> dict[str, float]:
    """Return what an interrupted ranking had measured; a last line cut short does not count, and is taken away."""
    found: dict[str, float] = {}
    for line in path.read_bytes().splitlines() if path is not None and path.exists() else ():
        try:
            name, gain = msgspec.json.decode(line, type=tuple[str, float])
        except msgspec.DecodeError:
            break
        found[name] = gain
    if path is not None:
        path.write_bytes(b"")
        for name, gain in found.items():
            _keep(path, name, gain)
    return found


def _keep(path: Path | None, name: str, gain: float) -> None:
    if path is not None:
        with path.open("ab") as stream:
            stream.write(msgspec.json.encode((name, gain)) + b"\n")


def with_float_layers(original: Any, quantized: Any, names: Iterable[str]) -> Any:
    """Return a copy of ``quantized`` in which the layers ``names`` compute in float.

    Their weights and, where bias correction moved them, their biases are those of ``original``; the quantizers of their
    inputs are taken out, also where they stand before operators that only pass values on.
    """
    copy = quantized.clone()
    layers = {op.get_friendly_name(): op for op in copy.get_ops()}
    sources = {op.get_friendly_name(): op for op in original.get_ops()}
    for name in names:
        if name in layers and name in sources:
            _to_float(layers[name], sources[name], layers)
    copy.validate_nodes_and_infer_types()
    return copy


def _to_float(layer: Any, source: Any, layers: Mapping[str, Any]) -> None:
    for place in range(layer.get_input_size()):
        own = source.input_value(place)
        if constant(own.get_node()):
            layer.input(place).replace_source_output(own)
        else:
            _unquantized(layer.input(place))
    for reader in source.output(0).get_target_inputs():
        add = reader.get_node()
        bias = layers.get(add.get_friendly_name())
        if add.get_type_name() == "Add" and bias is not None and constant(add.input_value(1).get_node()):
            _with_value_of(bias.input(1), add.input(1))


def _with_value_of(port: Any, source: Any) -> None:
    """Give the constant behind ``port`` the values of the one behind ``source``, and leave what reshapes it alone."""
    from openvino import opset13 as ops

    while source.get_source_output().get_node().get_type_name() != "Constant":
        source = source.get_source_output().get_node().input(0)
    while port.get_source_output().get_node().get_type_name() != "Constant":
        port = port.get_source_output().get_node().input(0)
    old, values = port.get_source_output().get_node(), source.get_source_output().get_node().get_data()
    if old.get_data().size == values.size:
        port.replace_source_output(ops.constant(values.reshape(old.get_data().shape), old.get_element_type()).output(0))


def _unquantized(port: Any) -> None:
    """Take the quantizers out of what feeds ``port``."""
    node = port.get_source_output().get_node()
    if node.get_type_name() == "FakeQuantize":
        port.replace_source_output(node.input_value(0))
    elif node.get_type_name() in MOVING:
        for place in range(node.get_input_size()):
            _unquantized(node.input(place))


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
