"""A small SVG drawing board: scales, ticks, and marks whose texts are escaped and which carry their own tooltip.

Colours are classes, so that the page's style decides them for light, dark and paper; every mark with a ``tip`` can be
reached by mouse and keyboard, and says the tip to a screen reader.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 960.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to pixels, linear or logarithmic.

    Attributes:
        low: value at ``start``.
        high: value at ``end``.
        start: pixel.
        end: pixel.
        log: logarithmic; low and high are positive.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values past the ends are drawn at the ends."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, self.low))
        part = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Return round values within the scale: steps of 1, 2 or 5, or those times powers of ten on a log scale."""
        return _log_ticks(self.low, self.high, count) if self.log else _linear_ticks(self.low, self.high, count)


def linear(values: Sequence[float], start: float, end: float, *, zero: bool = True, room: float = 0.06) -> Scale:
    """Return a linear scale that holds all values, with some room, and zero if asked for."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    spread = (high - low) or abs(high) or 1.0
    return Scale(low if zero and low == 0 else low - room * spread, high + room * spread, start, end)


def logarithmic(values: Sequence[float], start: float, end: float, room: float = 1.15) -> Scale:
    """Return a log scale that holds all positive values with some room."""
    positive = [value for value in values if value > 0] or [1.0]
    return Scale(min(positive) / room, max(positive) * room, start, end, log=True)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(count, 1)
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) <= count + 2:
            return found or _linear_ticks(low, high, count)
    return found


def tick_text(value: float) -> str:
    """Return a tick as short as it is exact."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e\u2212")
    return f"{value:,.10g}".replace(",", "\u2009").replace("-", "\u2212")


@dataclass(slots=True)
class Board:
    """An SVG under construction.

    Attributes:
        height: pixels.
        title: what it shows, for a screen reader.
        width: pixels.
        parts: elements so far.
    """

    height: float
    title: str
    width: float = WIDTH
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, css: str = "", text: str | None = None, tip: str = "", **attributes: str | float) -> None:
        """Add an element; a text is its content, a tip its tooltip. Underscores in names become dashes."""
        values = {"class": f"{css} mark".strip() if tip else css, **attributes}
        if tip:
            values |= {"data-tip": tip, "tabindex": "0", "role": "img", "aria-label": tip.replace("\n", "; ")}
        written = "".join(
            f' {name.replace("_", "-")}="{html.escape(_exact(value))}"' for name, value in values.items() if value != ""
        )
        content = "" if text is None else html.escape(text)
        self.parts.append(f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>")

    def text(self, x: float, y: float, words: str, css: str = "", anchor: str = "start") -> None:
        """Write words; ``anchor`` is start, middle or end."""
        self.add("text", css, words, x=x, y=y, text_anchor=anchor)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Draw a line."""
        self.add("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def path(self, points: Sequence[tuple[float, float]], css: str, *, closed: bool = False) -> None:
        """Draw a polyline or a filled shape."""
        said = " L".join(f"{_exact(x)} {_exact(y)}" for x, y in points)
        self.add("path", css, d=f"M{said}{'Z' if closed else ''}")

    def whisker(self, low: float, high: float, at: float, css: str = "whisker", *, upright: bool = False) -> None:
        """Draw an interval with end caps; horizontal unless ``upright``. All in pixels."""
        cap = 4.0
        ends = [((low, at - cap), (low, at + cap)), ((low, at), (high, at)), ((high, at - cap), (high, at + cap))]
        for (x1, y1), (x2, y2) in ends:
            if upright:
                x1, y1, x2, y2 = y1, x1, y2, x2  # noqa: PLW2901  (the same figure, turned)
            self.line(x1, y1, x2, y2, css)

    def x_axis(self, scale: Scale, y: float, top: float, label: str, count: int = 8) -> None:
        """Draw grid lines from ``top`` down to ``y``, tick texts below, and the axis' label at its right end."""
        for tick in scale.ticks(count):
            self.line(scale(tick), top, scale(tick), y, "grid")
            self.text(scale(tick), y + 17, tick_text(tick), "tick", "middle")
        self.line(scale.start, y, scale.end, y, "axis")
        self.text(scale.end, y + 36, label, "label", "end")

    def y_axis(self, scale: Scale, x: float, right: float, label: str, count: int = 6) -> None:
        """Draw grid lines from ``x`` to ``right``, tick texts at the left, and the axis' label above."""
        for tick in scale.ticks(count):
            self.line(x, scale(tick), right, scale(tick), "grid")
            self.text(x - 8, scale(tick) + 4, tick_text(tick), "tick", "end")
        self.text(x - 8, min(scale.start, scale.end) - 12, label, "label", "start")

    def __str__(self) -> str:
        body = "\n".join(self.parts)
        size = f"0 0 {_exact(self.width)} {_exact(self.height)}"
        return (
            f'<svg viewBox="{size}" role="group" aria-label="{html.escape(self.title)}" '
            f'preserveAspectRatio="xMidYMid meet">\n{body}\n</svg>'
        )


def _exact(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2):g}"
