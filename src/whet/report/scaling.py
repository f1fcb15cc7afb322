"""The section about how throughput grows with cores and batch."""

import re
from collections.abc import Iterable
from typing import Any

from whet.report.charts import Sample, curves, tip
from whet.report.model import Estimate, Evidence, Trial
from whet.report.page import Block, Plot, Section, Text, missing
from whet.report.words import many, number


def scaling(evidence: Evidence) -> Section:
    """Throughput over compute threads and over batch, as far as this host's cores reach."""
    cores = _cores(evidence)
    reach = f"this host: {many(cores, 'core')}" if cores else ""
    blocks: list[Block] = []
    alone = []
    for knob, label, end in (
        (_compute_threads, "compute threads (streams \u00d7 threads \u00d7 workers)", reach),
        (_largest_batch, "largest batch", ""),
    ):
        series = _best(evidence.measured, knob)
        known = sorted({sample.x for samples in series.values() for sample in samples})
        if len(known) < 2:
            alone += [f"{label}: only {each} was measured, so there is no curve" for each in known]
            continue
        words = "; ".join(
            f"{name}: " + ", ".join(f"{each.x} \u2192 {number(each.value.value)}" for each in samples)
            for name, samples in series.items()
        )
        caption = f"Throughput over {label}: each point is the best measured plan with that value, with its interval."
        if end:
            caption += " Nothing beyond this host's cores was measured, and nothing is extrapolated."
        blocks.append(Plot(curves(series, label, end, f"Throughput over {label}"), caption, words))
    if blocks and alone:
        blocks.append(Text("; ".join(alone) + ".", tone="muted"))
    lead = "How throughput grows with the cores a plan uses, and with the batch."
    return Section("scaling", "Throughput over cores and batch", lead, tuple(blocks) or missing())


def trial_series(trial: Trial) -> str:
    """Return a trial's label without streams, threads and batch: what it shares with others on one curve."""
    short = re.sub(r"\s+\d+\s*[x\u00d7]\s*\d+.*$", "", trial.label)
    return short or f"{trial.plan.get('runtime', '')} {trial.plan.get('precision', '')}".strip() or trial.plan_id


def _best(trials: Iterable[Trial], knob: Any) -> dict[str, list[Sample]]:
    """Return, for each series, the fastest trial at each value of a knob."""
    best: dict[str, dict[int, tuple[Estimate, Trial]]] = {}
    for trial in trials:
        rate, at = trial.rate, knob(trial.plan)
        if rate is None or at is None:
            continue
        found = best.setdefault(trial_series(trial), {})
        if at not in found or rate.value > found[at][0].value:
            found[at] = (rate, trial)
    ranked = sorted(best.items(), key=lambda item: -max(rate.value for rate, _ in item[1].values()))
    return {
        name: [Sample(at, rate, tip(trial.label, rate, "samples/s")) for at, (rate, trial) in sorted(found.items())]
        for name, found in ranked[:8]
    }


def _compute_threads(plan: dict[str, Any]) -> int | None:
    parts = (plan.get("streams"), plan.get("threads"), plan.get("workers", 1))
    if any(not isinstance(part, int) for part in parts):
        return None
    streams, threads, workers = parts
    return int(streams) * int(threads) * int(workers)  # type: ignore[arg-type]  # checked above


def _largest_batch(plan: dict[str, Any]) -> int | None:
    sizes = plan.get("batch_sizes") or ()
    return max(sizes) if sizes and all(isinstance(size, int) for size in sizes) else None


def _cores(evidence: Evidence) -> int | None:
    budget = evidence.host.get("budget")
    found = budget.get("cores") if isinstance(budget, dict) else evidence.host.get("cores")
    return found if isinstance(found, int) else None
