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
        pairs("This host", [*describe(host), ("runtimes installed", ", ".join(runtimes))])
    return 0


def _model(path: Path, as_json: bool, values: dict[str, Any]) -> int:
    import tempfile

    from whet.cli.show import emit_json, grid, pairs
    from whet.models.importers import import_model
    from whet.models.inspect import describe_card, inspect_model

    with tempfile.TemporaryDirectory(prefix="whet-inspect-") as store:
        card = inspect_model(import_model(path, importer_options(values), Path(store)))
    if as_json:
        emit_json(card)
        return 0
    pairs(str(path), describe_card(card))
    rows = [(o.type, str(o.count), f"{o.gflops:.3f}", f"{100 * o.share:.1f} %") for o in card.operators]
    grid("Operators", ("operator", "count", "GFLOPs", "share"), rows)
    return 0
