"""``whet optimize MODEL``: find the best plan under the targets, prove it, write a bundle."""

from pathlib import Path
from typing import Any

import click

from whet.cli.verbs import as_json, importer_options, model_options


@click.command(name="optimize")
@click.argument("model")
@click.option("-o", "--output", metavar="DIR", help="The bundle to write; the plans of other hosts in it stay.")
@click.option("--data", metavar="DATA", help="Folder of images, .npy, .npz, or module:function yielding samples.")
@click.option("--synthetic", type=click.IntRange(1), metavar="N", help="Noise instead of data: speed only.")
@click.option("--p99-ms", type=float, metavar="MS", help="99th percentile of latency, at most.")
@click.option("--p50-ms", type=float, metavar="MS", help="Median latency, at most.")
@click.option("--min-qps", type=float, metavar="N", help="Samples a second, at least.")
@click.option("--max-drop", type=float, metavar="X", help="Largest drop of the metric, absolute: 0.01 is one point.")
@click.option("--min-accuracy", type=float, metavar="X", help="The metric itself, at least.")
@click.option("--metric", metavar="NAME", help="top1, top5, agreement, snr or module:function; higher is better.")
@click.option("--max-cores", type=click.IntRange(1), metavar="N", help="Cores the plan may use.")
@click.option("--max-rss-mb", type=float, metavar="MB", help="Resident memory of a worker, at most.")
@click.option("--max-load-ms", type=float, metavar="MS", help="Time from start to ready, at most.")
@click.option(
    "--objective",
    type=click.Choice(["throughput", "latency", "cores"]),
    help="Most samples a second (default), lowest median, or fewest cores that carry --min-qps.",
)
@click.option(
    "--service",
    type=click.Choice(["online", "batch", "stream"]),
    help="Kind of service; sets the targets that are not given: online p99 100 ms, stream one interval, batch none.",
)
@click.option(
    "--targets", "file", metavar="FILE", help="TOML with any of these and tables [targets], [variants]; flags win."
)
@click.option("--budget", metavar="TIME", help="How long the whole job may take.  [default: 120s]")
@click.option(
    "--strategy",
    type=click.Choice(["racing", "random", "exhaustive", "tpe"]),
    help="How plans to measure are chosen; tpe needs whet[tpe].  [default: racing]",
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Consider only these runtimes.")
@click.option("--variant", "variants", multiple=True, metavar="NAME=PATH", help="A further model that competes.")
@click.option("--calibration", type=click.IntRange(1), metavar="N", help="Samples to calibrate with.  [default: 300]")
@click.option("--evaluation", type=click.IntRange(1), metavar="N", help="Samples that judge.  [default: 2000]")
@click.option(
    "--allow-synthetic-calibration",
    is_flag=True,
    default=None,
    help="Calibrate int8 and judge it on noise all the same.",
)
@click.option("--name", metavar="NAME", help="Name of the model when served.")
@click.option("--seed", type=int, metavar="N", help="Of every draw.  [default: 0]")
@click.option("--journal", metavar="DIR", help="Journal that jobs share: each starts from what the others learnt here.")
@click.option(
    "--revalidate",
    is_flag=True,
    help="MODEL is a bundle: measure its plan on this host, in seconds, and file what holds here. Takes --data, "
    "--budget [default: 25s] and --seed.",
)
@click.option("--resume", is_flag=True, help="Go on where an interrupted run of the same job stopped.")
@model_options
@as_json
def command(model: str, as_json: bool, revalidate: bool, **values: Any) -> int:
    """Find the best way this CPU can run MODEL within the targets, and write a bundle.

    Exit code 1: no plan meets the targets (the nearest one is in the bundle), or with --revalidate, the plan does not
    hold here. Ctrl-C keeps the best so far.
    """
    if revalidate:
        return _revalidate(model, values, as_json=as_json)
    if values["output"] is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    from whet.cli.progress import Bar
    from whet.cli.show import emit_json
    from whet.optimize.run import noise_words, optimize

    with Bar() as bar:
        outcome = optimize(_request(model, values), bar.show)
    if as_json:
        emit_json(outcome.result)
    elif outcome.result:
        from whet.cli.result import show_result

        show_result(outcome.result)
    if outcome.result:
        click.echo(noise_words(outcome.result), err=True)
    where = f" The bundle is {outcome.bundle.folder}." if outcome.bundle else ""
    click.echo(f"{outcome.message}{where}", err=True)
    return int(outcome.exit_code)


def _revalidate(bundle: str, values: dict[str, Any], *, as_json: bool) -> int:
    from whet.cli.parse import seconds
    from whet.cli.progress import Bar
    from whet.cli.show import emit_json
    from whet.optimize.relook import RevalidateRequest
    from whet.optimize.revalidate import revalidate

    others = [name for name, value in values.items() if value not in (None, (), False, "")]
    strangers = sorted(set(others) - {"data", "budget", "seed"})
    if strangers:
        said = ", ".join(name.replace("_", "-") for name in strangers)
        raise click.UsageError(f"--revalidate measures the plan a bundle has; it takes no {said}.")
    given = {"budget_s": seconds(values["budget"])} if values["budget"] else {}
    request = RevalidateRequest(Path(bundle), values["data"], seed=values["seed"] or 0, **given)
    with Bar() as bar:
        outcome = revalidate(request, bar.show)
    if as_json:
        emit_json(outcome.result)
    else:
        from whet.cli.result import show_revalidated

        show_revalidated(outcome.result)
    click.echo(outcome.message, err=True)
    return int(outcome.exit_code)


def _request(model: str, values: dict[str, Any]) -> Any:
    from whet.cli.parse import named_paths, seconds
    from whet.optimize.job import Job, aimed, read_job
    from whet.optimize.request import OptimizeRequest

    names = (
        "p99_ms", "p50_ms", "min_qps", "max_drop", "min_accuracy", "metric", "max_cores",
        "max_rss_mb", "max_load_ms", "objective",
    )  # fmt: skip
    plain = (
        "data", "synthetic", "service", "budget", "calibration", "evaluation", "allow_synthetic_calibration", "name",
        "seed", "journal", "strategy",
    )  # fmt: skip
    flags = Job(
        **{name: values[name] for name in plain},
        runtimes=values["runtimes"] or None,
        targets={name: values[name] for name in names if values[name] is not None},
        variants=named_paths(values["variants"], "--variant"),
    )
    job = flags.over(read_job(Path(values["file"]))) if values["file"] else flags
    targets, assumed = aimed(job.targets, job.service)
    same = (
        "service",
        "runtimes",
        "calibration",
        "evaluation",
        "allow_synthetic_calibration",
        "name",
        "seed",
        "strategy",
    )
    given = {name: value for name in same if (value := getattr(job, name)) is not None}
    if job.budget is not None:
        given["budget_s"] = seconds(job.budget)
    return OptimizeRequest(
        model=Path(model),
        out=Path(values["output"]),
        options=importer_options(values),
        data=job.data,
        synthetic=job.synthetic,
        targets=targets,
        assumed=assumed,
        variants={name: Path(path) for name, path in job.variants.items()},
        journal=Path(job.journal) if job.journal else None,
        resume=values["resume"],
        **given,
    )
