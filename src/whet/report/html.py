"""A page as one HTML file: nothing is fetched, every string is escaped, and it reads well on paper."""

import json
from collections.abc import Iterator
from html import escape
from importlib.resources import files

from whet.report.model import finite
from whet.report.page import Block, Cell, Column, Figure, Page, Plot, Section, Table, Text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def to_html(page: Page) -> str:
    """Return the page as HTML. It allows itself no request at all (content security policy)."""
    assets = files("whet.report") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(page.title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#verdict">Skip to the verdict</a>',
            *_top(page),
            "<main>",
            *(line for section in page.sections for line in _section(section)),
            "</main>",
            '<div id="tip" role="tooltip" hidden></div>',
            f'<script type="application/json" id="evidence">{_embedded(page)}</script>',
            f"<script>\n{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _top(page: Page) -> Iterator[str]:
    yield "<header>"
    yield f'<p class="kicker">{escape(page.kicker)}</p>'
    yield f'<h1 id="verdict">{escape(page.verdict)}</h1>'
    if page.figures:
        yield '<dl class="figures">'
        yield from (_figure(figure) for figure in page.figures)
        yield "</dl>"
    yield "</header>"
    yield '<nav aria-label="Sections"><ul>'
    yield from (f'<li><a href="#{escape(each.id)}">{escape(each.title)}</a></li>' for each in page.sections)
    yield "</ul></nav>"


def _figure(figure: Figure) -> str:
    tone = f' class="{figure.tone}"' if figure.tone else ""
    note = f'<dd class="note">{escape(figure.note)}</dd>' if figure.note else ""
    return f"<div{tone}><dt>{escape(figure.label)}</dt><dd>{escape(figure.value)}</dd>{note}</div>"


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{escape(section.id)}" aria-labelledby="{escape(section.id)}-title">'
    yield f'<h2 id="{escape(section.id)}-title">{escape(section.title)}</h2>'
    yield f'<p class="lead">{escape(section.lead)}</p>'
    for block in section.blocks:
        yield from _block(block)
    yield "</section>"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Plot):
        yield f"<figure>{block.svg}<figcaption>{escape(block.caption)}</figcaption>"
        yield f'<p class="words">{escape(block.words)}</p></figure>'
    elif isinstance(block, Table):
        yield from _table(block)
    else:
        yield from _text(block)


def _text(text: Text) -> Iterator[str]:
    css = f' class="{text.tone}"' if text.tone else ""
    if text.words:
        yield f"<p{css}>{escape(text.words)}</p>"
    if text.items:
        items = "".join(f"<li>{escape(item)}</li>" for item in text.items)
        yield f"<ul{css}>{items}</ul>"


def _table(table: Table) -> Iterator[str]:
    if table.folded:
        yield f"<details><summary>{escape(table.caption)}</summary>"
    yield '<div class="scroll"><table>'
    if not table.folded:
        yield f"<caption>{escape(table.caption)}</caption>"
    heads = "".join(_head(column) for column in table.columns)
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    for index, row in enumerate(table.rows):
        strong = ' class="strong"' if index == table.strong else ""
        pairs = zip(row, table.columns, strict=True)
        written = "".join(_cell(cell, column, first=at == 0) for at, (cell, column) in enumerate(pairs))
        yield f"<tr{strong}>{written}</tr>"
    yield "</tbody></table></div>"
    if table.folded:
        yield "</details>"


def _head(column: Column) -> str:
    unit = f' <span class="unit">{escape(column.unit)}</span>' if column.unit else ""
    css = ' class="number"' if column.numeric else ""
    return f'<th scope="col"{css}>{escape(column.name)}{unit}</th>'


def _cell(cell: Cell, column: Column, *, first: bool) -> str:
    tag = "th" if first else "td"
    css = " ".join(filter(None, ("number" if column.numeric else "", cell.tone, "bar" if cell.bar is not None else "")))
    attributes = ' scope="row"' if first else ""
    attributes += f' class="{css}"' if css else ""
    attributes += f' data-key="{cell.key!r}"' if cell.key is not None else ""
    attributes += f' style="--bar:{cell.bar * 100:.1f}%"' if cell.bar is not None else ""
    detail = f"<small>{escape(cell.detail)}</small>" if cell.detail else ""
    return f"<{tag}{attributes}>{escape(cell.text)}{detail}</{tag}>"


def _embedded(page: Page) -> str:
    """Return the evidence as JSON that cannot end its script element, whatever a model is called."""
    text = json.dumps(finite(page.evidence), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
