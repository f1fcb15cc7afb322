"""Takes what surrounds a net into its ONNX graph, so that ONNX Runtime takes ``uint8`` images and gives answers.

The nodes compute what :mod:`whet.models.around` computes. Channels are picked and axes moved while the values still
are bytes, a quarter of the memory traffic of doing it in float.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from whet.errors import Unsupported
from whet.models.around import channel_order, level_range, luma_weights, per_channel, split_post
from whet.models.artifact import Artifact, ImageInput, OutputStep
from whet.tensors import Array


def fuse_onnx(model: Any, artifact: Artifact) -> Any:
    """Return a copy of ``model`` with ``artifact.images`` in front and the first half of ``split_post`` behind.

    Image inputs become ``UINT8 [N, height, width, channels]`` and keep their names; outputs keep theirs.

    Raises:
        Unsupported: an image input or a postprocessed output that the graph does not have.
    """
    import onnx

    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    for image in artifact.images:
        fuse_image(fused, image)
    fuse_post(fused, split_post(artifact.post)[0])
    return fused


def fuse_image(model: Any, image: ImageInput) -> None:
    """Put the preprocessing of one image input in front of ``model``, in place."""
    from onnx import TensorProto, helper

    graph = model.graph
    entry = next((value for value in graph.input if value.name == image.input), None)
    if entry is None:
        raise Unsupported(f"the graph has no input '{image.input}' to take images")
    kind = entry.type.tensor_type.elem_type
    batch = entry.type.tensor_type.shape.dim[0]
    rows = batch.dim_value if batch.HasField("dim_value") else batch.dim_param or "N"
    depth = 1 if image.source_channels == "GRAY" else 3
    steps = _Chain(graph, image.input)
    _pick_channels(steps, image, depth)
    if image.layout == "NCHW":
        steps.add("Transpose", perm=[0, 3, 1, 2])
    if image.mean or image.scale:
        steps.cast(TensorProto.FLOAT)
    for operator, values in (("Sub", image.mean), ("Div", image.scale)):
        if values:
            steps.add(operator, per_channel(values, image.layout))
    if steps.kind == TensorProto.FLOAT and kind not in {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}:
        steps.add("Round")
        ends = level_range(helper.tensor_dtype_to_np_dtype(kind)) if image.mean or image.scale else None
        for operator, end in zip(("Max", "Min"), ends or (), strict=False):
            steps.add(operator, np.asarray(end, np.float32))
    steps.cast(kind)
    steps.deliver()
    shape = [rows, image.height, image.width, depth]
    entry.CopyFrom(helper.make_tensor_value_info(image.input, TensorProto.UINT8, shape))


def fuse_post(model: Any, steps: Sequence[OutputStep]) -> None:
    """Append softmax and sigmoid to the outputs they belong to, in place; outputs keep their names."""
    from onnx import helper

    graph = model.graph
    for step in steps:
        value = next((output for output in graph.output if output.name == step.output), None)
        if value is None:
            raise Unsupported(f"the graph has no output '{step.output}' to run {step.kind} on")
        raw = _fresh(graph, f"{step.output}/raw")
        _rename(graph, step.output, raw, outputs=True)
        # Before opset 13 Softmax flattens from its axis on, which for the last axis is the same thing.
        axis = {"axis": len(value.type.tensor_type.shape.dim) - 1} if step.kind == "softmax" else {}
        operator = "Softmax" if step.kind == "softmax" else "Sigmoid"
        graph.node.append(helper.make_node(operator, [raw], [step.output], **axis))


class _Chain:
    """Nodes put in front of a graph, one after another, that end in the name its consumers are given."""

    def __init__(self, graph: Any, name: str) -> None:
        self.graph, self.name, self.last = graph, name, name
        self.nodes: list[Any] = []
        self.kind = 2  # TensorProto.UINT8

    def add(self, operator: str, constant: Array | None = None, **attributes: Any) -> None:
        """Add a node that takes the last result, and ``constant`` as its second input."""
        from onnx import helper, numpy_helper

        result = _fresh(self.graph, f"{self.name}/around/{len(self.nodes)}")
        inputs = [self.last]
        if constant is not None:
            tensor = numpy_helper.from_array(constant, f"{result}/value")
            self.graph.initializer.append(tensor)
            inputs.append(tensor.name)
        self.nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        self.last = result

    def cast(self, kind: int) -> None:
        """Cast to a ``TensorProto.DataType`` unless the values have it."""
        if kind != self.kind:
            self.add("Cast", to=kind)
            self.kind = kind

    def deliver(self) -> None:
        """Give the last result to whoever consumed the input, and put the nodes first."""
        if self.nodes:
            _rename(self.graph, self.name, self.last, outputs=False)
        rest = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self.nodes, *rest])


def _pick_channels(steps: _Chain, image: ImageInput, depth: int) -> None:
    from onnx import TensorProto

    order = channel_order(image)
    if order is None:
        steps.cast(TensorProto.FLOAT)
        steps.add("MatMul", np.asarray(luma_weights(image), np.float32)[:, None])
    elif order != tuple(range(depth)):
        steps.add("Gather", np.asarray(order, np.int64), axis=3)


def _rename(graph: Any, old: str, new: str, *, outputs: bool) -> None:
    """Rename a tensor wherever nodes (and graphs inside them) read it, and write it when ``outputs``."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
        for place, name in enumerate(node.output):
            if outputs and name == old:
                node.output[place] = new
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, old, new, outputs=False)


def _fresh(graph: Any, name: str) -> str:
    taken = {one for node in graph.node for one in node.output} | {tensor.name for tensor in graph.initializer}
    while name in taken:
        name += "_"
    return name
