"""Sections about everything but speed: accuracy, layers, roofline, host, refusals, advice, and all trials."""

from collections.abc import Mapping
from typing import Any

from whet.report.bars import Bar, forest
from whet.report.charts import Ceiling, Dot, roofline
from whet.report.model import Accuracy, Estimate, Evidence, Layer, Roofline, estimate
from whet.report.page import Block, Cell, Column, Plot, Section, Table, Text, Tone, cells, missing
from whet.report.words import (
    NONE,
    distinguishable,
    interval,
    number,
    plain,
    points,
    points_between,
    quantity,
    ratio,
    share,
    size,
    whole,
)

SLOWEST = 20
_CONVERSIONS = ("reorder", "convert", "quantize", "dequantize", "cast", "fakequantize", "transpose")
"""Kinds of operations that compute nothing and only change precision or layout."""


def accuracy(evidence: Evidence) -> Section:
    """Each candidate's metric against its f32 parent, and whom it hurts most."""
    records = evidence.accuracy
    rows = tuple(_accuracy_row(each) for each in records)
    drawn = [
        Bar(each.candidate or "candidate", drop, _tone_of(each.verdict) or "other", each.verdict, _counts(each))
        for each in records
        if (drop := estimate(each.drop)) is not None
    ]
    asked = evidence.targets.get("max_drop")
    limit = next((each.max_drop for each in records if each.max_drop is not None), None)
    limit = float(asked) if limit is None and isinstance(asked, int | float) else limit
    blocks: list[Block] = []
    if drawn:
        words = "; ".join(
            f"{bar.name}: {points(bar.value.value)} ({points_between(bar.value)}), {bar.remark}" for bar in drawn
        )
        caption = "Drop against the f32 parent with its paired 95 % interval; right of zero is worse."
        metric = records[0].metric or "the metric"
        blocks.append(Plot(forest(drawn, limit, f"drop of {metric}", "Drop of accuracy by candidate"), caption, words))
    columns = (
        Column("Candidate"), Column("Metric"), Column("Parent", numeric=True), Column("Value", numeric=True),
        Column("Drop", numeric=True), Column("Items", numeric=True), Column("Verdict"),
    )  # fmt: skip
    if rows:
        blocks.append(Table("Accuracy against the f32 parent", columns, rows))
    formulas = sorted({f"{each.metric}: {each.formula}" for each in records if each.formula})
    if formulas:
        blocks.append(Text("How it is computed:", tuple(formulas), "muted"))
    blocks += _worst(records)
    lead = "What the faster candidates cost in accuracy, and where."
    return Section("accuracy", "Accuracy", lead, tuple(blocks) or missing())


def layers(evidence: Evidence) -> Section:
    """The slowest layers of the chosen plan, and what converting between precisions costs."""
    known = [layer for layer in evidence.layers if layer.time_ms is not None]
    slowest = sorted(known, key=lambda layer: -(layer.time_ms or 0))[:SLOWEST]
    total = sum(layer.time_ms or 0 for layer in known) or 1.0
    most = max((layer.time_ms or 0 for layer in slowest), default=0) or 1
    beside = any(layer.parent_ms is not None for layer in slowest)
    rows = tuple(
        cells(layer.name, Cell(layer.type + (" (conversion)" if _converts(layer) else ""), tone=_conversion(layer)),
              layer.precision or NONE, Cell(f"{layer.time_ms:.3f}", bar=(layer.time_ms or 0) / most, key=layer.time_ms),
              share(_share(layer, total)), *([_parent(layer)] if beside else []))
        for layer in slowest
    )  # fmt: skip
    blocks: list[Block] = []
    if rows:
        spent = sum(layer.time_ms or 0 for layer in known if _converts(layer))
        listed = sum(layer.time_ms or 0 for layer in slowest)
        words = (
            f"These {len(slowest)} of {len(known)} layers take {share(listed / total)} of the time; converting between "
            f"precisions and layouts takes {number(spent)} ms ({share(spent / total)})."
        )
        columns = (Column("Layer"), Column("Type"), Column("Precision"), Column("Time", "ms", numeric=True),
                   Column("Share", numeric=True),
                   *([Column("f32 parent", "ms", numeric=True)] if beside else []))  # fmt: skip
        blocks = [Text(words), Table(f"The {len(slowest)} slowest layers", columns, rows)]
    lead = "Where one inference spends its time, as the runtime reports it."
    return Section("layers", "Slowest layers", lead, tuple(blocks) or missing())


def roof(evidence: Evidence) -> Section:
    """What was reached against what this host can do."""
    lead = "How much is left at all: what the plans reached against the peaks measured on this host."
    found = evidence.roofline
    if found is None:
        return Section("roofline", "Roofline", lead, missing())
    blocks: list[Block] = [Text(found.words)] if found.words else []
    ceilings = [Ceiling(each.name, each.best or each.value) for each in found.peaks if (each.best or each.value) > 0]
    bandwidth = (found.bandwidth.best or found.bandwidth.value) if found.bandwidth else 0
    if ceilings and bandwidth > 0:
        dots = [
            Dot(each.intensity, each.gflops, "chosen" if index == 0 else "front", _reached(each.label, each.gflops,
                each.gbs, each.share), each.label)
            for index, each in enumerate(found.achieved)
            if each.intensity and each.gflops
        ]  # fmt: skip
        caption = "Peaks are the fastest rounds of a short measurement on this host; both axes are logarithmic."
        words = "; ".join(dot.tip.replace("\n", ", ") for dot in dots)
        blocks.append(Plot(roofline(ceilings, bandwidth, dots, "Roofline of this host"), caption, words))
    blocks += _roof_tables(found)
    return Section("roofline", "Roofline", lead, tuple(blocks) or missing())


def advice(evidence: Evidence) -> Section:
    """What to do next, each with what was measured."""
    items = tuple(
        " ".join(filter(None, (each.words.rstrip(".") + ".", _measured(each.counterfactual))))
        for each in evidence.advice
    )
    blocks: tuple[Block, ...] = (Text("", items),) if items else (Text("Nothing stood out in this run.", tone="muted"),)
    return Section("advice", "Advice", "In words, with the measured counterfactual.", blocks)


def refused(evidence: Evidence) -> Section:
    """What was never measured or turned down, and why."""
    rows = [cells(each.what, each.reason, Cell(whole(each.count), key=each.count)) for each in evidence.refused]
    rows += [
        cells(Cell(trial.label or trial.plan_id, trial.status), trial.reason or "no reason recorded", "1")
        for trial in evidence.trials
        if trial.status in ("failed", "refused")
    ]
    columns = (Column("What"), Column("Why"), Column("Count", numeric=True))
    blocks: tuple[Block, ...] = (Table("Refused or failed, with the reason", columns, tuple(rows)),)
    if not rows:
        blocks = (Text("Nothing was refused and nothing failed.", tone="muted"),)
    return Section("refused", "What was refused, and why", "Nothing is left out in silence.", blocks)


def trials(evidence: Evidence) -> Section:
    """Every plan that was measured, fastest first."""
    chosen = evidence.chosen.plan_id if evidence.chosen else ""
    ranked = sorted(evidence.measured, key=lambda each: -(found.value if (found := each.rate) else 0))
    rows = []
    for trial in ranked:
        rate, p99 = trial.rate, trial.p99_ms
        blocks = "" if trial.blocks is None else str(trial.blocks)
        if trial.discarded:
            blocks += f" \u2212 {trial.discarded}"
        rows.append(
            cells(Cell(trial.label or trial.plan_id, trial.plan_id if trial.label else ""), trial.stage,
                  Cell(quantity(rate), interval(rate), key=rate.value if rate else None),
                  Cell("" if p99 is None else number(p99.value), key=p99.value if p99 else None),
                  Cell(quantity(trial.rss_mb) if estimate(trial.rss_mb) else ""),
                  Cell(ratio(trial.ratio_to_incumbent) if estimate(trial.ratio_to_incumbent) else "",
                       interval(trial.ratio_to_incumbent)), blocks)
        )  # fmt: skip
    columns = (
        Column("Plan"), Column("Level"), Column("Throughput", "samples/s", numeric=True),
        Column("p99", "ms", numeric=True), Column("Memory", "MB", numeric=True),
        Column("Against the incumbent", numeric=True), Column("Blocks", numeric=True),
    )  # fmt: skip
    strong = next((index for index, trial in enumerate(ranked) if chosen and trial.plan_id == chosen), None)
    found: tuple[Block, ...] = (Table("All measured plans, fastest first", columns, tuple(rows), strong, folded=True),)
    lead = "Every plan that was measured. Throughput of different rounds compares only by the paired ratios."
    return Section("trials", "All trials", lead, found if rows else missing())


def host(evidence: Evidence) -> Section:
    """Where this was measured, with which libraries, and how quiet it was."""
    blocks: list[Block] = []
    if evidence.host:
        blocks.append(_pairs("Host", evidence.host, folded=False))
    noise = evidence.noise
    if noise is not None:
        said = {
            "incumbent against itself": noise.floor,
            "share of blocks discarded": share(noise.discarded_share),
            "CPU of the measuring process, share of a core": share(noise.measuring_cpu_share),
        }
        rows = tuple(
            cells(name, Cell(value) if isinstance(value, str) else Cell(quantity(value, digits=4), interval(value, 4)))
            for name, value in said.items()
        )
        blocks.append(Table("Noise", (Column("What"), Column("How much")), rows))
    counters = next((each.counters for each in [evidence.chosen and evidence.chosen.trial] if each), None)
    if counters:
        blocks.append(_pairs("Counters while the chosen plan was measured", counters))
    if evidence.versions:
        blocks.append(_pairs("Versions", evidence.versions))
    if evidence.chosen and evidence.chosen.plan:
        blocks.append(_pairs("Knobs of the chosen plan", evidence.chosen.plan))
        effective = evidence.chosen.trial.effective if evidence.chosen.trial else None
        if effective:
            blocks.append(_pairs("What the runtime says it does", effective))
    lead = "Numbers belong to this host, these versions and this hour."
    return Section("host", "Host, versions, noise", lead, tuple(blocks) or missing())


def _measured(counterfactual: dict[str, Any] | None) -> str:
    """Return the measurement behind an advice in words; its direct pairs say more than an estimate over rounds."""
    known = dict(counterfactual or {})
    known.pop("plan_id", None)
    paired = known.pop("paired", None)
    if isinstance(paired, dict) and paired.get("value") is not None:
        found = Estimate(paired["value"], paired.get("low"), paired.get("high"))
        doubt = "" if distinguishable(found) else ", which does not rule out that there is no difference"
        return f"Measured in pairs: {ratio(found)} ({interval(found)}){doubt}."
    return f"Measured: {plain(known)}." if known else "(No direct measurement.)"


def _pairs(caption: str, found: Mapping[str, Any], *, folded: bool = True) -> Table:
    rows = tuple(
        cells(str(name).removesuffix("_bytes").replace("_", " "),
              size(value) if str(name).endswith("_bytes") and isinstance(value, int) else plain(value))
        for name, value in found.items()
        if value not in (None, "", [], {})
    )  # fmt: skip
    return Table(caption, (Column("What"), Column("Value")), rows, folded=folded)


def _accuracy_row(each: Accuracy) -> tuple[Cell, ...]:
    drop = estimate(each.drop)
    needs = f"{whole(each.needs)} items would tell" if each.needs else ""
    return cells(
        each.candidate,
        each.metric,
        "" if each.parent is None else points(each.parent),
        "" if each.value is None else points(each.value),
        Cell(NONE if drop is None else points(drop.value), points_between(drop), key=drop.value if drop else None),
        "" if each.items is None else whole(each.items),
        Cell(each.verdict, needs, tone=_tone_of(each.verdict)),
    )


def _worst(records: list[Accuracy]) -> list[Block]:
    """Return two tables over all candidates: the classes and the samples that lost most."""
    found: list[Block] = []
    for what, listed in (
        ("classes", [(each.candidate, row) for each in records for row in each.per_class]),
        ("samples", [(each.candidate, row) for each in records for row in each.worst]),
    ):
        names = list(dict.fromkeys(name for _, row in listed for name in row))
        columns = (
            Column("Candidate"),
            *(Column(name.replace("_", " "), numeric=_is_number(listed, name)) for name in names),
        )
        rows = tuple(cells(candidate, *(_value(row.get(name)) for name in names)) for candidate, row in listed)
        if rows:
            found.append(Table(f"Worst-hit {what}", columns, rows, folded=True))
    return found


def _value(value: Any) -> str:
    return points(value) if isinstance(value, float) else plain(value)


def _is_number(rows: list[tuple[str, dict[str, Any]]], name: str) -> bool:
    return all(isinstance(row.get(name), int | float) for _, row in rows)


def _counts(each: Accuracy) -> str:
    parts = [f"{whole(each.items)} items"] if each.items else []
    parts += [f"{each.lost} lost, {each.gained} gained"] if each.lost is not None and each.gained is not None else []
    return ", ".join(parts)


def _tone_of(verdict: str) -> Tone:
    found: dict[str, Tone] = {"within the floor": "good", "past the floor": "bad", "not enough data": "muted"}
    return found.get(verdict, "")


def _converts(layer: Layer) -> bool:
    return layer.type.lower().replace("_", "") in _CONVERSIONS


def _conversion(layer: Layer) -> Tone:
    return "muted" if _converts(layer) else ""


def _parent(layer: Layer) -> Cell:
    """Return the f32 parent's time of the same layer, and how many times faster the plan's is."""
    if layer.parent_ms is None:
        return Cell("")
    faster = f"{layer.parent_ms / layer.time_ms:.1f}x" if layer.time_ms else ""
    return Cell(f"{layer.parent_ms:.3f}", faster, key=layer.parent_ms)


def _share(layer: Layer, total: float) -> float:
    return layer.share if layer.share is not None else (layer.time_ms or 0) / total


def _reached(label: str, gflops: float, gbs: float | None, part: float | None) -> str:
    lines = [label, f"{number(gflops)} GOP/s"]
    lines += [f"{number(gbs)} GB/s"] if gbs is not None else []
    lines += [f"{share(part, 0)} of its roof"] if part is not None else []
    return "\n".join(lines)


def _roof_tables(found: Roofline) -> list[Block]:
    blocks: list[Block] = []
    if found.achieved:
        rows = tuple(
            cells(each.label, *("" if value is None else number(value) for value in (each.gflops, each.gbs,
                  each.intensity)), Cell("" if each.share is None else share(each.share, 0), each.roof))
            for each in found.achieved
        )  # fmt: skip
        columns = (Column("Plan"), Column("Compute", "GOP/s", numeric=True), Column("Memory", "GB/s", numeric=True),
                   Column("Intensity", "OP/byte", numeric=True), Column("Of its roof", numeric=True))  # fmt: skip
        blocks.append(Table("What was reached", columns, rows))
    peaks = [(each, "GOP/s") for each in found.peaks] + ([(found.bandwidth, "GB/s")] if found.bandwidth else [])
    if peaks:
        rows = tuple(
            cells(each.name, Cell(f"{number(each.value)} {unit}", interval(Estimate(each.value, each.low, each.high))),
                  "" if each.best is None else number(each.best), each.how)
            for each, unit in peaks
        )  # fmt: skip
        heads = (Column("Peak"), Column("Median", numeric=True), Column("Best", numeric=True), Column("How"))
        blocks.append(Table("Peaks measured on this host", heads, rows, folded=True))
    return blocks
