"""``whet optimize MODEL``: find the best plan under the targets, prove it, write a bundle."""

from pathlib import Path
from typing import Any

import click

from whet.cli.verbs import as_json, importer_options, model_options


@click.command(name="optimize")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="DIR", help="The bundle to write.")
@click.option("--data", metavar="DATA", help="Folder of images, .npy, .npz, or module:function yielding samples.")
@click.option("--synthetic", type=click.IntRange(1), metavar="N", help="Noise instead of data: speed only.")
@click.option("--p99-ms", type=float, metavar="MS", help="99th percentile of latency, at most.")
@click.option("--p50-ms", type=float, metavar="MS", help="Median latency, at most.")
@click.option("--min-qps", type=float, metavar="N", help="Samples a second, at least.")
@click.option("--max-drop", type=float, metavar="X", help="Largest drop of the metric, absolute: 0.01 is one point.")
@click.option("--min-accuracy", type=float, metavar="X", help="The metric itself, at least.")
@click.option(
    "--metric", default="", metavar="NAME", help="top1, top5, agreement, snr or module:function; higher is better."
)
@click.option("--max-cores", type=click.IntRange(1), metavar="N", help="Cores the plan may use.")
@click.option("--max-rss-mb", type=float, metavar="MB", help="Resident memory of a worker, at most.")
@click.option("--max-load-ms", type=float, metavar="MS", help="Time from start to ready, at most.")
@click.option(
    "--objective", type=click.Choice(["throughput", "latency", "cores"]), default="throughput", show_default=True
)
@click.option("--service", type=click.Choice(["online", "batch", "stream"]), default="online", show_default=True)
@click.option("--budget", default="120s", show_default=True, metavar="TIME", help="How long the whole job may take.")
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Consider only these runtimes.")
@click.option("--variant", "variants", multiple=True, metavar="NAME=PATH", help="A further model that competes.")
@click.option("--calibration", type=click.IntRange(1), default=300, show_default=True, metavar="N")
@click.option("--evaluation", type=click.IntRange(1), default=2000, show_default=True, metavar="N")
@click.option("--allow-synthetic-calibration", is_flag=True, help="Calibrate int8 and judge it on noise all the same.")
@click.option("--name", default="", metavar="NAME", help="Name of the model when served.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on where an interrupted run of the same job stopped.")
@model_options
@as_json
def command(model: str, as_json: bool, **values: Any) -> int:
    """Find the best way this CPU can run MODEL within the targets, and write a bundle.

    Exit code 1: no plan meets the targets (the nearest one is in the bundle). Ctrl-C keeps the best so far.
    """
    from whet.cli.progress import Bar
    from whet.cli.show import emit_json
    from whet.optimize.run import optimize

    with Bar() as bar:
        outcome = optimize(_request(model, values), bar.show)
    if as_json:
        emit_json(outcome.result)
    elif outcome.result:
        from whet.cli.result import show_result

        show_result(outcome.result)
    where = f" The bundle is {outcome.bundle.folder}." if outcome.bundle else ""
    click.echo(f"{outcome.message}{where}", err=True)
    return int(outcome.exit_code)


def _request(model: str, values: dict[str, Any]) -> Any:
    from whet.cli.parse import named_paths, seconds
    from whet.optimize.request import OptimizeRequest
    from whet.plan import Targets

    names = (
        "p99_ms", "p50_ms", "min_qps", "max_drop", "min_accuracy", "metric", "max_cores",
        "max_rss_mb", "max_load_ms", "objective",
    )  # fmt: skip
    same = ("data", "synthetic", "service", "runtimes", "calibration", "evaluation", "name", "seed", "resume")
    return OptimizeRequest(
        model=Path(model),
        out=Path(values["output"]),
        options=importer_options(values),
        targets=Targets(**{name: values[name] for name in names}),
        budget_s=seconds(values["budget"]),
        variants={name: Path(path) for name, path in named_paths(values["variants"], "--variant").items()},
        allow_synthetic_calibration=values["allow_synthetic_calibration"],
        **{name: values[name] for name in same},
    )
