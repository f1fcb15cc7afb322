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
    """Show what this host really offers, or, with MODEL, what that model (or bundle) is."""
    from whet.models.bundle import is_bundle

    if model and is_bundle(Path(model)):
        return _bundle(Path(model), as_json)
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


def _bundle(path: Path, as_json: bool) -> int:
    """Show whose plans a bundle holds, nearest host first."""
    from whet.cli.show import emit_json, grid, pairs
    from whet.host import read_host
    from whet.models.bundle import read_bundle
    from whet.models.hosts import of_model, rows
    from whet.models.inspect import human

    bundle, host = read_bundle(path), read_host()
    found = sorted(rows(bundle, host.fingerprint_fields), key=lambda row: (row["away"] is None, row["away"] or 0.0))
    if as_json:
        document = {"schema": 1, "bundle": str(path), "name": bundle.name, "model": of_model(bundle)}
        emit_json({**document, "here": host.fingerprint, "plans": found})
        return 0
    sizes = {sha: sum(one.stat().st_size for one in artifact.folder.rglob("*") if one.is_file())
             for sha, artifact in bundle.artifacts.items()}  # fmt: skip
    artifacts = ", ".join(f"{sha[:12]} ({bundle.artifacts[sha].precision}, {human(size)}B)"
                          for sha, size in sizes.items())  # fmt: skip
    pairs(str(path), [("Name", bundle.name), ("Artifacts", artifacts), ("This host", host.fingerprint)])
    cells = [
        (
            row["host"] or "not recorded",
            row["words"] + "".join(f"; {one}" for one in row["differs"] if row["role"] == "chosen"),
            row["role"] + (", revalidated" if row["revalidated"] else ""),
            f"{row['plan_id']}: {row['precision']} on {row['plan']}",
            _figure(row["throughput_per_s"]),
            _figure(row["latency_p99_ms"]),
            "" if row["away"] is None else f"{row['away']:.1f}",
        )
        for row in found
    ]
    header = ("host", "which, and what differs from here", "role", "plan", "samples/s", "p99 ms", "away")
    grid("Hosts and their plans", header, cells, left=4)
    return 0


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


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
