"""OpenVINO graphs: reading a model, taking what surrounds the net into it, fixing its shapes.

The nodes put in are those of :mod:`whet.models.fuse`, in the same order, so that both runtimes compute the same.
"""

from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import Unsupported
from whet.models.around import channel_order, level_range, luma_weights, per_channel, split_post
from whet.models.artifact import Artifact, ImageInput, OutputStep
from whet.quiet import silence_telemetry
from whet.tensors import TensorSpec


def fuse(ov: Any, model: Any, artifact: Artifact) -> tuple[OutputStep, ...]:
    """Put ``artifact.images`` in front of ``model`` and softmax and sigmoid behind it, in place.

    Returns:
        The postprocessing steps that remain to be done outside.
    """
    for image in artifact.images:
        _fuse_image(ov, model, image)
    inside, outside = split_post(artifact.post)
    for step in inside:
        _fuse_step(ov, model, step)
    model.validate_nodes_and_infer_types()
    return outside


def fix_batch(model: Any, inputs: tuple[TensorSpec, ...], size: int | None) -> Any:
    """Return a copy of ``model`` with batch ``size`` (None leaves the batch axis free); other axes as in ``inputs``."""
    copy = model.clone()
    shapes = {}
    for spec in inputs:
        shape = spec.shape if size is None else spec.with_batch(size)
        shapes[copy.input(spec.name)] = list(shape)
    copy.reshape(shapes)
    return copy


def save_fused(artifact: Artifact, path: Path) -> tuple[OutputStep, ...]:
    """Write the artifact's net with what surrounds it as an IR to ``path`` (``.xml``; the weights lie beside it).

    Returns:
        The postprocessing steps that are not in the graph.
    """
    silence_telemetry()
    import openvino

    model = openvino.Core().read_model(artifact.path)
    rest = fuse(openvino, model, artifact)
    openvino.save_model(model, path, compress_to_fp16=False)
    return rest


def _fuse_image(ov: Any, model: Any, image: ImageInput) -> None:
    from openvino import opset13 as ops

    old = _port(model.inputs, image.input, "input").get_node()
    kind, rows = old.get_element_type(), old.get_partial_shape()[0]
    depth = 1 if image.source_channels == "GRAY" else 3
    shape = ov.PartialShape([rows, image.height, image.width, depth])
    entry = ops.parameter(shape, ov.Type.u8, image.input)
    value = _channels(ov, ops, entry, image, depth)
    if image.layout == "NCHW":
        value = ops.transpose(value, np.array([0, 3, 1, 2], np.int64))
    if image.mean or image.scale:
        value = _convert(ops, value, ov.Type.f32)
    if image.mean:
        value = ops.subtract(value, per_channel(image.mean, image.layout))
    if image.scale:
        value = ops.divide(value, per_channel(image.scale, image.layout))
    if value.get_element_type() == ov.Type.f32 and not kind.is_real():
        value = ops.round(value, "half_to_even")
        ends = level_range(kind.to_dtype()) if image.mean or image.scale else None
        value = value if ends is None else ops.clamp(value, *ends)
    value = _convert(ops, value, kind)
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(value.output(0))
    old.output(0).get_tensor().set_names(set())
    entry.output(0).get_tensor().set_names({image.input})
    model.add_parameters([entry])
    model.remove_parameter(old)


def _channels(ov: Any, ops: Any, entry: Any, image: ImageInput, depth: int) -> Any:
    order = channel_order(image)
    if order is None:
        weights = np.asarray(luma_weights(image), np.float32)[:, None]
        return ops.matmul(_convert(ops, entry, ov.Type.f32), weights, transpose_a=False, transpose_b=False)
    if order == tuple(range(depth)):
        return entry
    return ops.gather(entry, np.asarray(order, np.int64), np.int64(3))


def _convert(ops: Any, value: Any, kind: Any) -> Any:
    return value if value.get_element_type() == kind else ops.convert(value, kind)


def _fuse_step(ov: Any, model: Any, step: OutputStep) -> None:
    from openvino import opset13 as ops

    port = _port(model.outputs, step.output, "output")
    result = port.get_node()
    raw = result.input_value(0)
    # The graph's own tensor keeps its other names; the one that is asked for goes to what the step gives.
    names = raw.get_tensor().get_names()
    raw.get_tensor().set_names({f"{name}/raw" for name in names})
    value = raw if raw.get_element_type().is_real() else ops.convert(raw, ov.Type.f32)
    after = ops.softmax(value, -1) if step.kind == "softmax" else ops.sigmoid(value)
    after.output(0).get_tensor().set_names(names)
    result.input(0).replace_source_output(after.output(0))


def _port(ports: Any, name: str, what: str) -> Any:
    for port in ports:
        if name in port.get_names():
            return port
    raise Unsupported(f"the graph has no {what} '{name}'; its {what}s are {[sorted(p.get_names()) for p in ports]}")
