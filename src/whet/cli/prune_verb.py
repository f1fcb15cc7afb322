"""``whet prune MODULE:FUNCTION``: take whole channels out of a PyTorch net, fine-tune, judge, export every step."""

from pathlib import Path
from typing import Any

import click

from whet.cli.verbs import as_json


@click.command(name="prune")
@click.argument("entry", metavar="MODULE:FUNCTION")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write: the unpruned net and every step.")
@click.option("--data", required=True, metavar="DATA", help="Folder of images, .npy, .npz, or module:function.")
@click.option(
    "--finetune", default="", metavar="MODULE:FUNCTION", help="Called as f(model, data, stage) after each step."
)
@click.option(
    "--ratio", type=float, default=0.3, show_default=True, metavar="X", help="Share of the channels to remove."
)
@click.option(
    "--steps", type=click.IntRange(1, 100), default=1, show_default=True, metavar="N", help="In how many steps."
)
@click.option(
    "--importance",
    default="l2",
    show_default=True,
    metavar="NAME",
    help="Which channels go first: by l1, l2, lamp, bn-scale, taylor or random.",
)
@click.option("--scope", type=click.Choice(["layer", "global"]), default="layer", show_default=True,
              help="Every layer loses the same share, or the least important channels of all go.")  # fmt: skip
@click.option(
    "--multiple",
    type=click.IntRange(1),
    metavar="N",
    help="Keep widths at multiples of N; the host's vector width when absent.",
)
@click.option("--keep", multiple=True, metavar="LAYER", help="A layer that stays as it is, by its name in the module.")
@click.option("--output-name", "outputs", multiple=True, metavar="NAME", help="Names of the outputs, in their order.")
@click.option("--input-shape", "input_shapes", multiple=True, metavar="[NAME=]1,3,224,224",
              help="Shape of an input, where the function returns no example.")  # fmt: skip
@click.option("--preprocess", metavar="FILE", help="TOML that describes preprocessing and labels.")
@click.option("--max-drop", type=click.FloatRange(0, 1, max_open=True), default=0.01, show_default=True, metavar="X",
              help="Largest drop of the metric, absolute.")  # fmt: skip
@click.option("--metric", default="", metavar="NAME", help="top1, top5, agreement, snr or module:function.")
@click.option("--training-share", type=float, default=0.5, show_default=True, metavar="X",
              help="Share of the data that may be learnt from; the rest judges.")  # fmt: skip
@click.option("--evaluation", type=click.IntRange(1), default=2000, show_default=True, metavar="N",
              help="Samples to judge on, at most.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@as_json
def command(entry: str, output: str, as_json: bool, **values: Any) -> int:
    """Remove channels from the net that MODULE:FUNCTION returns, and write every step as a model that can compete.

    This runs your code: FUNCTION takes nothing and returns an nn.Module, or (module, example inputs). Exit code 1: no
    step holds the accuracy floor (they are written all the same). Ctrl-C keeps the steps that are finished.
    """
    import tempfile

    from whet.cli.output import place_folder
    from whet.cli.progress import Words
    from whet.cli.show import emit_json
    from whet.models.importers.base import Options
    from whet.optimize.prune import prune
    from whet.optimize.prune_request import PruneRequest
    from whet.tensors import read_shapes

    preprocess = values.pop("preprocess")
    shapes = read_shapes(values.pop("input_shapes"))
    options = Options(input_shapes=shapes, preprocess=Path(preprocess) if preprocess else None)
    request = PruneRequest(entry=entry, options=options, **values)
    with place_folder(Path(output)) as place, tempfile.TemporaryDirectory(prefix="whet-prune-") as work:
        with Words() as words:
            outcome = prune(request, Path(work), words.show)
        place(outcome.folder)
    if as_json:
        emit_json(outcome.document)
    else:
        _show(outcome.document)
    click.echo(f"{outcome.message}. The nets are in {output}.", err=True)
    return outcome.exit_code


def _show(document: dict[str, Any]) -> None:
    from whet.cli.show import grid

    rows = []
    for net in document["nets"]:
        verdict, speed = net["accuracy"], net["speed_at_default_plan"]
        gflop = "" if net["gflop"] is None else f"{net['gflop']:.3g}"
        faster = f"{speed.value:.2f}x [{speed.low:.2f}, {speed.high:.2f}]" if speed else ""
        drop = f"{verdict.drop.value:+.4f} [{verdict.drop.low:+.4f}, {verdict.drop.high:+.4f}]" if verdict else ""
        removed = "" if net["removed"] is None else f"{net['removed']:.0%}"
        said = verdict.verdict if verdict else ""
        rows.append((net["label"], said, removed, f"{net['parameters']:,}", gflop, faster, drop))
    title = f"{document['entry']}: {document['importance']}, multiples of {document['multiple']}"
    grid(
        title, ("net", "accuracy", "channels gone", "parameters", "GFLOP", "speed, default plan", "drop"), rows, left=2
    )
