"""Recipes that make a smaller, faster artifact out of an artifact, each in a process of its own.

A recipe never touches its parent, is deterministic under its seed, and writes its settings into the lineage. A ladder
is climbed from what rounds most to what rounds least, and ends at the first rung that holds the floor *and* wins:

============== ========= ==============================================================================================
rung           for       what it does
============== ========= ==============================================================================================
int8           openvino  nncf post-training quantization; symmetric for ReLU nets, SmoothQuant for transformers
int8-robust    openvino  the same with statistics that outliers do not move: percentiles, odd samples left out
int8-edges     openvino  robust statistics, the first and the last weighted layers left in float
int8-sensitive openvino  robust statistics, layers left in float by measured sensitivity, more and more of them
int8-weights   openvino  weights alone in int8; activations stay float: for memory-bound nets
int4-weights   openvino  weights alone in int4, in groups with a scale each: for memory-bound nets
int8-ort       ort       ONNX Runtime's static quantizer, QDQ, per channel
int8-ort-dyn   ort       ONNX Runtime's dynamic quantizer: MatMul and LSTM weights in int8, no calibration
============== ========= ==============================================================================================
"""

import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from whet.errors import MissingExtra, PlanRefused, RuntimeFailed
from whet.models.artifact import Artifact, load_artifact
from whet.optimize.compress.child import converse
from whet.optimize.compress.kind import Kind


@dataclass(frozen=True, slots=True)
class Recipe:
    """A row of the table.

    Attributes:
        name: stable name; also the label of what it makes.
        runtimes: runtimes its product is for.
        formats: artifact formats it takes.
        calibrates: it needs real data.
        rung: its place in the ladder of its family, lowest first.
        family: recipes of one family replace each other; different families compete.
        summary: one line for people.
        reverts: it is told which layers stay float (``Work.keep``), and can rank them by measurement.
    """

    name: str
    runtimes: tuple[str, ...]
    formats: tuple[str, ...]
    calibrates: bool
    rung: int
    family: str
    summary: str
    reverts: bool = False


_OV, _ORT, _BOTH = ("openvino",), ("onnxruntime",), ("onnx", "ir")
RECIPES: tuple[Recipe, ...] = (
    Recipe("int8", _OV, _BOTH, True, 0, "ptq", "post-training quantization"),
    Recipe("int8-robust", _OV, _BOTH, True, 1, "ptq", "quantization with outlier-proof statistics"),
    Recipe("int8-edges", _OV, _BOTH, True, 2, "ptq", "quantization, first and last layers in float"),
    Recipe("int8-sensitive", _OV, _BOTH, True, 3, "ptq", "quantization, the worst layers in float", reverts=True),
    Recipe("int8-ort", _ORT, ("onnx",), True, 0, "ort", "ONNX Runtime static quantization"),
    Recipe("int8-ort-dyn", _ORT, ("onnx",), False, 1, "ort", "ONNX Runtime dynamic quantization"),
    Recipe("int4-weights", _OV, _BOTH, False, 0, "weights4", "int4 weights in groups, float arithmetic"),
    Recipe("int8-weights", _OV, _BOTH, False, 0, "weights8", "int8 weights, float arithmetic"),
)
"""Every recipe; the ladder of a family is its rows by rung."""


def recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        PlanRefused: there is none.
    """
    for one in RECIPES:
        if one.name == name:
            return one
    raise PlanRefused(f"recipe '{name}' is unknown; known are {', '.join(one.name for one in RECIPES)}")


class Work(msgspec.Struct, frozen=True):
    """What a compression process is asked to do.

    Attributes:
        recipe: name.
        artifact: folder of the parent.
        pool: folder of calibration samples, or None.
        calibration: hash of those samples, for the lineage.
        items: samples to use, at most.
        seed: of whatever the recipe draws.
        store: folder to seal the product in.
        keep: layers that are to stay float, by name.
        start: folder of the quantized artifact whose layers are ranked, or None.
        ranking: file that keeps the ranking while it is measured, or None.
        limit_s: seconds there are.
    """

    recipe: str
    artifact: Path
    pool: Path | None
    calibration: str
    items: int
    seed: int
    store: Path
    keep: tuple[str, ...] = ()
    start: Path | None = None
    ranking: Path | None = None
    limit_s: float = 600.0


class Said(msgspec.Struct, frozen=True):
    """What it answers, one line at a time: progress; at the end the product's folder, or why there is none.

    Attributes:
        progress: what it is doing.
        done: parts done of ``total``, where they are counted.
        total: parts in all, or 0.
        folder: of the product.
        ranked: layers with the noise that rounding them alone brings, most first.
        slug: of the error.
        reason: its message.
    """

    progress: str = ""
    done: int = 0
    total: int = 0
    folder: str = ""
    ranked: tuple[tuple[str, float], ...] | None = None
    slug: str = ""
    reason: str = ""


def run_recipe(
    work: Work, *, cpus: Iterable[int], limit_s: float, log: Path, progress: Callable[[Said], None]
) -> Artifact:
    """Run a recipe in a fresh process and return the sealed artifact.

    Args:
        work: what to do.
        cpus: mask of the process.
        limit_s: it is ended when it takes longer.
        log: file for what the toolkit prints.
        progress: told what it is doing.

    Raises:
        PlanRefused: the toolkit cannot do this model; says why.
        RuntimeFailed: it crashed, or ran out of time.
        MissingExtra: the toolkit is not installed.
        OutputError: no process, or no space.
    """
    return load_artifact(Path(_run(work, cpus, limit_s, log, progress).folder))


def run_ranking(
    work: Work, *, cpus: Iterable[int], limit_s: float, log: Path, progress: Callable[[Said], None]
) -> list[tuple[str, float]]:
    """Measure, in a fresh process, what each layer of ``work.start`` costs; arguments and errors as for a recipe.

    Returns:
        (layer, noise-to-signal ratio that its rounding alone brings), most first.
    """
    return list(_run(work, cpus, limit_s, log, progress).ranked or ())


def _run(work: Work, cpus: Iterable[int], limit_s: float, log: Path, progress: Callable[[Said], None]) -> Said:
    """Run the process to its end and return what it said last."""
    recipe(work.recipe)
    last = Said()

    def heard(line: bytes) -> None:
        nonlocal last
        last = msgspec.json.decode(line, type=Said)
        if last.progress:
            progress(last)

    request = msgspec.json.encode(work, enc_hook=str)
    module = "whet.optimize.compress.process"
    code, took_s = converse(module, request, heard, cpus=cpus, limit_s=limit_s, log=log)
    return _conclude(work, last, code, took_s)


def _conclude(work: Work, last: Said, code: int, took_s: float) -> Said:
    if last.folder or last.ranked is not None:
        return last
    if last.slug == "missing-extra":
        raise MissingExtra(f"recipe '{work.recipe}'", "optimize")
    if last.slug:
        raise PlanRefused(f"recipe '{work.recipe}': {last.reason}")
    if code == -signal.SIGALRM:
        raise RuntimeFailed(
            f"recipe '{work.recipe}' was ended after {took_s:.0f} s, its share of the budget; raise --budget"
        )
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    raise RuntimeFailed(f"recipe '{work.recipe}' died after {took_s:.0f} s ({how})")


def ladder(family: str) -> Sequence[Recipe]:
    """Return the rungs of a family, cheapest first."""
    return sorted((one for one in RECIPES if one.family == family), key=lambda one: one.rung)


def routes(kind: Kind, *, memory_bound: bool) -> tuple[tuple[Recipe, ...], ...]:
    """Return the ladders that suit a kind of net, in the order to climb them.

    Recurrent nets take the dynamic route first: OpenVINO leaves their layers in float whatever nncf does to them, and
    ONNX Runtime has dynamic int8 kernels for LSTM; it has none for convolutions. Weights alone are worth it only where
    reading them is the limit.
    """
    static, dynamic = ladder("ort")
    found: list[tuple[Recipe, ...]] = [tuple(ladder("ptq")), (static,) if kind == "cnn" else (static, dynamic)]
    if kind == "recurrent":
        found = [(dynamic,), tuple(ladder("ptq"))]
    if memory_bound:
        found += [(recipe("int4-weights"),), (recipe("int8-weights"),)]
    return tuple(found)
