"""A bundle looked at on this host: what is known while its plan is measured here, and what is filed of it."""

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from whet.errors import OutputError, UsageError
from whet.host import Host, differences
from whet.models.artifact import Artifact
from whet.models.bundle import Bundle, PlanRecord, is_bundle
from whet.models.hosts import Share, host_words, of_model, put
from whet.optimize.lab import Case, Lab, paired
from whet.optimize.pool import Pool
from whet.optimize.request import Progress, Status
from whet.optimize.stages import worth
from whet.optimize.values import ends, interval, plain
from whet.optimize.verdicts import PLAIN, Standing
from whet.stats import Interval, paired_ratio

DEFAULT_BUDGET_S, LEAST_BUDGET_S = 25.0, 5.0
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class RevalidateRequest:
    """A bundle to look at on this host.

    Attributes:
        bundle: its folder.
        data: samples to judge accuracy on, in one of the forms of :mod:`whet.optimize.data`; None compares answers on
            inputs made from a seed instead.
        budget_s: seconds it may take, about.
        seed: of every draw.
    """

    bundle: Path
    data: str | None = None
    budget_s: float = DEFAULT_BUDGET_S
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot work, before anything is read.

        Raises:
            UsageError: the budget is too small, or the folder is no bundle.
        """
        if not self.budget_s >= LEAST_BUDGET_S:
            raise UsageError(f"budget is {self.budget_s:g} s; revalidating takes {LEAST_BUDGET_S:g} s at least")
        if not is_bundle(self.bundle):
            raise UsageError(f"--revalidate: {self.bundle} is no bundle; give the folder that `whet optimize -o` wrote")


@dataclass(slots=True)
class Look:
    """What is known while it runs.

    Attributes:
        request: the job.
        host: this one.
        bundle: as it was read.
        origin: the record that is looked at.
        away: how far its host is; 0 is this one, None is unknown.
        net: the f32 net where the bundle carries it, else the plan's own.
        lab: where plans run.
        pool: samples they are driven with.
        work: folder that is thrown away.
        end: monotonic second by which it should be done.
        cases: label -> case.
        changes: what was changed to carry the plan over.
        refused: label -> why a plan is not among the candidates.
        answers: how the carried plan's answers lie to plain f32's, and what was said of it.
    """

    request: RevalidateRequest
    host: Host
    bundle: Bundle
    origin: PlanRecord
    away: float | None
    net: Artifact
    lab: Lab
    pool: Pool
    work: Path
    end: float
    say: Progress
    cases: dict[str, Case] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.end - time.monotonic())

    def tell(self, phase: str, words: str) -> None:
        """Tell where it stands."""
        self.say(Status(phase, 0, 0, "", self.left_s, words))


def ratio_of(look: Look, label: str) -> Interval | None:
    """Return how much better a candidate is than plain f32, by the bundle's targets; None with fewer than two pairs."""
    case, base = look.cases[label], look.cases[PLAIN]
    targets, cores = look.bundle.targets, look.lab.cores
    values = partial(worth, targets, cores, case), partial(worth, targets, cores, base)
    one, two = paired(look.lab.record(case), look.lab.record(base), values=values)
    if len(one) < 2 or not all(one) or not all(two):
        return None
    return paired_ratio(one, two, seed=look.request.seed)


def records(look: Look, standing: Standing) -> tuple[PlanRecord, ...]:
    """Return this host's records: what serves, and plain f32 where that is another."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    host = {"fingerprint": look.host.fingerprint, **look.host.fingerprint_fields}
    base = look.cases[PLAIN]
    if look.away == 0:  # what a search found stays as it found it; how it fares today is noted beside it
        checked = {"at": now, "holds": standing.holds, "over_f32": ends(standing.ratio)}
        own = [one for one in look.bundle.plans if one.fingerprint == look.origin.fingerprint]
        return tuple(
            replace(one, measured={**one.measured, "checked": checked}) if one is look.origin else one for one in own
        )
    best = look.cases.get(standing.label, base)
    over = {"plan": base.plan.id, **found} if (found := ends(standing.ratio)) and best is not base else None
    measured = {
        **_figures(look, best),
        "accuracy": look.origin.measured.get("accuracy") if best is not base else None,
        "over_f32": over,
        "answers": look.answers.get("here") if best is not base else None,
        "revalidated": {
            "from": look.origin.fingerprint,
            "from_words": host_words(look.origin.host),
            "at": now,
            "holds": standing.holds,
            "words": standing.words,
        },
    }
    records = [PlanRecord(best.plan, host, plain(measured))]
    if best is not base:
        records.append(PlanRecord(base.plan, host, plain(_figures(look, base)), "reference"))
    return tuple(records)


def _figures(look: Look, case: Case) -> dict[str, Any]:
    record = look.lab.record(case)
    blocks = record.kept
    tail = sorted(value for block in blocks for value in block.latencies_ms)
    return {
        "throughput_per_s": interval([block.throughput_per_s for block in blocks], look.request.seed),
        "latency_ms": {"p50": tail[len(tail) // 2] if tail else None, "count": len(tail)},
        "rss_mb": max((block.rss_mb for block in blocks), default=None),
        "load_ms": record.ready.load_ms if record.ready is not None else None,
    }


def keep(look: Look, records: tuple[PlanRecord, ...]) -> str:
    """Put the records into the bundle; return why they could not be, or the empty string."""
    bundle = look.bundle
    model = of_model(bundle)
    artifacts = {one.plan.artifact: bundle.artifacts[one.plan.artifact] for one in records}
    share = Share(bundle.name, model, records[0].fingerprint, records, artifacts)
    try:
        put(look.request.bundle, share)
    except OutputError as error:
        return str(error)
    return ""


def document(look: Look, standing: Standing, records: tuple[PlanRecord, ...]) -> dict[str, Any]:
    """Return what was found as plain values."""
    trials = [
        {
            "label": label,
            "plan_id": case.plan.id,
            "plan": str(case.plan),
            "blocks": len(look.lab.record(case).kept),
            **_figures(look, case),
            "over_f32": ends(ratio_of(look, label)) if label != PLAIN else None,
        }
        for label, case in look.cases.items()
    ]
    found = {
        "schema": SCHEMA,
        "bundle": str(look.request.bundle),
        "host": look.host.fingerprint,
        "from": {
            "fingerprint": look.origin.fingerprint,
            "words": host_words(look.origin.host),
            "away": look.away,
            "differs": list(differences(look.origin.host, look.host.fingerprint_fields)),
        },
        "plan": look.origin.plan.id,
        "changes": list(look.changes),
        "refused": [{"what": label, "reason": reason} for label, reason in look.refused.items()],
        "answers": look.answers,
        "trials": trials,
        "holds": standing.holds,
        "serves": standing.label,
        "over_f32": ends(standing.ratio),
        "discarded_share": look.lab.judge.discarded_share,
        "budget_s": look.request.budget_s,
        "records": list(records),
    }
    values: dict[str, Any] = plain(found)
    return values
