"""Two searches side by side: what changed in model, host, versions, targets and plan, and what that did to the numbers.

The two were measured at different times, so their ratios are unpaired: their intervals are those of two independent
measurements, and only what lies outside them is called a change.
"""

import math
from typing import Any

from whet.report.model import Estimate, Evidence, Number, estimate, read
from whet.report.page import Cell, Column, Page, Section, Table, Text, Tone, cells
from whet.report.verdict import chosen_accuracy, chosen_label
from whet.report.words import interval, plain, quantity, ratio

_SAME = ("model", "host", "versions", "targets")


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the differences between two results as plain values.

    Raises:
        BundleError: one of them is not of the shape of evidence.
    """
    old, new = read(before), read(after)
    pairs = {each.plan_id: each for each in old.measured if each.plan_id}
    common = [(pairs[each.plan_id], each) for each in new.measured if each.plan_id in pairs]
    return {
        "schema": 1,
        "before": _who(old),
        "after": _who(new),
        "changed": {name: _changes(before.get(name) or {}, after.get(name) or {}) for name in _SAME},
        "knobs": _changes(old.chosen.plan if old.chosen else {}, new.chosen.plan if new.chosen else {}),
        "chosen": {name: _numbers(*values) for name, values in _chosen_values(old, new).items()},
        "plans": [
            {"label": b.label or b.plan_id, "plan_id": b.plan_id} | _numbers(a.throughput_per_s, b.throughput_per_s)
            for a, b in common
        ],
    }


def comparison_page(found: dict[str, Any]) -> Page:
    """Return a comparison as a page, for :func:`whet.report.html.to_html` and Markdown."""
    before, after = found["before"], found["after"]
    values = (Column("What"), Column("Before"), Column("After"))
    differences = tuple(
        cells(f"{group}: {name}", plain(old), plain(new))
        for group, changes in {**found["changed"], "plan": found["knobs"]}.items()
        for name, (old, new) in changes.items()
    )
    columns = (Column("What"), Column("Before", numeric=True), Column("After", numeric=True),
               Column("After / before", numeric=True), Column("Verdict"))  # fmt: skip
    sections = [
        Section("chosen", "What serves", "The chosen plans of the two searches.",
                (Table("Chosen plans", columns, tuple(_row(name.replace("_", " "), each)
                       for name, each in found["chosen"].items())),)),
        Section("changed", "What changed", "Everything that differs in what was measured.",
                (Table("Differences", values, differences),) if differences else (Text("Nothing.", tone="muted"),)),
    ]  # fmt: skip
    if found["plans"]:
        rows = tuple(_row(each["label"], each) for each in found["plans"])
        lead = "Plans measured in both searches."
        sections.append(Section("plans", "Common plans", lead, (Table("Throughput, samples/s", columns, rows),)))
    sentence = _sentence(found)
    title = f"Whet comparison: {before['name']} and {after['name']}"
    kicker = f"{before['label']} ({before['started'][:16]}) \u2192 {after['label']} ({after['started'][:16]})"
    return Page(title, kicker, sentence, (), tuple(sections), found)


def unpaired_ratio(before: Number, after: Number) -> Estimate | None:
    """Return ``after / before`` of two independent measurements, None where one is missing or not positive.

    The interval adds the two relative half-widths in squares on the logarithmic scale (Fieller's interval to first
    order), each side from the end that matters; without intervals there is none.
    """
    a, b = estimate(before), estimate(after)
    if a is None or b is None or a.value <= 0 or b.value <= 0:
        return None
    value = b.value / a.value
    if not (a.bounded and b.bounded) or min(a.ends[0], b.ends[0]) <= 0:
        return Estimate(value)
    down = math.hypot(math.log(b.value / b.ends[0]), math.log(a.ends[1] / a.value))
    up = math.hypot(math.log(b.ends[1] / b.value), math.log(a.value / a.ends[0]))
    return Estimate(value, value * math.exp(-down), value * math.exp(up))


def _who(evidence: Evidence) -> dict[str, Any]:
    return {"name": evidence.name, "label": chosen_label(evidence), "started": evidence.started}


def _chosen_values(old: Evidence, new: Evidence) -> dict[str, tuple[Number, Number]]:
    def values(evidence: Evidence) -> dict[str, Number]:
        trial = evidence.chosen.trial if evidence.chosen else None
        record = chosen_accuracy(evidence)
        return {
            "throughput_per_s": trial.throughput_per_s if trial else None,
            "latency_p99_ms": trial.p99_ms if trial else None,
            "rss_mb": trial.rss_mb if trial else None,
            "load_ms": trial.load_ms if trial else None,
            "accuracy": record.value if record else None,
        }

    left, right = values(old), values(new)
    return {name: (left[name], right[name]) for name in left if left[name] is not None or right[name] is not None}


def _numbers(before: Number, after: Number) -> dict[str, Any]:
    return {"before": _dict(before), "after": _dict(after), "ratio": _dict(unpaired_ratio(before, after))}


def _dict(number: Number) -> dict[str, float | None] | None:
    known = estimate(number)
    return None if known is None else {"value": known.value, "low": known.low, "high": known.high}


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    names = [*before, *(name for name in after if name not in before)]
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}


def _row(name: str, each: dict[str, Any]) -> tuple[Cell, ...]:
    before, after, change = (_back(each[part]) for part in ("before", "after", "ratio"))
    said, tone = _judged(change)
    return cells(name, Cell(quantity(before), interval(before)), Cell(quantity(after), interval(after)),
                 Cell(ratio(change) if change else "", interval(change)), Cell(said, tone=tone))  # fmt: skip


def _back(found: dict[str, float | None] | None) -> Estimate | None:
    return None if found is None or found["value"] is None else Estimate(found["value"], found["low"], found["high"])


def _judged(change: Estimate | None) -> tuple[str, Tone]:
    if change is None:
        return "not measured on both sides", "muted"
    if not change.bounded:
        return "no interval", "muted"
    low, high = change.ends
    return ("higher", "") if low > 1 else ("lower", "") if high < 1 else ("cannot be told apart", "muted")


def _sentence(found: dict[str, Any]) -> str:
    change = _back((found["chosen"].get("throughput_per_s") or {}).get("ratio"))
    if change is None:
        return "The two cannot be compared: one of them chose no plan."
    said, _ = _judged(change)
    if said == "cannot be told apart":
        return f"Throughput of the two cannot be told apart: {ratio(change)} ({interval(change)})."
    between = f" ({interval(change)})" if change.bounded else ""
    return f"Throughput is {ratio(change)} what it was{between}, in measurements made at different times."
