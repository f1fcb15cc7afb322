"""A search's result in a terminal: the verdict, then the report's own tables."""

from typing import Any

from whet.cli.show import console
from whet.report import summary_tables, verdict_of
from whet.report.page import Cell, Table

BESIDE = 24
"""Characters of detail that stand beside a value; longer ones are for the report, a terminal is narrow."""
TONES = {"good": "green", "bad": "red", "muted": "dim"}


def show_result(result: dict[str, Any]) -> None:
    """Print ``result``, an evidence document."""
    from rich.text import Text

    out = console()
    out.print()
    out.print(Text(verdict_of(result), style="bold"))
    for table in summary_tables(result):
        out.print(_rich(table))


def show_revalidated(result: dict[str, Any]) -> None:
    """Print what a bundle's plan is worth on this host."""
    from whet.cli.show import grid, pairs

    origin, changes = result["from"], result["changes"]
    away = "unknown" if origin["away"] is None else f"{origin['away']:.1f}"
    found = "this host" if origin["away"] == 0 else f"{origin['words']} ({origin['fingerprint'] or 'no record'})"
    rows = [("Plan found on", found), ("Distance", away), ("What differs", "; ".join(origin["differs"]) or "nothing")]
    rows += [("Changed for this host", "; ".join(changes) or "nothing"), ("Serves here", result["serves"])]
    rows += [(f"Refused: {one['what']}", one["reason"]) for one in result["refused"]]
    pairs("Revalidated", rows)
    cells = [
        (one["label"], one["plan"], _interval(one["throughput_per_s"]), _interval(one["over_f32"]), str(one["blocks"]))
        for one in result["trials"]
    ]
    grid("Measured next to each other", ("what", "plan", "samples/s", "over plain f32", "blocks"), cells, left=2)


def _interval(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    bounds = "" if found["low"] is None else f" [{found['low']:.4g}, {found['high']:.4g}]"
    return f"{found['value']:.4g}{bounds}"


def _rich(table: Table) -> Any:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(title=table.caption, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in table.columns:
        unit = f" [{column.unit}]" if column.unit else ""
        grid.add_column(Text(column.name + unit), justify="right" if column.numeric else "left", overflow="fold")
    for index, row in enumerate(table.rows):
        grid.add_row(*map(_cell, row), style="bold" if index == table.strong else "")
    return grid


def _cell(cell: Cell) -> Any:
    from rich.text import Text

    text = Text(cell.text, style=TONES.get(cell.tone, ""))
    shown = cell.detail if len(cell.detail) <= BESIDE else ""
    return text.append(f"  {shown}", style="dim") if shown else text
