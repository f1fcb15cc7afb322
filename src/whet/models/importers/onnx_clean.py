"""Takes handicaps out of an ONNX graph without changing what it computes, and names each one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.errors import ModelError
from whet.models.importers.isolated import one_line
from whet.models.importers.onnx_load import opset_of, save_onnx
from whet.models.importers.reference import Runner, agree, open_onnxruntime, open_openvino, random_feeds

HEALTHY_OPSET = 13
"""From here on runtimes and quantizers take a graph without reservation (per-axis quantization, typed axes)."""


@dataclass(slots=True)
class Cleaned:
    """What cleaning did.

    Attributes:
        model: the graph, changed in place or replaced.
        changed: it differs from what came in.
        notes: a sentence per handicap.
        settings: the same for the lineage.
        labels: class names by output that a dropped ZipMap carried.
    """

    model: Any
    changed: bool = False
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)


def clean(model: Any, path: Path, workdir: Path) -> Cleaned:
    """Remove initializers from the inputs, drop ZipMap, raise the opset where the result proves equal.

    Args:
        model: the ``ModelProto`` read from ``path``; it is changed.
        path: the untouched file, to compare with.
        workdir: where trial files may be written.
    """
    cleaned = Cleaned(model)
    _drop_initializer_inputs(cleaned)
    _drop_zipmap(cleaned)
    _raise_opset(cleaned, path, workdir)
    return cleaned


def runners(path: Path, model: Any) -> dict[str, Runner | str]:
    """Open an ONNX file in both runtimes; the value is a runner, or the reason why that runtime refuses it."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in stored]
    outputs = [value.name for value in model.graph.output]
    opened: dict[str, Runner | str] = {}
    try:
        opened["openvino"] = open_openvino(path, inputs, outputs)
    except ModelError as error:
        opened["openvino"] = str(error)
    try:
        opened["onnxruntime"] = open_onnxruntime(path)
    except ModelError as error:
        opened["onnxruntime"] = str(error)
    return opened


def _drop_initializer_inputs(cleaned: Cleaned) -> None:
    graph = cleaned.model.graph
    stored = {tensor.name for tensor in graph.initializer}
    extra = [value for value in graph.input if value.name in stored]
    if not extra:
        return
    for value in extra:
        graph.input.remove(value)
    cleaned.changed = True
    cleaned.settings["initializers_dropped_from_inputs"] = len(extra)
    cleaned.notes.append(
        f"lists its {len(extra)} initializers as inputs, which keeps runtimes from folding them; "
        "the stored copy does not"
    )


def _drop_zipmap(cleaned: Cleaned) -> None:
    """Replace each ZipMap's list of maps by the plain tensor it was made from; its class names become labels."""
    from onnx import TensorProto, helper

    graph = cleaned.model.graph
    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        labels = next((tuple(_text(item) for item in (*a.strings, *a.ints)) for a in node.attribute), ())
        for output in graph.output:
            if output.name == node.output[0]:  # ZipMap takes floats only, [N, classes]
                output.CopyFrom(helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, ["N", len(labels)]))
        graph.node.remove(node)
        cleaned.changed = True
        cleaned.labels[node.input[0]] = labels
        cleaned.settings["zipmap_dropped"] = node.output[0]
        cleaned.notes.append(
            f"gave '{node.output[0]}' as a list of maps (ZipMap); the stored copy gives the tensor '{node.input[0]}'"
        )


def _text(item: Any) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _raise_opset(cleaned: Cleaned, path: Path, workdir: Path) -> None:
    opset = opset_of(cleaned.model)
    if opset >= HEALTHY_OPSET:
        return
    handicap = f"opset {opset} is below {HEALTHY_OPSET}, where runtimes optimise less and quantizers refuse"
    try:
        raised = _convert_version(cleaned.model, path, workdir)
    except ModelError as error:
        cleaned.notes.append(f"{handicap}; it could not be raised: {error}")
        cleaned.settings["opset"] = opset
        return
    cleaned.model = raised
    cleaned.changed = True
    cleaned.settings["opset"] = [opset, HEALTHY_OPSET]
    cleaned.notes.append(f"{handicap}; the stored copy has opset {HEALTHY_OPSET} with equal outputs")


def _convert_version(model: Any, path: Path, workdir: Path) -> Any:
    """Return the model at :data:`HEALTHY_OPSET`.

    Raises:
        ModelError: the converter failed, or the result computes something else.
    """
    from onnx import version_converter

    try:
        raised = version_converter.convert_version(model, HEALTHY_OPSET)
    except Exception as error:
        raise ModelError(f"onnx's version converter says: {one_line(error)}") from error
    trial = workdir / "raised.onnx"
    files = save_onnx(raised, trial)
    before, after = runners(path, model), runners(trial, raised)
    try:
        tried = [name for name, runner in before.items() if isinstance(runner, Runner)]
        for name in tried:
            one, other = before[name], after[name]
            assert isinstance(one, Runner)
            if not isinstance(other, Runner):
                raise ModelError(f"after raising it, {other}")
            _same(one, other)
        if not tried:
            raise ModelError(f"no runtime opens the original: {'; '.join(map(str, before.values()))}")
    finally:
        for file in files:
            file.unlink()
    return raised


def _same(one: Runner, other: Runner) -> None:
    feeds = random_feeds(one.inputs, rows=1, seed=7)
    before, after = one.run(feeds), other.run(feeds)
    for name, value in before.items():
        if not agree(value, after[name]):
            raise ModelError(f"after raising it, {one.runtime} gives another output '{name}'")
