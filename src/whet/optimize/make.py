"""Runs recipes for the search: within its time, with its reasons written down, and not twice when it is resumed."""

import hashlib
import time
from pathlib import Path

import msgspec

from whet.errors import OutputError, WhetError
from whet.models.artifact import Artifact, load_artifact
from whet.optimize.compress import Recipe, Said, Work, run_ranking, run_recipe
from whet.optimize.request import Status
from whet.optimize.state import State

MAKE_UNTIL = 0.58
"""Share of the budget after which no further candidate is made or judged ..."""
MAKE_LEAST = 0.2
"""... but the one at hand may take this share of the budget, however late it is."""
CALIBRATION_SHARE, CALIBRATION_PASSES, LEAST_ITEMS = 0.4, 8.0, 32
"""Share of a recipe's time for statistics, f32 passes they cost per sample (with bias correction), fewest samples."""
NO_DATA = "changes results, and only real data shows by how much: give --data (or --allow-synthetic-calibration)"


def make(
    state: State, rung: Recipe, source: Artifact, label: str, keep: tuple[str, ...] = ()
) -> tuple[Artifact, float] | None:
    """Run one recipe; None when it cannot be made, with the reason written down.

    Args:
        state: of the search.
        rung: the recipe.
        source: what it is made from.
        label: what it is called in refusals.
        keep: layers that stay float, for a recipe that reverts layers.

    Returns:
        The product and the seconds it took (those of the first time, when it comes from an interrupted run).
    """
    limit_s = _limit_s(state)
    if rung.calibrates and state.data.calibration is None:
        state.refuse(label, NO_DATA)
        return None
    work = _work(state, rung, source, limit_s, keep)
    key = hashlib.sha256(
        msgspec.json.encode((work.recipe, source.sha256, work.calibration, work.seed, keep))
    ).hexdigest()
    known = _remembered(state, key)
    if known is not None:
        state.lab.artifacts[known[0].sha256] = known[0]
        return known
    began = time.monotonic()
    try:
        product = run_recipe(
            work,
            cpus=state.host.budget.cpus,
            limit_s=limit_s,
            log=state.work / f"{rung.name}.log",
            progress=lambda said: _tell(state, label, said),
        )
    except OutputError:
        raise
    except WhetError as error:
        state.refuse(label, str(error))
        return None
    took = time.monotonic() - began
    document = {"key": key, "recipe": rung.name, "folder": str(product.folder), "took_s": took}
    state.journal.add("product", document, artifact=product.sha256)
    state.lab.artifacts[product.sha256] = product
    return product, took


def rank(
    state: State, rung: Recipe, source: Artifact, start: Artifact, took_s: float
) -> list[tuple[str, float]] | None:
    """Measure how much each layer's return to float helps; None when it cannot be, with the reason written down.

    What it will take is said before it begins. Measured layers are kept in a file, so a resumed search goes on there.

    Args:
        state: of the search.
        rung: the recipe that will revert layers.
        source: the float net.
        start: the quantized net whose layers are put back, one at a time.
        took_s: what quantizing once took, seconds: every step that follows will take about as much.
    """
    limit_s = _limit_s(state)
    words = f"{rung.name}: ranks the layers by measurement; every set of them tried after takes about {took_s:.0f} s"
    state.say("sensitivity", words)
    try:
        return run_ranking(
            _work(state, rung, source, limit_s, (), start.folder, state.work / f"layers-{start.sha256[:12]}.jsonl"),
            cpus=state.host.budget.cpus,
            limit_s=limit_s,
            log=state.work / f"{rung.name}.log",
            progress=lambda said: _tell(state, rung.name, said),
        )
    except OutputError:
        raise
    except WhetError as error:
        state.refuse(rung.name, str(error))
        return None


def _work(
    state: State,
    rung: Recipe,
    source: Artifact,
    limit_s: float,
    keep: tuple[str, ...],
    start: Path | None = None,
    ranking: Path | None = None,
) -> Work:
    data = state.data
    return Work(
        recipe=rung.name,
        artifact=source.folder,
        pool=data.calibration.folder if data.calibration is not None else None,
        calibration=data.calibration_sha256,
        items=_items(state, limit_s),
        seed=state.request.seed,
        store=state.store,
        keep=keep,
        start=start,
        ranking=ranking,
        limit_s=limit_s,
    )


def _tell(state: State, label: str, said: Said) -> None:
    """Show progress: layers done of all where they are counted, else where the search stands."""
    if said.total:
        status = Status("sensitivity", said.done, said.total, state.best_words(), state.clock.left_s, said.progress)
        state.progress(status)
    else:
        state.say("compress", f"{label}: {said.progress}")


def _remembered(state: State, key: str) -> tuple[Artifact, float] | None:
    """Return what an interrupted run of the same job had made of the same parent with the same settings, or None."""
    if not state.request.resume:
        return None
    for event in state.journal.events("product", run=state.journal.key.run):
        if event.document.get("key") == key:
            try:
                return load_artifact(Path(event.document["folder"])), float(event.document["took_s"])
            except WhetError:  # it was being written when the run ended
                continue
    return None


def _limit_s(state: State) -> float:
    clock = state.clock
    return min(max(clock.until(MAKE_UNTIL), MAKE_LEAST * clock.budget_s), 0.8 * clock.left_s)


def _items(state: State, limit_s: float) -> int:
    """Return how many samples there is time to calibrate with: collecting statistics costs some passes a sample."""
    sample_s = float(state.service.get("sample_ms") or 1.0) / 1e3
    affordable = int(CALIBRATION_SHARE * limit_s / (CALIBRATION_PASSES * sample_s))
    return min(state.request.calibration, max(LEAST_ITEMS, affordable))
