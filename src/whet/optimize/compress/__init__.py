"""Recipes that make a smaller, faster artifact out of an artifact, each in a process of its own.

A recipe never touches its parent, is deterministic under its seed, and writes its settings into the lineage. The ladder
is climbed cheapest first and stops at the first rung whose candidate holds the floor *and* wins:

============== ========= ==============================================================================================
rung           for       what it does
============== ========= ==============================================================================================
int8           openvino  nncf post-training quantization; symmetric for ReLU nets, SmoothQuant for transformers
int8-robust    openvino  the same with outlier-proof statistics (quantiles, means without outliers) and per-batch care
int8-edges     openvino  robust statistics, the first and the last weighted layers left in float
int8-sensitive openvino  robust statistics, the layers that hurt most (measured one by one) left in float
int8-weights   openvino  weights alone in int8; activations stay float: for memory-bound nets
int8-ort       ort       ONNX Runtime's static quantizer, QDQ, per channel
int8-ort-dyn   ort       ONNX Runtime's dynamic quantizer: MatMul and LSTM weights in int8, no calibration
============== ========= ==============================================================================================
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from whet.errors import MissingExtra, OutputError, PlanRefused, RuntimeFailed
from whet.host.apply import inherited
from whet.models.artifact import Artifact, load_artifact
from whet.settings import environ


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
    """

    name: str
    runtimes: tuple[str, ...]
    formats: tuple[str, ...]
    calibrates: bool
    rung: int
    family: str
    summary: str


RECIPES: tuple[Recipe, ...] = (
    Recipe("int8", ("openvino",), ("onnx", "ir"), True, 0, "ptq", "post-training quantization"),
    Recipe("int8-robust", ("openvino",), ("onnx", "ir"), True, 1, "ptq", "quantization with outlier-proof statistics"),
    Recipe("int8-edges", ("openvino",), ("onnx", "ir"), True, 2, "ptq", "quantization, first and last layers in float"),
    Recipe("int8-sensitive", ("openvino",), ("onnx", "ir"), True, 3, "ptq", "quantization, the worst layers in float"),
    Recipe("int8-weights", ("openvino",), ("onnx", "ir"), False, 0, "weights", "int8 weights, float arithmetic"),
    Recipe("int8-ort", ("onnxruntime",), ("onnx",), True, 0, "ort", "ONNX Runtime static quantization"),
    Recipe("int8-ort-dyn", ("onnxruntime",), ("onnx",), False, 1, "ort", "ONNX Runtime dynamic quantization"),
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
    """

    recipe: str
    artifact: Path
    pool: Path | None
    calibration: str
    items: int
    seed: int
    store: Path
    keep: tuple[str, ...] = ()


class Said(msgspec.Struct, frozen=True):
    """What it answers, one line at a time: progress; at the end the product's folder, or why there is none."""

    progress: str = ""
    folder: str = ""
    slug: str = ""
    reason: str = ""


def run_recipe(
    work: Work, *, cpus: Iterable[int], limit_s: float, log: Path, progress: Callable[[str], None]
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
    recipe(work.recipe)
    began = time.monotonic()
    try:
        with log.open("wb") as stream, inherited(cpus):
            process = subprocess.Popen(
                [sys.executable, "-m", "whet.optimize.compress.process", str(os.getpid()), repr(limit_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environ(),
                start_new_session=True,
            )
    except OSError as error:
        raise OutputError(f"cannot start '{work.recipe}': {error.strerror or error}; check memory and space") from error
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(work, enc_hook=str))
        process.stdin.close()
        last = _listen(process.stdout, progress)
        code = process.wait()
    except BrokenPipeError:
        last, code = Said(), process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    return _conclude(work, last, code, time.monotonic() - began)


def _listen(lines: Iterable[bytes], progress: Callable[[str], None]) -> Said:
    last = Said()
    for line in lines:
        last = msgspec.json.decode(line, type=Said)
        if last.progress:
            progress(last.progress)
    return last


def _conclude(work: Work, last: Said, code: int, took_s: float) -> Artifact:
    if last.folder:
        return load_artifact(Path(last.folder))
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
