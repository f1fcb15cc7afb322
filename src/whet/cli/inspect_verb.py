"""``whet inspect [MODEL]``: what this host really offers, or what a model is."""

from pathlib import Path
from typing import Any

import click

from whet.cli.verbs import as_json, importer_options, model_options


@click.command(name="inspect")
@click.argument("model", required=False)
@model_options
@as_json
def command(model: str | None, as_json: bool, **values: Any) -> int:
    """Show what this host really offers, or, with MODEL, what that model is."""
    return _model(Path(model), as_json, values) if model else _host(as_json)


def _host(as_json: bool) -> int:
    import msgspec

    from whet.cli.show import emit_json, pairs
    from whet.engine import available_runtimes
    from whet.host import describe, read_host

    host = read_host()
    runtimes = available_runtimes()
    if as_json:
        emit_json({"host": msgspec.to_builtins(host), "fingerprint": host.fingerprint, "runtimes": runtimes})
    else:
        pairs("This host", [*describe(host), ("Runtimes", ", ".join(runtimes))])
    return 0


def _model(path: Path, as_json: bool, values: dict[str, Any]) -> int:
    import tempfile

    from whet.cli.show import emit_json, grid, pairs
    from whet.models.importers import import_model
    from whet.models.inspect import describe, human, inspect_model

    with tempfile.TemporaryDirectory(prefix="whet-inspect-") as store:
        card = inspect_model(import_model(path, importer_options(values), Path(store)))
    if as_json:
        emit_json(card)
        return 0
    pairs(str(path), (row for row in describe(card) if row[0] != "operators"))
    rows = [
        (row.operator, str(row.count), "unknown" if row.flops is None else human(row.flops), f"{100 * row.share:.1f} %")
        for row in card.operators
    ]
    grid("Operators", ("operator", "count", "FLOPs a sample", "share"), rows)
    return 0
