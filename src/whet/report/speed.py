"""Sections about speed: baselines, ablation, Pareto front, latency, and what was served."""

from collections.abc import Iterator
from typing import Any

from whet.report.bars import Bar, bars, waterfall
from whet.report.charts import Dot, pareto_front, scatter, tip
from whet.report.model import Baseline, Estimate, Evidence, Number, Point, Served, Trial, estimate
from whet.report.page import Block, Cell, Column, Plot, Section, Table, Text, cells, missing
from whet.report.ridges import Ridge, ridges
from whet.report.verdict import chosen_label
from whet.report.words import distinguishable, gain, interval, many, number, points, quantity, ratio, whole

_SHOWN = 6
"""Finalists whose latency is drawn."""
LEVELS = {"system": "level-system", "application": "level-application", "algorithm": "level-algorithm"}


def baselines(evidence: Evidence) -> Section:
    """Every baseline beside the chosen plan, with what handicaps the input file has."""
    rows, drawn = [], []
    chosen = evidence.chosen
    over = chosen.speedup.over if chosen and chosen.speedup else {}
    for each in evidence.baselines:
        rate = each.trial.rate if each.trial else None
        faster = over.get(each.name)
        against = Cell(ratio(faster), interval(faster)) if estimate(faster) else Cell("")
        rows.append(cells(Cell(each.name, each.reason or each.what), _at(each), *_speed(each.trial), against))
        if rate is not None:
            drawn.append(Bar(each.name, rate, "other", _faster(over.get(each.name)), f"{each.what}\n{_at(each)}"))
    if chosen and chosen.trial:
        name = chosen_label(evidence)
        rows.append(cells(Cell(name, "what Whet serves"), "", *_speed(chosen.trial), ""))
        rate = chosen.trial.rate
        drawn += [Bar(name, rate, "chosen", "", "what Whet serves")] if rate is not None else []
    columns = (
        Column("Plan"), Column("Load"), Column("Throughput", "samples/s", numeric=True),
        Column("p50", "ms", numeric=True), Column("p99", "ms", numeric=True), Column("Whet against it", numeric=True),
    )  # fmt: skip
    blocks: list[Block] = []
    if drawn:
        words = "; ".join(f"{bar.name}: {number(bar.value.value)} samples/s" for bar in drawn)
        blocks.append(Plot(bars(drawn, "samples per second", "Throughput of baselines and chosen plan", "chosen is"),
                           "Throughput with 95 % intervals. Each baseline at its best load; the ratio at the right is "
                           "how many times faster the chosen plan was in paired blocks.", words))  # fmt: skip
    if rows:
        strong = len(rows) - 1 if chosen and chosen.trial else None
        blocks.append(Table("Baselines and the chosen plan", columns, tuple(rows), strong))
    handicaps = sorted({words for each in evidence.baselines for words in each.handicaps})
    if handicaps:
        blocks.append(
            Text(
                "What the import noted of the input file, some of which may handicap its baselines:",
                tuple(handicaps),
                "muted",
            )
        )
    lead = "What the model does with the defaults of each framework, and what it does now."
    return Section("baselines", "Baseline against chosen", lead, tuple(blocks) or missing())


def ablation(evidence: Evidence) -> Section:
    """What each step gained, from what runs today to what Whet serves."""
    drawn, rows = [], []
    for step in evidence.ablation:
        rate = estimate(step.throughput_per_s)
        gained = gain(step.gain) if estimate(step.gain) else ""
        certain = distinguishable(step.gain)
        remark = f"{gained} (?)" if certain is False else gained
        between = _gain_interval(step.gain)
        rows.append(cells(step.step, step.level, Cell(quantity(rate), interval(rate)), Cell(gained, between,
                    tone="muted" if certain is False else "")))  # fmt: skip
        if rate is not None:
            css = LEVELS.get(step.level, "other")
            drawn.append(Bar(step.step, rate, css, remark, " ".join(filter(None, (gained, between, step.level)))))
    blocks: list[Block] = []
    if drawn:
        words = "; ".join(f"{bar.name}: {number(bar.value.value)} samples/s {bar.remark}".strip() for bar in drawn)
        plot = waterfall(drawn, "samples per second", "Ablation waterfall: throughput after each step")
        caption = (
            "Each bar starts where the step before ended. Colours: system (blue), application (orange), algorithm "
            "(green). Whiskers are 95 % intervals; (?) marks a gain whose interval holds zero."
        )
        blocks.append(Plot(plot, caption, words))
    if rows:
        columns = (Column("Step"), Column("Level"), Column("Throughput after it", "samples/s", numeric=True),
                   Column("Gain", numeric=True))  # fmt: skip
        blocks.append(Table("What each step gained", columns, tuple(rows), folded=bool(drawn)))
    lead = "From what runs today to what Whet serves, one change at a time."
    return Section("ablation", "What each step gained", lead, tuple(blocks) or missing())


def pareto(evidence: Evidence) -> Section:
    """Plans between throughput and latency, the target line, and the sweet spot."""
    axis, plans = _latency_axis(evidence)
    target = target_ms(evidence) if axis == "p99" else None
    front = set(pareto_front([(point.throughput_per_s, at) for point, at in plans]))
    dots, rows = [], []
    for point, at in sorted(plans, key=lambda each: -each[0].throughput_per_s):
        on_front, outside = (point.throughput_per_s, at) in front, target is not None and at > target
        css = "chosen" if point.chosen else "outside" if outside else "front" if on_front else "dominated"
        accuracy = "" if point.accuracy is None else f"accuracy {points(point.accuracy)}"
        late = "past the target" if outside else ""
        rate = Estimate(point.throughput_per_s)
        said = tip(point.label, rate, "samples/s", f"{axis} {number(at)} ms", accuracy, late)
        dots.append(Dot(point.throughput_per_s, at, css, said, point.label))
        place = "sweet spot" if point.chosen else late or ("on the front" if on_front else "")
        rows.append(cells(point.label, _sortable(point.throughput_per_s), _sortable(at),
                          "" if point.accuracy is None else points(point.accuracy), place))  # fmt: skip
    if not dots:
        return Section("pareto", "Throughput against latency", "", missing())
    caption = "Each point is a plan. The line joins those that no other plan beats in both; the large point serves."
    if axis == "p50":
        caption += " Most plans have too few answers for a p99, so this is the median."
    words = "; ".join(dot.tip.replace("\n", ", ") for dot in dots if dot.css in ("chosen", "front"))
    columns = (Column("Plan"), Column("Throughput", "samples/s", numeric=True), Column(axis, "ms", numeric=True),
               Column("Accuracy", numeric=True), Column("Place"))  # fmt: skip
    strong = next((index for index, dot in enumerate(dots) if dot.css == "chosen"), None)
    table = Table("Plans between throughput and latency", columns, tuple(rows), strong, folded=True)
    lead = "More throughput costs latency; the sweet spot is the most throughput within the target."
    if target_ms(evidence) is None:
        lead = "More throughput costs latency; no latency target was given."
    plot = Plot(scatter(dots, axis, target, f"Throughput against {axis} latency"), caption, words)
    return Section("pareto", "Throughput against latency", lead, (plot, table))


def _latency_axis(evidence: Evidence) -> tuple[str, list[tuple[Point, float]]]:
    """Return the percentile that most plans have, p99 before p50, and the plans that have it, in milliseconds."""
    known: dict[str, list[tuple[Point, float]]] = {"p99": [], "p50": []}
    for point in evidence.pareto:
        for name, raw in (("p99", point.latency_p99_ms), ("p50", point.latency_p50_ms)):
            found = estimate(raw)
            if found is not None and found.value > 0:
                known[name].append((point, found.value))
    axis = "p50" if len(known["p50"]) > 2 * len(known["p99"]) else "p99"
    return axis, known[axis]


def latency(evidence: Evidence) -> Section:
    """The distribution of latency of each finalist, with percentiles and intervals."""
    rows, table = [], []
    chosen_id = evidence.chosen.plan_id if evidence.chosen else ""
    for trial in finalists(evidence):
        found = trial.latency_ms
        if found is None:
            continue
        named = {"p50": found.p50, "p90": found.p90, "p99": found.p99}
        known = {name: value for name, raw in named.items() if (value := estimate(raw)) is not None}
        chosen = bool(chosen_id) and trial.plan_id == chosen_id
        if found.histogram and len(found.histogram.edges_ms) > 1 and min(found.histogram.edges_ms) > 0:
            rows.append(Ridge(trial.label or trial.plan_id, found.histogram, known, found.count or 0, chosen))
        percentiles = [_percentile(named[name], found.count) for name in ("p50", "p90", "p99")]
        table.append((chosen, cells(trial.label or trial.plan_id, whole(found.count or 0), *percentiles)))
    blocks: list[Block] = []
    if rows:
        picture = ridges(rows, target_ms(evidence), "Latency distributions of the finalists")
        words = "; ".join(
            f"{row.name}: " + ", ".join(f"{name} {number(value.value)} ms" for name, value in row.percentiles.items())
            for row in rows
        )
        caption = "Answers by latency (logarithmic), each plan to its own height; bands below are 95 % intervals."
        blocks.append(Plot(picture, caption, words))
    if table:
        columns = (Column("Plan"), Column("Answers", numeric=True),
                   *(Column(name, "ms", numeric=True) for name in ("p50", "p90", "p99")))  # fmt: skip
        strong = next((index for index, (chosen, _) in enumerate(table) if chosen), None)
        blocks.append(Table("Percentiles with 95 % intervals", columns, tuple(row for _, row in table), strong))
    lead = "How long answers took, for each plan that came into the last round."
    return Section("latency", "Latency", lead, tuple(blocks) or missing())


def load(evidence: Evidence) -> Section:
    """The chosen plan in an open loop, at each rate that was tried."""
    found = evidence.chosen.load if evidence.chosen else None
    rows, strong = [], None
    for index, run in enumerate(sorted(found.runs, key=lambda each: each.qps) if found else ()):
        assert found is not None
        times, count = run.latency_ms, run.latency_ms.count if run.latency_ms else None
        strong = index if run is found.judged else strong
        held = "held" if found.highest_qps is not None and run.qps <= found.highest_qps else "not shown to hold"
        held = held if target_ms(evidence) is not None else "none was given"
        percentiles = [_percentile(getattr(times, name) if times else None, count) for name in ("p50", "p90", "p99")]
        failed = "" if run.failed is None else whole(run.failed)
        rows.append(cells(_sortable(run.qps), _quantity(run.achieved_per_s), *percentiles, failed, held))
    columns = (
        Column("Requests", "/s", numeric=True), Column("Answered", "samples/s", numeric=True),
        Column("p50", "ms", numeric=True), Column("p90", "ms", numeric=True), Column("p99", "ms", numeric=True),
        Column("Failed", numeric=True), Column("Latency target"),
    )  # fmt: skip
    blocks: tuple[Block, ...] = missing()
    if found is not None and rows:
        words = "No rate that was tried holds the latency target." if target_ms(evidence) is not None else ""
        if found.highest_qps is not None:
            words = f"{number(found.highest_qps)} requests per second is the highest rate shown to hold the target."
        elif found.words and target_ms(evidence) is not None:
            words = f"In process: {found.words}."
        table = Table("Random (Poisson) arrivals", columns, tuple(rows), strong)
        blocks = (Text(words), table) if words else (table,)
    lead = "The chosen plan when requests arrive by chance, whether or not earlier ones are answered."
    return Section("load", "Under random arrivals", lead, blocks)


def served(evidence: Evidence) -> Section:
    """The last few plans behind real HTTP and gRPC."""
    found = evidence.served
    plans = [found, *found.others] if found is not None else []
    rows = [row for plan in plans for row in _served_rows(plan)]
    columns = (
        Column("Plan"), Column("Protocol"), Column("Load"), Column("Answered", "samples/s", numeric=True),
        Column("p50", "ms", numeric=True), Column("p99", "ms", numeric=True), Column("Answers", numeric=True),
        Column("Failed", numeric=True), Column("Client CPU", "of a core", numeric=True),
    )  # fmt: skip
    lead = (
        "The chosen plan, and the next best where there was time, behind a real server. Latency counts from the "
        "intended start of each request. The client computes on the same cores, so these figures are lower bounds."
    )
    said = [Text(f"{plan.label}: {plan.reason}" if plan.label else plan.reason) for plan in plans if plan.reason]
    if found is not None and found.highest_qps is not None:
        said.append(Text(f"{number(found.highest_qps)} requests per second over HTTP were shown to hold the target."))
    elif found is not None and found.words:
        said.append(Text(f"Over HTTP: {found.words}."))
    table = (Table("Through the server", columns, tuple(rows)),) if rows else ()
    return Section("served", "Served", lead, (*said, *table) or missing())


def _served_rows(plan: Served) -> Iterator[tuple[Cell, ...]]:
    """Yield a row for each closed loop and each open one, those over one protocol together."""
    for protocol, closed in (("HTTP", plan.http), ("gRPC", plan.grpc)):
        if closed:
            times, requests = closed.get("latency_ms") or {}, closed.get("requests") or {}
            callers = closed.get("callers")
            words = str(closed.get("scenario", "")) if callers is None else f"{callers} callers that wait"
            yield cells(plan.label, protocol, words, _quantity(closed.get("throughput_per_s")),
                        _percentile(_number(times.get("p50")), times.get("count")),
                        _percentile(_number(times.get("p99")), times.get("count")),
                        whole(requests.get("answered") or 0), whole(requests.get("failed") or 0),
                        _share(closed.get("client_cpu_share")))  # fmt: skip
        for run in plan.loads:
            if run.protocol == protocol:
                summed = run.latency_ms
                count = summed.count if summed else None
                yield cells(plan.label, protocol, f"{number(run.qps)}/s at random", _quantity(run.achieved_per_s),
                            *(_percentile(getattr(summed, name) if summed else None, count) for name in ("p50", "p99")),
                            whole(count or 0), whole(run.failed or 0), _share(run.client_cpu_share))  # fmt: skip


def _share(cores: float | None) -> str:
    return "" if cores is None else f"{cores:.0%}"


def finalists(evidence: Evidence) -> list[Trial]:
    """Return the chosen plan's trial and the fastest others that competed, with a latency; at most six."""
    chosen = evidence.chosen
    with_latency = [trial for trial in evidence.measured if trial.latency_ms and trial.stage != "curves"]
    rank = sorted(with_latency, key=lambda each: -(each.rate or Estimate(0)).value)
    if chosen and chosen.trial and chosen.trial.latency_ms:
        own = chosen.trial
        if not own.label or not own.plan_id:
            own = Trial(**{**{name: getattr(own, name) for name in own.__struct_fields__},
                           "label": chosen_label(evidence), "plan_id": chosen.plan_id})  # fmt: skip
        rank = [own, *(each for each in rank if each.plan_id != chosen.plan_id)]
    return rank[:_SHOWN]


def target_ms(evidence: Evidence) -> float | None:
    """Return the p99 target in milliseconds."""
    found = evidence.targets.get("p99_ms")
    return float(found) if isinstance(found, int | float) and found > 0 else None


def _at(each: Baseline) -> str:
    parts = [f"batch {each.batch}"] if each.batch else []
    parts += [many(each.callers, "caller")] if each.callers else []
    return ", ".join(parts)


def _speed(trial: Trial | None) -> tuple[Cell, Cell, Cell]:
    if trial is None or trial.status != "ok":
        return Cell("not measured", tone="muted"), Cell(""), Cell("")
    found = trial.latency_ms
    count = found.count if found else None
    p50, p99 = (found.p50, found.p99) if found else (None, None)
    return _quantity(trial.throughput_per_s), _percentile(p50, count), _percentile(p99, count)


def _quantity(found: Any) -> Cell:
    known = estimate(_number(found))
    return Cell(quantity(known), interval(known), key=known.value if known else None)


def _percentile(found: Number, count: Any) -> Cell:
    known = estimate(found)
    if known is None:
        return Cell("not enough data" if count else "not measured", tone="muted")
    return Cell(number(known.value), interval(known), key=known.value)


def _number(found: Any) -> Number:
    """Return what a document of a run holds for a number: plain, with its interval, or nothing."""
    if isinstance(found, dict) and isinstance(found.get("value"), int | float):
        return Estimate(found["value"], found.get("low"), found.get("high"))
    return float(found) if isinstance(found, int | float) else found if isinstance(found, Estimate) else None


def _sortable(value: float) -> Cell:
    return Cell(number(value), key=value)


def _faster(found: Number) -> str:
    return ratio(found) if estimate(found) else ""


def _gain_interval(found: Number) -> str:
    known = estimate(found)
    if known is None or not known.bounded:
        return ""
    low, high = known.ends
    return f"{gain(low)} to {gain(high)}"
