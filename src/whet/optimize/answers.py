"""Does a plan answer here what it answered where it was proven? Its distance from plain f32 on inputs made from a seed.

A bundle carries no sample of its user's data: those may be nobody else's business. What it carries instead is how far
the chosen plan's answers lay from the plain f32 plan's, on noise that any host can make again. Arithmetic that differs
(int8 without VNNI saturates, bf16 is emulated or absent) shows there, output by output.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from whet.models.artifact import Artifact
from whet.optimize.accuracy import decibel
from whet.optimize.data import synthetic
from whet.optimize.gate import unranked
from whet.optimize.lab import Lab
from whet.optimize.pool import Pool, materialise
from whet.optimize.trial_words import Evaluate
from whet.plan import Plan

SEED, SAMPLES = 15, 16
LIMIT_S, PATIENCE_S = 1.5, 60.0
"""No new batch is begun after the one; a process that needs the other has failed."""
SLACK_DB = 3.0
"""Twice the noise power: more than this below what was recorded is other arithmetic."""
EXACT_DB = 60.0
"""What f32 keeps in another order of summation, with much to spare."""


@dataclass(frozen=True, slots=True)
class Answers:
    """How a plan's answers lie to the plain f32 plan's, on one host.

    Attributes:
        snr_db: signal over noise by output, decibel, higher is better; None where there is no noise at all.
        samples: inputs that were computed.
        seed: they were made from.
        shapes: of one request of one sample, by input: what the model itself may leave free.
    """

    snr_db: dict[str, float | None]
    samples: int
    seed: int = SEED
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def recorded(measured: Mapping[str, object]) -> Answers | None:
    """Return the answers a plan's record holds, or None."""
    try:
        return msgspec.convert(measured.get("answers"), Answers)
    except msgspec.ValidationError:
        return None


def seeded(artifact: Artifact, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> Pool:
    """Make the inputs and write them to ``folder``.

    Args:
        artifact: whose service takes them.
        shapes: of one request of one sample, by input, for axes that the model leaves free.
        folder: to make.

    Raises:
        DataError: a free axis that ``shapes`` does not settle.
    """
    inputs = tuple(
        replace(spec, shape=(*spec.shape[:1], *shapes[spec.name][1:]) if artifact.batched else shapes[spec.name])
        if len(shapes.get(spec.name, ())) == len(spec.shape)
        else spec
        for spec in artifact.inputs
    )
    fixed = artifact if artifact.images else replace(artifact, inputs=inputs)
    return materialise(synthetic(fixed, SAMPLES, SEED), range(SAMPLES), fixed, folder)


def compare_answers(lab: Lab, plain: Plan, plan: Plan, pool: Pool, work: Path) -> Answers:
    """Compute ``pool`` under both plans and return how far apart the answers are.

    Args:
        lab: where they run.
        plain: the reference.
        plan: what is looked at.
        pool: samples that both take.
        work: folder for the reference's answers, which are computed once.

    Raises:
        WhetError: a plan cannot be opened, or its answers carry no batch axis to compare by.
    """
    kept = work / f"answers-{plain.id}"
    if not (kept / "kept.json").is_file():
        command = Evaluate(pool.folder, "snr", "", save=kept, limit_s=LIMIT_S)
        lab.evaluate(_bare(lab, plain, work), command, PATIENCE_S)
    scored = lab.evaluate(
        _bare(lab, plan, work), Evaluate(pool.folder, "snr", "", parent=kept, limit_s=LIMIT_S), PATIENCE_S
    )
    noise = {name: decibel(float(np.mean(ratios))) for name, ratios in scored.noise.items()}
    shapes = {name: tuple(array.shape) for name, array in pool.rows(0, 1).items()}
    return Answers(noise, len(scored.scores), shapes=shapes)


def _bare(lab: Lab, plan: Plan, work: Path) -> Plan:
    """Return the plan on a net that answers in full: a ranking of the best few cannot be compared number by number."""
    bare = unranked(lab.artifacts[plan.artifact], work / "artifacts")
    lab.artifacts[bare.sha256] = bare
    return plan.with_(artifact=bare.sha256)


def strays(here: Answers, there: Answers | None, *, exact: bool) -> str:
    """Return in which output, and how far, a plan answers otherwise than where it was proven; empty where it does not.

    Args:
        here: measured on this host.
        there: on the host where the plan was proven, or None where that was not recorded.
        exact: the plan computes the plain net in f32: nothing but the order of sums may differ.
    """
    for output, value in here.snr_db.items():
        if value is None or not (exact or there):
            continue
        before = there.snr_db.get(output) if there is not None and not exact else None
        least = EXACT_DB if before is None else before - SLACK_DB
        if value < least:
            known = f"{EXACT_DB:g} dB is what f32 keeps" if before is None else f"{before:.1f} dB where it was proven"
            return f"output '{output}' is {value:.1f} dB over its noise against plain f32 here; {known}"
    return ""
