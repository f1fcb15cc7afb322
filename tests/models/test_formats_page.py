"""The committed page of formats is the one the code writes."""

from pathlib import Path

from whet.models.importers import FORMATS
from whet.models.importers.page import render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == render(), "write it again: python -m whet.models.importers > docs/formats.md"


def test_every_format_stands_in_it():
    page = render()
    for row in FORMATS:
        assert row.name == "refused" or f"`{row.name}`" in page
    assert "TensorRT" in page
    assert "GGUF" in page
