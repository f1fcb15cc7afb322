"""Latency distributions, one above the other on one logarithmic axis, with the percentiles and their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from whet.report.bars import wrap
from whet.report.model import Estimate, Histogram
from whet.report.svg import WIDTH, Board, Scale, logarithmic
from whet.report.words import given, interval, number, whole

_LEFT, _RIGHT, _TOP, _ROW = 250.0, WIDTH - 30.0, 40.0, 104.0


@dataclass(frozen=True, slots=True)
class Ridge:
    """One distribution: name, counts, percentiles by name, and whether it is the chosen plan's."""

    name: str
    histogram: Histogram
    percentiles: dict[str, Estimate]
    count: int
    chosen: bool = False


def ridges(rows: Sequence[Ridge], target_ms: float | None, title: str) -> str:
    """Return the distributions as areas; each is as high as its row, so shapes compare and heights do not."""
    bottom = _TOP + _ROW * len(rows)
    board = Board(bottom + 50, title)
    edges = [edge for row in rows for edge in row.histogram.edges_ms]
    scale = logarithmic(edges + ([target_ms] if target_ms else []), _LEFT, _RIGHT)
    board.x_axis(scale, bottom, _TOP - 10, "latency, ms", 10)
    if target_ms:
        board.line(scale(target_ms), _TOP - 14, scale(target_ms), bottom, "target")
        board.text(scale(target_ms) - 6, _TOP - 18, f"p99 target {given(target_ms)} ms", "target-text", "end")
    for index, row in enumerate(rows):
        _ridge(board, row, scale, _TOP + _ROW * (index + 1) - 22)
    return str(board)


def _ridge(board: Board, row: Ridge, scale: Scale, base: float) -> None:
    densities = _densities(row, scale)
    highest = max(densities, default=0.0) or 1.0
    css = "chosen" if row.chosen else "other"
    outline = [(scale(row.histogram.edges_ms[0]), base)]
    for density, low, high in zip(densities, row.histogram.edges_ms, row.histogram.edges_ms[1:], strict=False):
        top = base - density / highest * (_ROW - 38)
        outline += [(scale(low), top), (scale(high), top)]
    outline.append((scale(row.histogram.edges_ms[-1]), base))
    board.path(outline, f"ridge {css}", closed=True)
    board.line(_LEFT, base, _RIGHT, base, "axis")
    for name, value in row.percentiles.items():
        low, high = value.ends
        board.add(
            "rect", f"band {css}", x=scale(low), y=base + 2, height=7, width=max(scale(high) - scale(low), 2), rx=2,
            tip=f"{row.name}\n{name} {number(value.value)} ms"
            + (f" ({interval(value)})" if value.bounded else "")
            + f"\n{whole(row.count)} answers",
        )  # fmt: skip
        board.line(scale(value.value), base - 8, scale(value.value), base + 10, f"percentile {css}")
        side = {"p50": -5, "p99": 5}.get(name)  # those between would lie on each other; the table has them
        if side is not None:
            board.text(
                scale(value.value) + side, base + 21, f"{name} {number(value.value)}", "percentile-text",
                "end" if side < 0 else "start",
            )  # fmt: skip
    lines = wrap(row.name, 34)
    for at, words in enumerate(lines):
        board.text(_LEFT - 14, base - 22 + 15 * at, words, "name strong" if row.chosen else "name", "end")
    board.text(_LEFT - 14, base - 22 + 15 * len(lines), f"{whole(row.count)} answers", "tick", "end")


def _densities(row: Ridge, scale: Scale) -> list[float]:
    """Return the share of answers per pixel of each bin."""
    total = sum(row.histogram.counts) or 1
    edges = row.histogram.edges_ms
    return [
        count / total / max(scale(high) - scale(low), 0.5)
        for count, low, high in zip(row.histogram.counts, edges, edges[1:], strict=False)
    ]
