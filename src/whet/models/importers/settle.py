"""What follows every conversion: the user's shapes, a free and proven batch axis, specs read back, precision.

Runs in the isolated process: it opens the converted model in the runtimes that take its format.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import ModelError, Unsupported, UsageError
from whet.models.importers import batch, openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.onnx_load import load_onnx, save_onnx
from whet.models.importers.reference import Runner, let_go, load_openvino, open_onnxruntime, open_openvino, random_feeds
from whet.tensors import DYNAMIC, TensorSpec


@dataclass(frozen=True, slots=True)
class Settled:
    """A converted model, ready to be sealed.

    Attributes:
        converted: with its files as they are to be stored, and notes of what was found here.
        inputs: specs, batch axis as -1 when ``batched``.
        outputs: likewise.
        batched: axis 0 is a batch axis and rows were proven independent.
        precision: of the weights.
        runtimes: which runtimes open it.
    """

    converted: Converted
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    precision: str
    runtimes: tuple[str, ...]


def settle(converted: Converted, options: Options, workdir: Path) -> Settled:
    """Apply the user's shapes, free the batch axis, prove it, and read the specs back.

    Raises:
        Unsupported: no inputs, no outputs, or the wanted format cannot be made from this one.
        ModelError: no runtime opens it; carries each one's reason.
        UsageError: a shape names no input, or does not fit its rank.
    """
    converted = _wanted_format(converted, options, workdir)
    converted = _shaped(converted, options.input_shapes, workdir)
    looks, refusals = _look(converted)
    if not looks:
        raise ModelError(f"no runtime opens the converted model: {'; '.join(refusals)}")
    inputs, outputs = looks[0].inputs, looks[0].outputs
    if not inputs or not outputs:
        raise Unsupported("the model has no inputs or no outputs; a service needs at least one of each")
    # An opset that ONNX Runtime refuses still runs in OpenVINO, and the other way round: say so once, here.
    notes = [*converted.notes, *refusals]
    precision = weights_precision(converted.model, converted.format)
    let_go()
    freed, reason = _free(converted, looks, workdir, quantised=precision in {"int8", "mixed"})
    if freed is None:
        notes.append(f"runs one request at a time: {reason}")
    else:
        if freed.repaired:
            notes.append(f"{freed.repaired} reshape(s) held the batch at 1; freed, outputs proven equal")
        kept = [file for file in converted.files if file not in _files_of(converted)]
        converted = replace(converted, model=freed.model, files=(*freed.files, *kept))
        inputs, outputs = (_with_batch(specs) for specs in (inputs, outputs))
    converted = replace(converted, notes=tuple(notes))
    runtimes = tuple(look.runtime for look in looks)
    return Settled(converted, inputs, outputs, freed is not None, precision, runtimes)


@dataclass(frozen=True, slots=True)
class _Look:
    """What one runtime says of the net as it came; the runtime is closed again, large nets are never open twice.

    Attributes:
        runtime: its name.
        inputs: specs.
        outputs: specs, ranks measured where the runtime does not know them.
        rows: outputs of two samples one by one, or why there are none.
    """

    runtime: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows: batch.Rows | str


def _look(converted: Converted) -> tuple[list[_Look], list[str]]:
    looks, refusals = [], []
    for runtime, way in _ways(converted.model, converted.format).items():
        try:
            runner = way()
        except ModelError as error:
            refusals.append(str(error))
            continue
        reason = batch.candidate(runner.inputs)
        rows = reason or batch.rows_of(runner)
        looks.append(_Look(runtime, *_measured(runner), rows))
        del runner
        let_go()
    return looks, refusals


def _wanted_format(converted: Converted, options: Options, workdir: Path) -> Converted:
    if options.to is None or options.to == converted.format:
        return converted
    if options.to == "ir" and converted.format == "onnx":
        ov = load_openvino()
        names = _onnx_names(converted.model)
        model = openvino_front.read_ir(lambda: ov.Core().read_model(str(converted.model)), converted.model, "ONNX")
        for port, name in zip((*model.inputs, *model.outputs), (*names[0], *names[1]), strict=True):
            port.get_tensor().set_names({name})
        made = openvino_front.saved(model, workdir)
        return replace(converted, model=made.model, files=made.files, format="ir", recipe=made.recipe)
    raise Unsupported(
        f"this format converts to '{converted.format}', and no exporter makes '{options.to}' of that; leave --to away"
    )


def _shaped(converted: Converted, shapes: dict[str, tuple[int, ...]], workdir: Path) -> Converted:
    if converted.format == "ir":
        return _shaped_ir(converted, shapes, workdir)
    if not shapes or converted.format != "onnx":
        return converted
    model = load_onnx(converted.model)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in stored}
    for name, shape in resolve_shapes(
        shapes, {n: len(v.type.tensor_type.shape.dim) for n, v in inputs.items()}
    ).items():
        dims = inputs[name].type.tensor_type.shape.dim
        del dims[:]
        for index, size in enumerate(shape):
            dim = dims.add()
            if size == DYNAMIC:
                dim.dim_param = batch.BATCH_NAME if index == 0 else f"{name}_{index}"
            else:
                dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    target = workdir / "shaped" / "model.onnx"
    target.parent.mkdir()
    made = save_onnx(model, target)
    kept = [file for file in converted.files if file not in _files_of(converted)]
    return replace(converted, model=target, files=(*made, *kept))


def _shaped_ir(converted: Converted, shapes: dict[str, tuple[int, ...]], workdir: Path) -> Converted:
    """Apply shapes; an input of unknown rank that the user says nothing about is taken as one free axis."""
    ov = load_openvino()
    model = ov.Core().read_model(str(converted.model))
    ranks = {
        port.any_name: -1 if port.partial_shape.rank.is_dynamic else int(port.partial_shape.rank.get_length())
        for port in model.inputs
    }
    wanted = resolve_shapes(shapes, ranks)
    guessed = [name for name, rank in ranks.items() if rank < 0 and name not in wanted]
    wanted.update(dict.fromkeys(guessed, (DYNAMIC,)))
    if not wanted:
        return converted
    try:
        model.reshape({name: ov.PartialShape(list(shape)) for name, shape in wanted.items()})
    except RuntimeError as error:
        said = ", ".join(f"{name}={list(shape)}" for name, shape in wanted.items())
        raise UsageError(f"--input-shape {said} does not fit the model; see whet inspect for its shapes") from error
    folder = workdir / "shaped"
    folder.mkdir()
    made = openvino_front.saved(model, folder)
    notes = tuple(f"the rank of input '{n}' is not said; taken as one free axis (--input-shape)" for n in guessed)
    return replace(converted, model=made.model, files=made.files, notes=(*converted.notes, *notes))


def resolve_shapes(shapes: dict[str, tuple[int, ...]], ranks: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes by real input name; the key ``""`` is the only input.

    Args:
        shapes: what the user said.
        ranks: rank by input name, -1 where unknown.

    Raises:
        UsageError: a name or rank that is not the model's.
    """
    resolved = {}
    for name, shape in shapes.items():
        if name == "" and len(ranks) != 1:
            raise UsageError(f"--input-shape without a name fits a model of one input; this has {sorted(ranks)}")
        real = name or next(iter(ranks))
        if real not in ranks:
            raise UsageError(f"--input-shape names '{real}', which is no input; the model takes {sorted(ranks)}")
        if ranks[real] not in {-1, len(shape)}:
            raise UsageError(f"--input-shape {real}={list(shape)} has {len(shape)} axes, the input has {ranks[real]}")
        resolved[real] = shape
    return resolved


def _ways(model: Path, kind: str) -> dict[str, Callable[[], Runner]]:
    """Return how to open the model, by runtime that takes its format."""
    names = _onnx_names(model) if kind == "onnx" else ((), ())
    ways: dict[str, Callable[[], Runner]] = {"openvino": lambda: open_openvino(model, *names)}
    if kind == "onnx":
        ways["onnxruntime"] = lambda: open_onnxruntime(model)
    return ways


def _onnx_names(model: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in stored)
    return inputs, tuple(value.name for value in graph.output)


def _files_of(converted: Converted) -> set[Path]:
    """The files the main file consists of: itself and its weights, not what is kept beside it."""
    model = converted.model
    return {model, model.with_suffix(".bin"), model.with_name(model.name + ".data")}


def _free(
    converted: Converted, looks: list[_Look], workdir: Path, *, quantised: bool
) -> tuple[batch.Freed | None, str]:
    for look in looks:
        if isinstance(look.rows, str):
            return None, look.rows
    folder = workdir / "freed"
    folder.mkdir()
    target = folder / converted.model.name
    make = batch.free_ir if converted.format == "ir" else batch.free_onnx

    def judge(freed: batch.Freed) -> str:
        ways = _ways(freed.model, converted.format)
        for look in looks:
            assert isinstance(look.rows, batch.Rows)
            let_go()
            try:
                reason = batch.prove(look.rows, ways[look.runtime](), quantised=quantised)
            except ModelError as error:
                return str(error)
            if reason:
                return f"{reason} in {look.runtime}"
        return ""

    return batch.first_that_holds(lambda repair: make(converted.model, target, repair=repair), judge)


def _measured(runner: Runner) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the specs; an output whose rank only running tells gets it from a run, every axis free."""
    if not runner.unranked:
        return runner.inputs, runner.outputs
    try:
        ran = runner.run(random_feeds(runner.inputs, rows=1, seed=3))
    except ModelError:
        return runner.inputs, runner.outputs
    free = {name: (DYNAMIC,) * np.ndim(ran[name]) for name in runner.unranked}
    outputs = tuple(replace(spec, shape=free.get(spec.name, spec.shape)) for spec in runner.outputs)
    return runner.inputs, outputs


def _with_batch(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, shape=(DYNAMIC, *spec.shape[1:])) for spec in specs)


def weights_precision(model: Path, kind: str) -> str:
    """Return ``f32``, ``f16``, ``bf16``, ``int8`` or ``mixed``: what nine tenths of the weight elements are.

    Weights are constants of two and more axes; a net without any counts as ``f32``.
    """
    counts: dict[str, int] = {}
    for name, size in _onnx_weights(model) if kind == "onnx" else _ir_weights(model):
        counts[name] = counts.get(name, 0) + size
    total = sum(counts.values())
    if not total:
        return "f32"
    name, most = max(counts.items(), key=lambda item: item[1])
    return name if most >= 0.9 * total else "mixed"


_PRECISIONS = {"f64": "f32", "f32": "f32", "f16": "f16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


def _ir_weights(model: Path) -> list[tuple[str, int]]:
    net = load_openvino().Core().read_model(str(model))
    found = []
    for node in net.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.shape) >= 2:
            name = _PRECISIONS.get(node.get_element_type().to_string())
            if name:
                found.append((name, int(np.prod(node.shape))))
    return found


def _onnx_weights(model: Path) -> list[tuple[str, int]]:
    import onnx

    kinds = {1: "f32", 11: "f32", 10: "f16", 16: "bf16", 3: "int8", 2: "int8"}  # TensorProto.DataType
    graph: Any = onnx.load(str(model), load_external_data=False).graph
    tensors = [*graph.initializer, *(a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute)]
    return [(kinds[t.data_type], int(np.prod(t.dims))) for t in tensors if t.data_type in kinds and len(t.dims) >= 2]
