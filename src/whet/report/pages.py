"""Puts the sections of a report in order."""

from typing import Any

from whet.report import record, scaling, speed
from whet.report.model import Evidence, read
from whet.report.page import Page, Section, Text, missing
from whet.report.verdict import figures, summary_words, verdict
from whet.report.words import plain


def page(result: dict[str, Any]) -> Page:
    """Return the report of one search.

    Raises:
        BundleError: the result is not of the shape of evidence.
    """
    evidence = read(result)
    sections = (
        speed.baselines(evidence),
        speed.ablation(evidence),
        speed.pareto(evidence),
        speed.latency(evidence),
        scaling.scaling(evidence),
        speed.load(evidence),
        speed.served(evidence),
        record.accuracy(evidence),
        record.layers(evidence),
        record.roof(evidence),
        record.advice(evidence),
        record.refused(evidence),
        record.trials(evidence),
        record.host(evidence),
    )
    shown = [section for section in sections if section.blocks != missing()]
    absent = tuple(section.title for section in sections if section.blocks == missing())

    return Page(
        title=f"Whet report: {evidence.name}",
        kicker=_kicker(evidence),
        verdict=verdict(evidence),
        figures=figures(evidence),
        sections=(*shown, about(evidence, absent)),
        evidence=result,
    )


def about(evidence: Evidence, absent: tuple[str, ...]) -> Section:
    """What was asked, what was not measured, and how to read the numbers.

    Args:
        evidence: of the search.
        absent: titles of the sections that have nothing to show.
    """
    asked = tuple(
        f"{name.replace('_', ' ')}: {plain(value)}"
        for name, value in evidence.targets.items()
        if value not in (None, "")
    )
    blocks = [Text(evidence.service.words)] if evidence.service and evidence.service.words else []
    if asked:
        blocks.append(Text("What was asked for:", asked))
    if absent:
        blocks.append(Text("Not measured in this run, and so not shown:", absent))
    if evidence.data.get("words"):
        blocks.append(Text(f"Data: {evidence.data['words']}."))
    blocks.append(
        Text(
            "Intervals hold with 95 % confidence. Ratios come from blocks measured next to each other in random order, "
            "percentiles from raw samples; a percentile without enough samples is not shown. "
            f"The search: {summary_words(evidence)}."
        )
    )
    return Section("about", "About this report", "What was asked for, and how to read the numbers.", tuple(blocks))


def _kicker(evidence: Evidence) -> str:
    host = evidence.host.get("cpu") or evidence.host.get("CPU") or evidence.host.get("model")
    fingerprint = evidence.host.get("fingerprint")
    named = f"{host or 'host'} ({fingerprint})" if fingerprint else str(host or "")
    parts = [evidence.name, named, evidence.started.replace("T", " ")[:16]]
    return " \u00b7 ".join(part for part in parts if part)
