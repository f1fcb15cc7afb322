"""``whet serve SOURCE ...``: options are the fields of ``ServeSettings``, nothing is written twice."""

from typing import Any

import click

from whet.settings import Row, ServeSettings, fields, load


def _option(row: Row) -> click.Parameter:
    if row.positional:
        return click.Argument([row.name], nargs=-1)
    help_text = row.doc if row.default in (None, "", (), {}) else f"{row.doc}  [default: {row.default}]"
    if isinstance(row.default, bool):
        return click.Option([f"{row.flag}/--no-{row.flag[2:]}", row.name], default=None, help=help_text)
    return click.Option(
        [row.flag, row.name],
        metavar="NAME=NUMBER" if isinstance(row.default, dict) else "VALUE",
        multiple=isinstance(row.default, dict | tuple),
        default=None,
        help=help_text,
    )


def _run(config: str | None, **flags: Any) -> int:
    """Serve SOURCES: bundles, model files, artifact folders or repository folders."""
    from pathlib import Path

    from whet.serve.app import run

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    return run(load(ServeSettings, Path(config) if config else None, flags=given))


command = click.Command(
    "serve",
    callback=_run,
    params=[
        *map(_option, fields(ServeSettings)),
        click.Option(["--config"], metavar="FILE", help="TOML file with settings; flags and environment win over it."),
    ],
    help=_run.__doc__,
)
