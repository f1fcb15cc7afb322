"""Makes the batch axis free and proves that rows do not influence each other, by running both ways at f32.

A net exported at batch 1 often holds the 1 in a ``Reshape`` as well; where freeing the inputs alone is not enough,
such constants are changed to "as many as come in". Nothing is believed: the freed net on a batch of two must give
what the net as it came gives on two batches of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import ModelError, WhetError
from whet.models.importers.onnx_load import load_onnx, save_onnx
from whet.models.importers.reference import Runner, agree, difference, load_openvino, random_feeds
from whet.tensors import DYNAMIC, Array, TensorSpec

BATCH_NAME = "N"
"""What the free axis is called in an ONNX graph."""
FREE_SIZES = (64, 224, 16)
"""Lengths tried for axes other than the batch that are not fixed."""
QUANTISED_TOLERANCE = 1e-2
"""A quantised net may round one level differently from batch to batch; more than that is influence."""


@dataclass(frozen=True, slots=True)
class Freed:
    """A model with a free batch axis.

    Attributes:
        model: its main file.
        files: every file of it.
        repaired: reshapes that held the batch and were freed too.
    """

    model: Path
    files: tuple[Path, ...]
    repaired: int


def candidate(inputs: tuple[TensorSpec, ...]) -> str:
    """Return why the first axis cannot be a batch axis, or an empty string if it may be one."""
    for spec in inputs:
        if not spec.shape:
            return f"input '{spec.name}' is a scalar"
        if spec.shape[0] not in {1, DYNAMIC}:
            return f"axis 0 of input '{spec.name}' is fixed at {spec.shape[0]}"
    return ""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the net as it came gives on two single samples.

    Attributes:
        feeds: both samples as one batch.
        outputs: of the first sample and of the second, each a batch of one.
    """

    feeds: dict[str, Array]
    outputs: tuple[dict[str, Array], dict[str, Array]]


def rows_of(whole: Runner) -> Rows | str:
    """Run two random samples one by one; or return why none could be run."""
    reason = ""
    dynamic = any(dim == DYNAMIC for spec in whole.inputs for dim in spec.shape[1:])
    for free in FREE_SIZES if dynamic else FREE_SIZES[:1]:
        feeds = random_feeds(whole.inputs, rows=2, seed=20, free=free)
        try:
            first, second = (whole.run({name: v[row : row + 1] for name, v in feeds.items()}) for row in range(2))
        except ModelError as error:
            reason = f"no random input could be run through it ({error})"
            continue
        return Rows(feeds, (first, second))
    return reason


def prove(rows: Rows, freed: Runner, *, quantised: bool) -> str:
    """Run ``freed`` on both samples as one batch; return how that differs from one by one, or an empty string.

    Args:
        rows: what the net as it came gave.
        freed: the same net with a free batch axis, in the same runtime.
        quantised: it holds integer layers, so a rounding flip is no influence.
    """
    try:
        both = freed.run(rows.feeds)
    except ModelError as error:
        return f"a batch of two cannot be run ({error})"
    return _compare(rows.outputs, both, QUANTISED_TOLERANCE if quantised else None)


def _compare(rows: Sequence[dict[str, Array]], both: dict[str, Array], tolerance: float | None) -> str:
    for name, value in both.items():
        if value.ndim == 0 or value.shape[0] != 2:
            return f"output '{name}' of a batch of two has shape {list(value.shape)}"
        for index, row in enumerate(rows):
            mine = value[index : index + 1]
            same = agree(row[name], mine) if tolerance is None else agree(row[name], mine, tolerance)
            if not same:
                return (
                    f"rows influence each other: output '{name}' of a batch of two is "
                    f"{difference(row[name], mine):.2g} off that of a batch of one"
                )
    return ""


def free_onnx(path: Path, target: Path, *, repair: bool) -> Freed:
    """Write the ONNX file with axis 0 of every input and output named :data:`BATCH_NAME`."""
    model = load_onnx(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in stored and dims and (dims[0].dim_value == 1 or not dims[0].dim_param):
            dims[0].dim_param = BATCH_NAME
    # Inferred shapes inside the graph still say batch 1; runtimes infer them again.
    del model.graph.value_info[:]
    repaired = _repair_onnx(model.graph) if repair else 0
    return Freed(target, save_onnx(model, target), repaired)


def _repair_onnx(graph: Any) -> int:
    """Change the leading 1 of constant Reshape targets to 0, "as the input"; return how many."""
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == 7}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    count = 0
    for node in graph.node:
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        if shape is None or shape.ndim != 1 or shape.size < 2 or shape[0] != 1:
            continue
        freed = numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), f"{node.input[1]}/free/{count}")
        graph.initializer.append(freed)
        node.input[1] = freed.name
        count += 1
    return count


def free_ir(path: Path, target: Path, *, repair: bool) -> Freed:
    """Write the IR with axis 0 of every input free.

    Raises:
        ModelError: OpenVINO finds the net inconsistent with a free batch.
    """
    ov = load_openvino()
    model = ov.Core().read_model(str(path))
    repaired = _repair_ir(model, ov) if repair else 0
    try:
        model.reshape({port: ov.PartialShape([-1, *list(port.partial_shape)[1:]]) for port in model.inputs})
    except RuntimeError as error:
        raise ModelError("OpenVINO finds a fixed batch inside it") from error
    ov.save_model(model, str(target), compress_to_fp16=False)
    return Freed(target, (target, target.with_suffix(".bin")), repaired)


def _repair_ir(model: Any, ov: Any) -> int:
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape":
            continue
        source = node.input_value(1).get_node()
        shape = source.get_data() if source.get_type_name() == "Constant" else None
        if shape is None or shape.ndim != 1 or shape.size < 2 or shape[0] != 1:
            continue
        # 0 means "as the input" only where the node says so; -1 means "whatever is left", once.
        lead = 0 if node.get_attributes()["special_zero"] else -1
        if lead == -1 and -1 in shape:
            continue
        freed = ov.opset13.constant(np.array([lead, *shape[1:]], np.int64))
        node.input(1).replace_source_output(freed.output(0))
        count += 1
    return count


def first_that_holds(make: Callable[[bool], Freed], judge: Callable[[Freed], str]) -> tuple[Freed | None, str]:
    """Try freeing the inputs alone, then with the reshapes; return the first that is proven, or the last reason."""
    reason = ""
    for repair in (False, True):
        try:
            freed = make(repair)
        except WhetError as error:
            reason = str(error)
            continue
        reason = judge(freed)
        if not reason:
            return freed, ""
        if repair and not freed.repaired:
            break
        for file in freed.files:
            file.unlink(missing_ok=True)
    return None, reason
