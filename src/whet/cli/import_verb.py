"""``whet import MODEL -o DIR``: convert a model into an artifact, and check that it computes the same."""

from pathlib import Path
from typing import Any

import click

from whet.cli.verbs import as_json, importer_options, model_options


@click.command(name="import")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="DIR", help="The artifact folder to write.")
@click.option("--to", type=click.Choice(["onnx", "ir"]), help="Format of the artifact; the natural one when absent.")
@click.option("--tolerance", type=click.FloatRange(min=0), default=1e-4, show_default=True, metavar="X",
              help="Largest relative difference between parent and child, and between runtimes, at f32.")  # fmt: skip
@model_options
@as_json
def command(model: str, output: str, as_json: bool, **values: Any) -> int:
    """Convert MODEL into an artifact in DIR; refuse it when its answers differ past the tolerance."""
    import tempfile

    from whet.cli.output import place_folder
    from whet.cli.show import emit_json, pairs
    from whet.models.inspect import describe, inspect_model
    from whet.models.verify import describe_report, import_and_verify

    out = Path(output)
    with place_folder(out) as beside, tempfile.TemporaryDirectory(prefix="whet-import-") as store:
        options = importer_options(values, values["to"])
        artifact, report = import_and_verify(Path(model), options, Path(store), tolerance=values["tolerance"])
        card = inspect_model(artifact)
        beside(artifact.folder)
    if as_json:
        emit_json({"artifact": str(out), "sha256": artifact.sha256, "model": card, "verified": report})
    else:
        pairs(f"{model} -> {out}", [*describe(card), *describe_report(report)])
    return 0
