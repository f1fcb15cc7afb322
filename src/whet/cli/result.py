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
