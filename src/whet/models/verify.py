"""Checks an import by running it: OpenVINO against ONNX Runtime, and the file it came from against what became of it.

Everything runs at f32 on the same random samples. A difference is relative to the larger of 1 and the greatest
magnitude of the output (see :func:`whet.models.importers.reference.difference`); for integer outputs it is the share
of elements that differ by more than one level.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whet.errors import ModelError
from whet.models.artifact import Artifact
from whet.models.importers import import_model
from whet.models.importers.base import Options
from whet.models.importers.isolated import Limits
from whet.models.importers.parents import run_parent
from whet.models.importers.reference import (
    INTEGER_TOLERANCE,
    TOLERANCE,
    Runner,
    difference,
    let_go,
    open_onnxruntime,
    open_openvino,
    random_feeds,
)
from whet.tensors import Array, TensorSpec


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two ways of running one model, output by output.

    Attributes:
        one: ``openvino``, ``onnxruntime``, or the parent's own framework.
        other: likewise.
        differences: largest difference by output name.
        integers: outputs that hold integers, whose difference is a share of elements.
        tolerance: largest difference that passes for float outputs.
    """

    one: str
    other: str
    differences: dict[str, float]
    integers: tuple[str, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Every output lies within its bound."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of outputs past their bound."""
        return tuple(name for name, found in self.differences.items() if not found <= self._bound(name))

    def _bound(self, name: str) -> float:
        return max(self.tolerance, INTEGER_TOLERANCE) if name in self.integers else self.tolerance


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verifying found.

    Attributes:
        samples: how many samples were run.
        comparisons: what was compared, with the differences.
        skipped: what could not be compared, and why, in words.
    """

    samples: int
    comparisons: tuple[Comparison, ...]
    skipped: tuple[str, ...] = field(default=())

    @property
    def largest(self) -> float:
        """The largest difference found anywhere, 0 where nothing could be compared."""
        return max((value for c in self.comparisons for value in c.differences.values()), default=0.0)


def import_and_verify(
    path: Path,
    options: Options,
    store: Path,
    samples: int = 4,
    tolerance: float = TOLERANCE,
    limits: Limits | None = None,
) -> tuple[Artifact, VerifyReport]:
    """Import a model and check what became of it; an artifact that fails the check does not stay in ``store``.

    Raises:
        ModelError: the check failed, and everything :func:`whet.models.importers.import_model` raises.
    """
    before = set(store.iterdir()) if store.is_dir() else set()
    artifact = import_model(path, options, store, limits)
    try:
        return artifact, verify_import(artifact, path, options, samples, tolerance, limits)
    except ModelError as error:
        if artifact.folder.parent == store and artifact.folder not in before:
            shutil.rmtree(artifact.folder, ignore_errors=True)
        raise type(error)(f"{path}: {error}") from error


def verify_import(
    artifact: Artifact,
    parent: Path | None = None,
    options: Options | None = None,
    samples: int = 4,
    tolerance: float = TOLERANCE,
    limits: Limits | None = None,
) -> VerifyReport:
    """Run the artifact in every runtime that opens it, and its parent where that can be run, and compare.

    Args:
        artifact: ``onnx`` or ``ir``.
        parent: the file it was imported from; its own framework runs it in a process of its own, if it is installed.
        options: with which it was imported.
        samples: random samples, one after another.
        tolerance: largest difference that passes.
        limits: of the process that runs the parent.

    Raises:
        ModelError: a difference past ``tolerance`` (names the output and both sides), or no runtime opens it.
    """
    feeds = [sample_feeds(artifact, seed) for seed in range(samples)]
    ran, refusals = _run_each(artifact, feeds)
    if not ran:
        raise ModelError(f"no runtime opens {artifact.path}: {'; '.join(refusals)}")
    skipped = list(refusals)
    if artifact.format == "ir":
        skipped.append("only OpenVINO opens IR, so there is no second runtime to compare with")
    comparisons = []
    names = list(ran)
    if len(names) == 2:
        comparisons.append(_compare((names[0], ran[names[0]]), (names[1], ran[names[1]]), tolerance))
    if parent is not None:
        answer = run_parent(parent, artifact, options or Options(), feeds, limits or Limits())
        if isinstance(answer, str):
            skipped.append(f"parent not run: {answer}")
        else:
            comparisons.append(_compare((answer.framework, answer.outputs), (names[0], ran[names[0]]), tolerance))
    report = VerifyReport(samples, tuple(comparisons), tuple(skipped))
    _refuse(report)
    return report


def sample_feeds(artifact: Artifact, seed: int) -> dict[str, Array]:
    """Return one random sample: the net's inputs, pictures' sizes for image inputs, 64 for other free axes."""
    images = {image.input: image for image in artifact.images}
    specs = []
    for spec in artifact.inputs:
        shape = list(spec.shape)
        if spec.name in images and len(shape) == 4:
            first = 2 if images[spec.name].layout == "NCHW" else 1
            shape[first : first + 2] = [images[spec.name].height, images[spec.name].width]
        specs.append(TensorSpec(spec.name, spec.datatype, tuple(shape)))
    return random_feeds(tuple(specs), rows=1, seed=seed)


def describe_report(report: VerifyReport) -> list[tuple[str, str]]:
    """Return the report as (label, words) rows for a terminal."""
    rows = []
    for comparison in report.comparisons:
        pairs = ", ".join(f"{name} {value:.1e}" for name, value in comparison.differences.items())
        rows.append((f"{comparison.one} / {comparison.other}", f"largest difference {pairs}"))
    return [*rows, *(("not compared", reason) for reason in report.skipped)]


def _run_each(
    artifact: Artifact, feeds: Sequence[Mapping[str, Array]]
) -> tuple[dict[str, list[dict[str, Array]]], list[str]]:
    """Return what each runtime answers, and why others were not asked; one is open at a time: large nets must fit."""
    names = ([spec.name for spec in artifact.inputs], [spec.name for spec in artifact.outputs])
    openers: dict[str, Callable[[], Runner]] = {"openvino": lambda: open_openvino(artifact.path, *names)}
    if artifact.format == "onnx":
        openers["onnxruntime"] = lambda: open_onnxruntime(artifact.path)
    ran, refusals = {}, []
    for name, opened in openers.items():
        try:
            runner = opened()
        except ModelError as error:
            refusals.append(str(error))
            continue
        ran[name] = [dict(runner.run(feed)) for feed in feeds]
        del runner
        let_go()
    return ran, refusals


def _compare(
    one: tuple[str, list[dict[str, Array]]], other: tuple[str, list[dict[str, Array]]], tolerance: float
) -> Comparison:
    names = [name for name in one[1][0] if name in other[1][0]]
    if not names:
        gives = f"{one[0]} gives {sorted(one[1][0])}, {other[0]} gives {sorted(other[1][0])}"
        raise ModelError(f"{gives}: no output in common, so nothing can be compared")
    differences = {
        name: max(difference(a[name], b[name]) for a, b in zip(one[1], other[1], strict=True)) for name in names
    }
    integers = tuple(name for name in names if one[1][0][name].dtype.kind in "iub")
    return Comparison(one[0], other[0], differences, integers, tolerance)


def _refuse(report: VerifyReport) -> None:
    for comparison in report.comparisons:
        for name in comparison.failed:
            found, sides = comparison.differences[name], f"{comparison.one} and {comparison.other}"
            raise ModelError(
                f"output '{name}' differs by {found:.2g} between {sides} at f32, more than the tolerance "
                f"{comparison.tolerance:g}; the conversion is wrong, or the net "
                "amplifies rounding (then raise --tolerance)"
            )
