"""Plots whose rows carry a name: bars with intervals, the ablation waterfall, and intervals against a limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from whet.report.model import Estimate
from whet.report.svg import WIDTH, Board, Scale, linear
from whet.report.words import given, interval, number

LEFT, RIGHT = 300.0, WIDTH - 150.0
_ROW, _TOP, _FOOT = 42.0, 24.0, 50.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: name, value, how it is coloured (a class of the style), a remark at the right, and a tooltip."""

    name: str
    value: Estimate
    css: str
    remark: str = ""
    tip: str = ""


def bars(rows: Sequence[Bar], unit: str, title: str, remarks: str = "") -> str:
    """Return horizontal bars from zero with whiskers of 95 %; ``remarks`` is the head of the column at the right."""
    board, scale, bottom = _board(rows, title, [end for row in rows for end in row.value.ends])
    board.x_axis(scale, bottom, _TOP, unit)
    board.text(WIDTH - 8, _TOP - 10, remarks, "label", "end")
    for index, row in enumerate(rows):
        y = _name(board, index, row.name)
        board.add(
            "rect", f"bar {row.css}", x=scale(0), y=y - 11, height=22, width=max(scale(row.value.value) - scale(0), 1),
            rx=2, tip=_tip(row, unit),
        )  # fmt: skip
        _whisker(board, scale, row.value, y)
        _remark(board, scale, row, y)
    return str(board)


def waterfall(rows: Sequence[Bar], unit: str, title: str) -> str:
    """Return floating bars, each from the value before it to its own; the first stands on zero."""
    board, scale, bottom = _board(rows, title, [end for row in rows for end in row.value.ends])
    board.x_axis(scale, bottom, _TOP, unit)
    before = 0.0
    for index, row in enumerate(rows):
        y = _name(board, index, row.name)
        start, end = sorted((scale(before), scale(row.value.value)))
        board.add(
            "rect", f"bar {row.css}", x=start, y=y - 11, height=22, width=max(end - start, 2), rx=2,
            tip=_tip(row, unit),
        )  # fmt: skip
        _whisker(board, scale, row.value, y)
        if index + 1 < len(rows):
            board.line(scale(row.value.value), y + 11, scale(row.value.value), y + _ROW - 11, "step")
        _remark(board, scale, row, y)
        before = row.value.value
    return str(board)


def forest(rows: Sequence[Bar], limit: float | None, unit: str, title: str) -> str:
    """Return points with intervals on a scale through zero, and a line at ``limit`` that upper ends should keep."""
    values = [end for row in rows for end in row.value.ends] + [0.0] + ([limit * 1.5] if limit is not None else [])
    board, scale, bottom = _board(rows, title, values)
    board.x_axis(scale, bottom, _TOP, unit)
    board.line(scale(0), _TOP, scale(0), bottom, "zero")
    if limit is not None:
        board.add("rect", "forbidden", x=scale(limit), y=_TOP, width=max(RIGHT - scale(limit), 0), height=bottom - _TOP)
        board.line(scale(limit), _TOP, scale(limit), bottom, "target")
        board.text(scale(limit) + 5, _TOP - 8, f"floor {given(limit)}", "target-text")
    for index, row in enumerate(rows):
        y = _name(board, index, row.name)
        _whisker(board, scale, row.value, y, css=f"whisker {row.css}")
        board.add("circle", f"dot {row.css}", cx=scale(row.value.value), cy=y, r=5.5, tip=_tip(row, unit))
        board.text(RIGHT + 12, y + 4, row.remark, "remark")
    return str(board)


def _board(rows: Sequence[Bar], title: str, values: Sequence[float]) -> tuple[Board, Scale, float]:
    bottom = _TOP + _ROW * len(rows)
    return Board(bottom + _FOOT, title), linear(values, LEFT, RIGHT), bottom


def _name(board: Board, index: int, name: str) -> float:
    """Write a row's name, over two lines where it is long, and return the row's middle."""
    y = _TOP + _ROW * (index + 0.5)
    lines = wrap(name, 40)
    for line, words in enumerate(lines[:2]):
        board.text(LEFT - 12, y + 4 + 15 * (line - (min(len(lines), 2) - 1) / 2), words, "name", "end")
    return y


def wrap(words: str, width: int) -> list[str]:
    """Return at most two lines of about ``width`` characters; what does not fit ends in an ellipsis."""
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    if len(lines) > 2:
        lines = [lines[0], lines[1] + " \u2026"]
    return [line if len(line) <= width + 2 else line[: width + 1] + "\u2026" for line in lines]


def _whisker(board: Board, scale: Scale, value: Estimate, y: float, css: str = "whisker") -> None:
    if value.bounded:
        low, high = value.ends
        board.whisker(scale(low), scale(high), y, css)


def _remark(board: Board, scale: Scale, row: Bar, y: float) -> None:
    at = scale(max(row.value.ends[1], row.value.value)) + 10
    board.text(at, y + 4, number(row.value.value), "value")
    if row.remark:
        board.text(WIDTH - 8, y + 4, row.remark, "remark", "end")


def _tip(row: Bar, unit: str) -> str:
    between = interval(row.value)
    said = f"{row.name}\n{number(row.value.value)} {unit}" + (f" ({between})" if between else "")
    return f"{said}\n{row.tip}" if row.tip else said
