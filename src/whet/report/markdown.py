"""A page as Markdown: the same sections and numbers; a plot becomes the words under it."""

import re
from collections.abc import Iterator

from whet.report.page import Block, Cell, Page, Plot, Section, Table, Text


def to_markdown(page: Page) -> str:
    """Return the page as GitHub-flavoured Markdown."""
    lines = [f"# {_plain(page.title)}", "", _plain(page.kicker), "", f"**{_plain(page.verdict)}**", ""]
    if page.figures:
        lines += ["| | | |", "|---|---:|---|"]
        lines += [f"| {_plain(each.label)} | {_plain(each.value)} | {_plain(each.note)} |" for each in page.figures]
        lines.append("")
    for section in page.sections:
        lines += _section(section)
    return "\n".join(lines)


def _section(section: Section) -> Iterator[str]:
    yield f"## {_plain(section.title)}"
    yield ""
    yield _plain(section.lead)
    yield ""
    for block in section.blocks:
        yield from _block(block)
        yield ""


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Plot):
        yield f"*{_plain(block.caption)}* {_plain(block.words)}"
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Text):
        if block.words:
            yield _plain(block.words)
        if block.items:
            yield ""
            yield from (f"- {_plain(item)}" for item in block.items)


def _table(table: Table) -> Iterator[str]:
    yield f"**{_plain(table.caption)}**"
    yield ""
    heads = [_plain(f"{each.name} ({each.unit})" if each.unit else each.name) for each in table.columns]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---:' if each.numeric else '---' for each in table.columns)}|"
    for index, row in enumerate(table.rows):
        yield f"| {' | '.join(_cell(cell, strong=index == table.strong) for cell in row)} |"


def _cell(cell: Cell, *, strong: bool) -> str:
    text = _plain(cell.text)
    text = f"**{text}**" if strong and text else text
    return f"{text} ({_plain(cell.detail)})" if cell.detail else text


def _plain(text: str) -> str:
    """Escape what Markdown or HTML inside it would read as more than text; a cell stays on its line."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", flat)
