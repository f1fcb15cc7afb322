"""Plots with two axes: throughput against latency, throughput over a knob, and the roofline."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.report.model import Estimate
from whet.report.svg import WIDTH, Board, Scale, linear, logarithmic
from whet.report.words import given, interval, number

LEFT, RIGHT, TOP = 70.0, WIDTH - 30.0, 34.0


@dataclass(frozen=True, slots=True)
class Dot:
    """A plan at (x, y), with a tooltip; ``css`` says what it is: chosen, front, dominated, outside."""

    x: float
    y: float
    css: str
    tip: str
    name: str = ""


def scatter(dots: Sequence[Dot], axis: str, target_ms: float | None, title: str) -> str:
    """Return throughput (right is better) against latency (down is better, log scale), with target and front.

    Args:
        dots: plans.
        axis: the percentile of latency they are drawn at, such as ``p99``.
        target_ms: limit of that percentile, or None.
        title: for a screen reader.
    """
    board, bottom = Board(470, title), 410.0
    x = linear([dot.x for dot in dots], LEFT, RIGHT)
    y = logarithmic([dot.y for dot in dots] + ([target_ms] if target_ms else []), bottom, TOP, room=1.35)
    if target_ms:
        board.add("rect", "forbidden", x=LEFT, y=TOP, width=RIGHT - LEFT, height=max(y(target_ms) - TOP, 0))
    board.x_axis(x, bottom, TOP, "samples per second \u2192 better")
    board.y_axis(y, LEFT, RIGHT, f"{axis} latency, ms (down is better)")
    front = pareto_front([(dot.x, dot.y) for dot in dots])
    stairs = [point for (ax, ay), (bx, _) in itertools.pairwise(front) for point in ((ax, ay), (bx, ay))]
    if front:
        board.path([(x(a), y(b)) for a, b in [*stairs, front[-1]]], "front-line")
    if target_ms:
        board.line(LEFT, y(target_ms), RIGHT, y(target_ms), "target")
        board.text(LEFT + 8, y(target_ms) - 6, f"target: p99 of at most {given(target_ms)} ms", "target-text")
    for dot in sorted(dots, key=lambda each: each.css == "chosen"):
        chosen = dot.css == "chosen"
        board.add("circle", f"dot {dot.css}", cx=x(dot.x), cy=y(dot.y), r=9 if chosen else 5.5, tip=dot.tip)
        if chosen:
            left = x(dot.x) > (LEFT + RIGHT) / 2
            at = x(dot.x) + (-16 if left else 16)
            board.text(at, y(dot.y) + 4, dot.name, "callout", "end" if left else "start")
    return str(board)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points no other point beats in both (more x, less y), from the highest x down; ties keep one."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of a curve."""

    x: int
    value: Estimate
    tip: str


def curves(series: Mapping[str, Sequence[Sample]], x_label: str, end: str, title: str) -> str:
    """Return throughput over a knob with a few whole values, one line a series, whiskers of 95 %.

    Args:
        series: by name, at most eight are drawn in colours of their own.
        x_label: the knob.
        end: words at the right end of the axis (how far this host reaches), or empty.
        title: for a screen reader.
    """
    board, bottom, right = Board(400, title), 340.0, WIDTH - 250.0
    steps = sorted({sample.x for samples in series.values() for sample in samples})
    slots = {value: LEFT + (right - LEFT) * (index + 0.5) / len(steps) for index, value in enumerate(steps)}
    values = [bound for samples in series.values() for sample in samples for bound in sample.value.ends]
    y = linear(values, bottom, TOP)
    board.y_axis(y, LEFT, right, "samples per second")
    board.line(LEFT, bottom, right, bottom, "axis")
    for value, at in slots.items():
        board.text(at, bottom + 17, str(value), "tick", "middle")
    board.text(right, bottom + 36, x_label, "label", "end")
    if end:
        board.line(right, TOP, right, bottom, "limit")
        board.text(right - 6, TOP + 12, end, "limit-text", "end")
    ends: list[tuple[float, str, str]] = []
    for index, (name, samples) in enumerate(series.items()):
        css = f"series-{index % 8}"
        ordered = sorted(samples, key=lambda sample: sample.x)
        shift = (index - (len(series) - 1) / 2) * 7  # whiskers of neighbours must not lie on each other
        if len(ordered) > 1:
            board.path([(slots[each.x] + shift, y(each.value.value)) for each in ordered], f"curve {css}")
        for each in ordered:
            at = slots[each.x] + shift
            if each.value.bounded:
                low, high = each.value.ends
                board.whisker(y(low), y(high), at, f"whisker {css}", upright=True)
            board.add("circle", f"dot {css}", cx=at, cy=y(each.value.value), r=5, tip=each.tip)
        ends.append((y(ordered[-1].value.value), name, css))
    _legend(board, ends, right + 18)
    return str(board)


def _legend(board: Board, ends: Sequence[tuple[float, str, str]], x: float) -> None:
    """Write each series' name beside its last point, moved down where names would overlap."""
    ordered = sorted(ends)
    for y, (_, name, css) in zip(_apart([end[0] for end in ordered]), ordered, strict=True):
        board.add("circle", f"dot {css}", cx=x, cy=y, r=5)
        board.text(x + 11, y + 4, name if len(name) <= 30 else name[:29] + "\u2026", "name")


def _apart(wanted: Sequence[float]) -> list[float]:
    """Return heights for lines of text, ascending, moved down where they would overlap."""
    heights: list[float] = []
    for each in wanted:
        heights.append(max(each, heights[-1] + 19) if heights else each)
    return heights


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A measured compute peak, billion operations a second."""

    name: str
    value: float


def roofline(ceilings: Sequence[Ceiling], bandwidth: float, dots: Sequence[Dot], title: str) -> str:
    """Return the roofs (GOP/s over operations per byte, both log) under ``bandwidth`` GB/s, and where plans lie."""
    board, bottom, right = Board(440, title), 380.0, WIDTH - 150.0
    ridges = [roof.value / bandwidth for roof in ceilings]
    x = logarithmic([*[dot.x for dot in dots], *ridges, min(ridges) / 8, max(ridges) * 8], LEFT, right)
    slope_end = max(roof.value for roof in ceilings)
    y = logarithmic([*[dot.y for dot in dots], slope_end, bandwidth * x.low], bottom, TOP, room=1.5)
    board.x_axis(x, bottom, TOP, "operations per byte moved")
    board.y_axis(y, LEFT, right, "GOP/s (billion operations a second)")
    ridge = slope_end / bandwidth
    board.path([(x(x.low), y(bandwidth * x.low)), (x(ridge), y(slope_end))], "roof")
    angle = math.degrees(math.atan2(y(slope_end) - y(bandwidth * x.low), x(ridge) - x(x.low)))
    at = math.sqrt(x.low * ridge)
    board.add(
        "text", "limit-text", f"memory: {number(bandwidth)} GB/s", x=0, y=0, text_anchor="middle",
        transform=f"translate({x(at):.1f} {y(bandwidth * at) - 9:.1f}) rotate({angle:.1f})",
    )  # fmt: skip
    named = sorted(ceilings, key=lambda roof: -roof.value)
    for roof, height in zip(named, _apart([y(roof.value) for roof in named]), strict=True):
        board.path([(x(roof.value / bandwidth), y(roof.value)), (right, y(roof.value))], "roof")
        board.text(right + 8, height + 4, f"{roof.name} {number(roof.value)}", "name")
    for dot in dots:
        board.add("circle", f"dot {dot.css}", cx=x(dot.x), cy=y(dot.y), r=7, tip=dot.tip)
        left = x(dot.x) > (LEFT + right) / 2  # at the right the roofs have their names
        board.text(x(dot.x) + (-12 if left else 12), y(dot.y) + 14, dot.name, "callout", "end" if left else "start")
    return str(board)


def tip(name: str, value: Estimate, unit: str, *more: str) -> str:
    """Return a tooltip: name, value with interval, and further lines."""
    between = interval(value)
    first = f"{number(value.value)} {unit}" + (f" ({between})" if between else "")
    return "\n".join([name, first, *(line for line in more if line)])


__all__ = ["Ceiling", "Dot", "Sample", "Scale", "curves", "pareto_front", "roofline", "scatter", "tip"]
