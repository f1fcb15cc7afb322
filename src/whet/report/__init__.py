"""Reports: evidence in, text out. Pure: every report can be made again from what a bundle carries."""

import json
from typing import Any

from whet.report.compare import compare
from whet.report.html import to_html
from whet.report.markdown import to_markdown
from whet.report.model import finite, load_evidence, read
from whet.report.page import Table
from whet.report.pages import page
from whet.report.verdict import verdict

__all__ = [
    "compare",
    "load_evidence",
    "render_html",
    "render_json",
    "render_markdown",
    "summary_tables",
    "verdict_of",
]


def render_html(result: dict[str, Any]) -> str:
    """Return one self-contained HTML file.

    Raises:
        BundleError: the result is not of the shape of evidence.
    """
    return to_html(page(result))


def render_markdown(result: dict[str, Any]) -> str:
    """Return the report as Markdown.

    Raises:
        BundleError: the result is not of the shape of evidence.
    """
    return to_markdown(page(result))


def render_json(result: dict[str, Any]) -> str:
    """Return the evidence itself, indented, after checking its shape.

    Raises:
        BundleError: the result is not of the shape of evidence.
    """
    read(result)
    return json.dumps(finite(result), indent=1, sort_keys=True, allow_nan=False) + "\n"


def verdict_of(result: dict[str, Any]) -> str:
    """Return the result in one sentence.

    Raises:
        BundleError: the result is not of the shape of evidence.
    """
    return verdict(read(result))


def summary_tables(result: dict[str, Any]) -> tuple[Table, ...]:
    """Return the tables a terminal shows after a search: baselines and chosen, steps, accuracy, refusals.

    Raises:
        BundleError: the result is not of the shape of evidence.
    """
    wanted = {"baselines", "ablation", "accuracy", "refused"}
    blocks = (block for section in page(result).sections if section.id in wanted for block in section.blocks)
    return tuple(block for block in blocks if isinstance(block, Table) and not block.caption.startswith("Worst-hit"))
