"""The process a recipe runs in: its toolkit's memory, imports and crashes stay out of the search.

Reads one :class:`Work` from standard input, answers with lines of :class:`Said` on what was standard output.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from whet.errors import WhetError
from whet.models.artifact import Artifact, Lineage, load_artifact, seal
from whet.optimize.compress import Said, Work
from whet.optimize.compress.child import serve
from whet.optimize.pool import Pool, open_pool
from whet.tensors import Array


@dataclass(frozen=True, slots=True)
class Job:
    """What a recipe works with.

    Attributes:
        artifact: the parent; read only.
        samples: number of calibration samples.
        net_inputs: returns calibration sample ``i`` as the net takes it, with the batch axis.
        folder: empty folder for the product's files.
        work: what was asked.
        say: reports progress; with (done, total) where parts are counted.
    """

    artifact: Artifact
    samples: int
    net_inputs: Callable[[int], dict[str, Array]]
    folder: Path
    work: Work
    say: Callable[..., None]


@dataclass(frozen=True, slots=True)
class Made:
    """What a recipe made: the main file within the job's folder, its format, weights and settings."""

    model: str
    format: str
    precision: str
    tool: str
    settings: dict[str, Any]


def main() -> int:
    """Do one piece of work."""
    serve(_answer, lambda error: msgspec.json.encode(_refusal(error)))
    return 0


def _answer(request: bytes, write: Callable[[bytes], None]) -> None:
    def say(said: Said) -> None:
        write(msgspec.json.encode(said))

    work = msgspec.json.decode(request, type=Work, dec_hook=lambda kind, value: kind(value))
    say(_do(work, lambda words, done=0, total=0: say(Said(progress=words, done=done, total=total))))


def _refusal(error: Exception) -> Said:
    if isinstance(error, WhetError):
        return Said(slug=error.slug, reason=str(error))
    if isinstance(error, ImportError):
        return Said(slug="missing-extra", reason=str(error))
    words = " ".join(str(error).split())
    return Said(slug="plan-refused", reason=f"{type(error).__name__}: {words[:300]}")


def _do(work: Work, say: Callable[..., None]) -> Said:
    np.random.seed(work.seed)  # noqa: NPY002  (the toolkits draw from the legacy generator)
    artifact = load_artifact(work.artifact)
    pool = open_pool(work.pool) if work.pool is not None else None
    folder = Path(tempfile.mkdtemp(prefix="whet-recipe-"))
    try:
        samples = min(work.items, len(pool)) if pool is not None else 0
        job = Job(artifact, samples, lambda index: _net_inputs(artifact, pool, index), folder, work, say)
        if work.start is not None:
            from whet.optimize.compress.sensitivity import rank

            return Said(ranked=tuple(rank(job, load_artifact(work.start))))
        return Said(folder=str(_sealed(job, _recipe(work.recipe)(job)).folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sealed(job: Job, made: Made) -> Artifact:
    """Return the product as an artifact whose lineage says what it was made from, how and with what."""
    work, artifact = job.work, job.artifact
    settings = {
        **made.settings,
        "seed": work.seed,
        "calibration_items": job.samples,
        "calibration_sha256": work.calibration if job.samples else None,
    }
    step = Lineage("compress", artifact.sha256, f"{work.recipe} ({made.tool})", settings)
    product = replace(
        artifact,
        model=made.model,
        format=made.format,
        precision=made.precision,
        lineage=(*artifact.lineage, step),
    )
    return seal(product, list(job.folder.iterdir()), work.store)


def _net_inputs(artifact: Artifact, pool: Pool | None, index: int) -> dict[str, Array]:
    """Return one sample as the net takes it: preprocessing is not part of the graph that is compressed."""
    assert pool is not None
    sample = pool.rows(index, 1)
    if not artifact.images:
        return sample
    from whet.models.around import apply_images

    return dict(apply_images(artifact, sample))


def _recipe(name: str) -> Callable[[Job], Made]:
    if name.startswith("int8-ort"):
        from whet.optimize.compress import ort_recipes

        return {"int8-ort": ort_recipes.static, "int8-ort-dyn": ort_recipes.dynamic}[name]
    from whet.optimize.compress import ov_recipes

    return {
        "int8": ov_recipes.plain,
        "int8-robust": ov_recipes.robust,
        "int8-edges": ov_recipes.edges,
        "int8-sensitive": ov_recipes.sensitive,
        "int8-weights": ov_recipes.weights8,
        "int4-weights": ov_recipes.weights4,
    }[name]


if __name__ == "__main__":
    sys.exit(main())
