"""``whet bench URL``: measure a running service from outside."""

from pathlib import Path
from typing import Any

import click

from whet.cli.verbs import as_json

SCENARIOS = ("single-stream", "multi-stream", "server", "offline", "closed")


@click.command(name="bench")
@click.argument("url")
@click.option("--scenario", type=click.Choice(SCENARIOS), default="single-stream", show_default=True)
@click.option("--qps", type=float, metavar="N", help="Requests a second of 'server' (Poisson arrivals).")
@click.option(
    "--callers", type=click.IntRange(1), metavar="N", help="Requests kept outstanding by 'closed', 'offline'."
)
@click.option("--rows", type=click.IntRange(1), metavar="N", help="Samples in a request.")
@click.option("--duration", default="10s", show_default=True, metavar="TIME", help="How long to measure.")
@click.option("--warmup", default="1s", show_default=True, metavar="TIME", help="How long to run before, uncounted.")
@click.option("--min-queries", type=click.IntRange(0), default=0, metavar="N", help="Go on until so many are counted.")
@click.option("--max-requests", type=click.IntRange(1), metavar="N", help="Stop after so many.")
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help=".npz or .npy with samples.")
@click.option("--input-shape", "shapes", multiple=True, metavar="[NAME=]1,128", help="Shape where the model's is free.")
@click.option("--connections", type=click.IntRange(1), metavar="N", help="At most so many connections.")
@click.option("--timeout", default="30s", show_default=True, metavar="TIME", help="Patience with one request.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of arrivals and made-up inputs.")
@as_json
def command(url: str, as_json: bool, **values: Any) -> int:
    """Measure the service at URL: http://HOST:PORT/models/NAME or grpc://HOST:PORT/NAME.

    Latency of 'server' counts from the intended start of a request. Exit code 1 when a request failed.
    """
    import asyncio

    from whet.cli.show import emit_json
    from whet.load.bench import bench

    document = asyncio.run(bench(url, _request(values)))
    if as_json:
        emit_json(document)
    else:
        _show(document)
    return 1 if document["result"]["requests"]["failed"] else 0


def _request(values: dict[str, Any]) -> Any:
    from whet.cli.parse import seconds
    from whet.load.bench import BenchRequest
    from whet.tensors import read_shapes

    return BenchRequest(
        scenario=values["scenario"],
        qps=values["qps"],
        callers=values["callers"],
        rows=values["rows"],
        duration_s=seconds(values["duration"]),
        warmup_s=seconds(values["warmup"]),
        min_queries=values["min_queries"],
        max_requests=values["max_requests"],
        seed=values["seed"],
        data=values["data"],
        shapes=read_shapes(values["shapes"]),
        connections=values["connections"],
        timeout_s=seconds(values["timeout"]),
    )


def _show(document: dict[str, Any]) -> None:
    from whet.cli.show import grid, pairs
    from whet.load.rows import latency_rows, summary_rows

    pairs("Measured", summary_rows(document))
    rows = latency_rows(document)
    if rows:
        grid("Latency", ("", "from the intended start", "95 % interval", "from the real start"), rows)
