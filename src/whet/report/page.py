"""A report before it is HTML, Markdown or a terminal's table: sections of text, tables and plots, in plain values.

All texts are raw: whoever renders a page escapes them. Plots are SVG whose texts are escaped already.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["", "good", "bad", "muted"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: what it says.
        detail: a smaller second part, such as an interval.
        bar: 0..1, drawn behind the text where there is room for it.
        tone: how it is meant.
        key: value to sort by; the text when None.
    """

    text: str
    detail: str = ""
    bar: float | None = None
    tone: Tone = ""
    key: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its head, its unit, and whether it holds numbers (aligned right)."""

    name: str
    unit: str = ""
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows, in a few words.
        columns: heads.
        rows: cells, as many as columns.
        strong: index of the row that matters most, or None.
        folded: shown only on request, where the medium can.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    strong: int | None = None
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture: SVG, a caption, and what is to be seen in words."""

    svg: str
    caption: str
    words: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; ``items`` make a list below it."""

    words: str
    items: tuple[str, ...] = ()
    tone: Tone = ""


Block = Table | Plot | Text


@dataclass(frozen=True, slots=True)
class Section:
    """A section; without blocks it is left out of the page.

    Attributes:
        id: anchor.
        title: heading.
        lead: its message, in one sentence.
        blocks: content.
    """

    id: str
    title: str
    lead: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A key figure: label, value, and a note under it."""

    label: str
    value: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report.

    Attributes:
        title: of the document.
        kicker: the line above the verdict: which model, where, when.
        verdict: the result in one sentence.
        figures: key figures.
        sections: in order.
        evidence: the document it was made from, carried along in HTML.
    """

    title: str
    kicker: str
    verdict: str
    figures: tuple[Figure, ...]
    sections: tuple[Section, ...]
    evidence: dict[str, Any] = field(default_factory=dict)


def missing() -> tuple[Block, ...]:
    """Return what a section says that has nothing to show: never a made-up value, never silence."""
    return (Text("Not measured in this run.", tone="muted"),)


def cells(*texts: str | Cell) -> tuple[Cell, ...]:
    """Return a row from texts and cells."""
    return tuple(text if isinstance(text, Cell) else Cell(text) for text in texts)
