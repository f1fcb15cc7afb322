"""What a model is, for people and programs: the card that ``whet inspect MODEL`` shows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from whet.models.around import service_outputs
from whet.models.artifact import Artifact, ImageInput, Lineage, OutputStep
from whet.models.flops import Cost, Shape
from whet.models.importers.walk import walk
from whet.tensors import DYNAMIC, TensorSpec


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """One kind of operator.

    Attributes:
        operator: its name in the format.
        count: how often it stands in the graph.
        flops: what all of them do for one sample; None where a shape is not known.
        share: of the model's FLOPs, 0 to 1.
    """

    operator: str
    count: int
    flops: int | None
    share: float


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What an artifact holds.

    Attributes:
        format: of the artifact.
        version: ``opset 13`` or ``IR version 11``.
        sha256: of the artifact.
        file_bytes: of every file of the artifact.
        inputs: what the net takes.
        outputs: what the net gives.
        service_inputs: what a request carries.
        service_outputs: what an answer carries.
        batched: requests may be computed together.
        precision: of the weights.
        parameters: stored weights, elements.
        parameter_bytes: and the bytes they take.
        shapes: input shapes for which arithmetic was counted, one sample; empty where they are not known.
        macs: multiply-accumulates a sample at ``shapes``, None where a shape is not known.
        flops: floating-point operations a sample at ``shapes`` (see :mod:`whet.models.flops`), None likewise.
        operators: most arithmetic first.
        images: preprocessing.
        post: postprocessing.
        lineage: how it came to be.
        notes: handicaps and peculiarities.
    """

    format: str
    version: str
    sha256: str
    file_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    service_inputs: tuple[TensorSpec, ...]
    service_outputs: tuple[TensorSpec, ...]
    batched: bool
    precision: str
    parameters: int
    parameter_bytes: int
    shapes: dict[str, Shape]
    macs: int | None
    flops: int | None
    operators: tuple[OperatorRow, ...]
    images: tuple[ImageInput, ...]
    post: tuple[OutputStep, ...]
    lineage: tuple[Lineage, ...]
    notes: tuple[str, ...]


def inspect_model(artifact: Artifact, shapes: Mapping[str, Shape] | None = None) -> ModelCard:
    """Read the artifact's graph and count it for one sample.

    Args:
        artifact: ``onnx`` or ``ir``.
        shapes: shape by input where the model leaves axes free; the batch axis counts as 1 and a picture's size as its
            preprocessing says.

    Raises:
        ModelError: the file cannot be read, or a shape does not fit it.
    """
    fixed = sample_shapes(artifact, shapes or {})
    walked = walk(artifact.path, artifact.format, fixed)
    operators = _rows(walked.operators)
    # Without a shape for every input nothing can be counted honestly, even where some operators' shapes are known.
    complete = len(fixed) == len(artifact.inputs) and all(row.flops is not None for row in operators)
    costs = [cost for _, cost in walked.operators if cost is not None]
    files = [path for path in artifact.folder.rglob("*") if path.is_file()]
    return ModelCard(
        format=artifact.format,
        version=walked.version,
        sha256=artifact.sha256,
        file_bytes=sum(path.stat().st_size for path in files),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        service_inputs=artifact.service_inputs,
        service_outputs=service_outputs(artifact),
        batched=artifact.batched,
        precision=artifact.precision,
        parameters=walked.parameters,
        parameter_bytes=walked.parameter_bytes,
        shapes=fixed,
        macs=sum(cost.macs for cost in costs) if complete else None,
        flops=sum(cost.flops for cost in costs) if complete else None,
        operators=operators,
        images=artifact.images,
        post=artifact.post,
        lineage=artifact.lineage,
        notes=artifact.notes,
    )


def sample_shapes(artifact: Artifact, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the fixed shape of one sample for each input that has one."""
    fixed: dict[str, Shape] = {}
    images = {image.input: image for image in artifact.images}
    for spec in artifact.inputs:
        shape = list(shapes.get(spec.name, spec.shape))
        if shape and shape[0] == DYNAMIC:
            shape[0] = 1
        if spec.name in images and len(shape) == 4:
            first = 2 if images[spec.name].layout == "NCHW" else 1
            shape[first : first + 2] = [images[spec.name].height, images[spec.name].width]
        if DYNAMIC not in shape:
            fixed[spec.name] = tuple(shape)
    return fixed


def describe(card: ModelCard) -> list[tuple[str, str]]:
    """Return the card as (label, words) rows for a terminal."""
    rows = [
        ("format", f"{card.format}, {card.version}, weights {card.precision}"),
        *(("input", f"{spec}") for spec in card.inputs),
        *(("takes", _image_words(image)) for image in card.images),
        *(("output", f"{spec}" + _label_words(spec)) for spec in card.outputs),
        *(("then", _step_words(step)) for step in card.post),
        ("batch", "requests may be computed together" if card.batched else "one request at a time"),
        ("parameters", f"{human(card.parameters)} ({human(card.parameter_bytes)}B)"),
        ("arithmetic", _arithmetic_words(card)),
    ]
    rows += [("operators", _operator_words(card.operators))]
    rows += [("made by", f"{step.action} of {step.source} ({step.recipe})") for step in card.lineage]
    rows += [("note", note) for note in card.notes]
    return rows


def human(number: float) -> str:
    """Return ``number`` with three digits and a decimal prefix: 1234567 is ``1.23 M``."""
    for bound, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= bound:
            return f"{number / bound:.3g} {prefix}"
    return f"{number:.3g} "


def _rows(operators: tuple[tuple[str, Cost | None], ...]) -> tuple[OperatorRow, ...]:
    counts = Counter(kind for kind, _ in operators)
    flops = Counter[str]()
    unknown = {kind for kind, cost in operators if cost is None}
    for kind, cost in operators:
        flops[kind] += cost.flops if cost else 0
    total = sum(flops.values())
    rows = [
        OperatorRow(kind, count, None if kind in unknown else flops[kind], flops[kind] / total if total else 0.0)
        for kind, count in counts.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-(row.flops or 0), -row.count, row.operator)))


def _arithmetic_words(card: ModelCard) -> str:
    if card.flops is None or card.macs is None:
        return "not counted: an input's shape is free; say it with --input-shape NAME=1,3,224,224"
    at = ", ".join(f"{name} {list(shape)}" for name, shape in card.shapes.items())
    return f"{human(card.flops)}FLOPs ({human(card.macs)}MACs) a sample at {at}"


def _operator_words(rows: tuple[OperatorRow, ...]) -> str:
    words = [f"{row.count} {row.operator}" + (f" {row.share:.0%}" if row.share >= 0.005 else "") for row in rows]
    return ", ".join(words)


def _image_words(image: ImageInput) -> str:
    words = [f"pictures of {image.height} x {image.width} as {image.source_channels} bytes for '{image.input}'"]
    if image.resize:
        words.append(f"resized to {image.resize[0]} x {image.resize[1]}")
    if image.resize_shorter:
        words.append(f"shorter side resized to {image.resize_shorter}")
    if image.mean:
        words.append(f"minus {list(image.mean)}")
    if image.scale:
        words.append(f"divided by {list(image.scale)}")
    return f"{', '.join(words)}; the net reads {image.channels} {image.layout}"


def _step_words(step: OutputStep) -> str:
    if step.kind == "top_k":
        return f"the {step.k} greatest of '{step.output}' with their labels"
    if step.kind == "nms":
        return f"at most {step.k} boxes of '{step.boxes}' by '{step.output}', overlap up to {step.iou_threshold}"
    return f"{step.kind} of '{step.output}'"


def _label_words(spec: TensorSpec) -> str:
    if not spec.labels:
        return ""
    shown = ", ".join(spec.labels[:5]) + (", ..." if len(spec.labels) > 5 else "")
    return f" ({len(spec.labels)} classes: {shown})"
