"""Walks an artifact's graph and says of every operator what it is, how large, and how much arithmetic it does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet.errors import ModelError
from whet.models import flops
from whet.models.flops import Cost, Shape
from whet.models.importers.isolated import one_line
from whet.models.importers.onnx_load import load_onnx, opset_of
from whet.models.importers.reference import load_openvino

MOVES = frozenset({"Parameter", "Result", "Constant"})
"""OpenVINO nodes that are no operators."""


@dataclass(frozen=True, slots=True)
class Walked:
    """A graph, counted.

    Attributes:
        version: ``opset 13`` or ``IR version 11``.
        parameters: elements of stored float and integer weights.
        parameter_bytes: what they take in the file.
        operators: (operator, cost) in graph order; the cost is None where a shape is not known.
    """

    version: str
    parameters: int
    parameter_bytes: int
    operators: tuple[tuple[str, Cost | None], ...]


def walk(model: Path, kind: str, shapes: Mapping[str, Shape]) -> Walked:
    """Count an ``onnx`` or ``ir`` file at the given input shapes.

    Args:
        model: the file.
        kind: artifact format.
        shapes: fixed shape by input name; an input left away keeps its own.

    Raises:
        ModelError: the file cannot be read, or the shapes do not fit it.
    """
    if kind != "onnx":
        return _walk_ir(model, shapes)
    walked = _walk_onnx(model, shapes)
    if all(cost is not None for _, cost in walked.operators):
        return walked
    # ONNX infers no shapes for its oldest operator sets, OpenVINO does; the operators then carry OpenVINO's names.
    try:
        other = _walk_ir(model, shapes)
    except ModelError:
        return walked
    return replace(walked, operators=other.operators)


def _walk_onnx(path: Path, shapes: Mapping[str, Shape]) -> Walked:
    import onnx

    model = load_onnx(path)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise ModelError(f"{path}: shapes cannot be inferred: {one_line(error)}") from error
    graph = inferred.graph
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shape = _fixed(value)
        if shape is not None:
            known[value.name] = shape
    stored = [*graph.initializer, *(a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute)]
    known.update(
        {n.output[0]: tuple(n.attribute[0].t.dims) for n in graph.node if n.op_type == "Constant" and n.attribute}
    )
    weights = [tensor for tensor in stored if tensor.data_type in _ONNX_WEIGHTS]
    operators = tuple((n.op_type, _onnx_cost(n, known)) for n in graph.node if n.op_type != "Constant")
    return Walked(
        version=f"opset {opset_of(model)}",
        parameters=sum(_size(tuple(tensor.dims)) for tensor in weights),
        parameter_bytes=int(sum(_size(tuple(t.dims)) * _ONNX_WEIGHTS[t.data_type] for t in weights)),
        operators=operators,
    )


# TensorProto.DataType -> bytes an element, of types that weights have; integers of 32 and 64 bits are shapes and axes.
_ONNX_WEIGHTS = {1: 4, 11: 8, 10: 2, 16: 2, 2: 1, 3: 1, 21: 0.5, 22: 0.5}


def _fixed(value: Any) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _size(shape: Shape) -> int:
    size = 1
    for dim in shape:
        size *= dim
    return size


def _onnx_cost(node: Any, known: Mapping[str, Shape]) -> Cost | None:
    inputs = [known.get(name) for name in node.input]
    out = (
        known.get(node.output[0]) if node.output and node.output[0] else known.get(next(filter(None, node.output), ""))
    )
    kind = node.op_type
    needed = inputs[:2] if kind in _ONNX_ARITHMETIC else inputs[:1]
    if out is None or (any(shape is None for shape in needed) and kind in {*_ONNX_ARITHMETIC, *_ONNX_POOLS}):
        # Only arithmetic needs shapes; what merely moves data costs nothing at any size.
        return None if out is None and _costs(kind) else Cost()
    if kind in _ONNX_ARITHMETIC:
        shapes = [shape or () for shape in inputs]
        return _ONNX_ARITHMETIC[kind](node, shapes, out)
    if kind in _ONNX_POOLS:
        return flops.pool(out, tuple(next((a.ints for a in node.attribute if a.name == "kernel_shape"), ())))
    return flops.simple(kind, inputs[0] or () if inputs else (), out)


def _costs(kind: str) -> bool:
    return kind in _ONNX_ARITHMETIC or kind in _ONNX_POOLS or flops.simple(kind, (1,), (1,)).flops > 0


def _attribute(node: Any, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _onnx_conv(node: Any, shapes: list[Shape], out: Shape) -> Cost:
    place = 3 if node.op_type == "QLinearConv" else 1
    bias = (8 if place == 3 else 2) < len(shapes)
    return flops.conv(out, shapes[place][1:], bias=bias)


def _onnx_deconv(node: Any, shapes: list[Shape], out: Shape) -> Cost:
    del node
    return flops.deconv(shapes[0], shapes[1][1:], out, bias=len(shapes) > 2)


def _onnx_gemm(node: Any, shapes: list[Shape], out: Shape) -> Cost:
    shared = shapes[0][0] if _attribute(node, "transA", 0) else shapes[0][-1]
    return flops.matmul(out, shared, bias=len(shapes) > 2)


def _onnx_matmul(node: Any, shapes: list[Shape], out: Shape) -> Cost:
    del node
    return flops.matmul(out, shapes[0][-1])


def _onnx_recurrent(node: Any, shapes: list[Shape], out: Shape) -> Cost:
    del out
    directions, hidden = shapes[1][0], int(_attribute(node, "hidden_size", 1))
    return flops.recurrent(node.op_type, shapes[0][0] * shapes[0][1], directions, hidden, shapes[0][2])


_ONNX_ARITHMETIC: dict[str, Callable[[Any, list[Shape], Shape], Cost]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv"), _onnx_conv),
    "ConvTranspose": _onnx_deconv,
    "Gemm": _onnx_gemm,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _onnx_matmul),
    **dict.fromkeys(flops.GATES, _onnx_recurrent),
}
_ONNX_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})


def _walk_ir(path: Path, shapes: Mapping[str, Shape]) -> Walked:
    ov = load_openvino()
    try:
        model = ov.Core().read_model(str(path))
        if shapes:
            model.reshape({name: ov.PartialShape(list(shape)) for name, shape in shapes.items()})
    except RuntimeError as error:
        raise ModelError(f"{path} cannot be walked at {dict(shapes)}: {one_line(error)}") from error
    count = total = 0
    operators = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Constant":
            bits = _IR_WEIGHTS.get(node.get_element_type().to_string(), 0)
            size = _size(tuple(int(dim) for dim in node.shape))
            count, total = count + (size if bits else 0), total + size * bits // 8
        if kind not in MOVES:
            operators.append((kind, _ir_cost(node, kind)))
    version = model.get_rt_info("version") if model.has_rt_info("version") else 11
    return Walked(f"IR version {_plain(version)}", count, total, tuple(operators))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


_IR_WEIGHTS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i8": 8, "u8": 8, "i4": 4, "u4": 4, "nf4": 4}


def _shape(port: Any) -> Shape | None:
    shape = port.get_partial_shape()
    return tuple(int(dim.get_length()) for dim in shape) if shape.is_static else None


def _ir_cost(node: Any, kind: str) -> Cost | None:
    inputs = [_shape(port) for port in node.inputs()]
    out = _shape(node.outputs()[0]) if node.outputs() else ()
    kind = "Softmax" if kind == "SoftMax" else kind
    arithmetic = kind in _IR_ARITHMETIC
    if out is None or (arithmetic and None in inputs[:2]):
        return None if arithmetic or flops.simple(kind, (1,), (1,)).flops else Cost()
    shapes = [shape or () for shape in inputs]
    if arithmetic:
        return _IR_ARITHMETIC[kind](node, shapes, out)
    if node.outputs() and node.get_output_element_type(0).to_string() in {"i32", "i64"}:
        return Cost()  # arithmetic on shapes, not on data
    return flops.simple(kind, shapes[0] if shapes else (), out)


def _ir_matmul(node: Any, shapes: list[Shape], out: Shape) -> Cost:
    turned = node.get_attributes().get("transpose_a", False) and len(shapes[0]) > 1
    return flops.matmul(out, shapes[0][-2] if turned else shapes[0][-1])


def _ir_recurrent(node: Any, shapes: list[Shape], out: Shape) -> Cost:
    """X is ``[batch, steps, width]``; the weights ``[directions, gates * hidden, width]`` follow the states."""
    del out
    name = node.get_type_name().removesuffix("Sequence")
    place = 4 if name == "LSTM" else 3
    directions, rows, width = shapes[place]
    hidden = rows // flops.GATES[name]
    return flops.recurrent(name, shapes[0][0] * shapes[0][1], directions, hidden, width)


_IR_ARITHMETIC: dict[str, Callable[[Any, list[Shape], Shape], Cost]] = {
    "Convolution": lambda _node, shapes, out: flops.conv(out, shapes[1][1:]),
    "GroupConvolution": lambda _node, shapes, out: flops.conv(out, shapes[1][2:]),
    "ConvolutionBackpropData": lambda _node, shapes, out: flops.deconv(shapes[0], shapes[1][1:], out),
    "GroupConvolutionBackpropData": lambda _node, shapes, out: flops.deconv(shapes[0], shapes[1][2:], out),
    "MatMul": _ir_matmul,
    **dict.fromkeys(("LSTMSequence", "GRUSequence", "RNNSequence"), _ir_recurrent),
    **dict.fromkeys(
        ("MaxPool", "AvgPool"), lambda node, _shapes, out: flops.pool(out, tuple(node.get_attributes()["kernel"]))
    ),
}
