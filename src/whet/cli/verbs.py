"""The table of verbs. A verb's module is imported when the verb is asked for, so ``whet --help`` loads none of them."""

import difflib
import importlib
from typing import Any

import click

VERBS = {
    "inspect": "What this host really offers, or what a model is.",
    "import": "Convert a model of any format into an artifact and check the result.",
    "optimize": "Find the best way this CPU can run a model, and prove it.",
    "prune": "Take channels out of a PyTorch net, fine-tune it, judge every step.",
    "serve": "Serve bundles, models or a repository over HTTP and gRPC.",
    "bench": "Measure a running service: the four MLPerf scenarios.",
    "report": "Turn a bundle's evidence into HTML, Markdown or JSON.",
    "doctor": "Name what holds a running server or a bundle back, and prove it.",
    "export": "Write a bundle's plan as configuration of another server.",
}
"""Verb -> one line of help. The verb lives in ``whet.cli.<verb>_verb:command``."""


class Verbs(click.Group):
    """A group that knows its verbs by name and loads only the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Return the verbs in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load one verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"whet.cli.{cmd_name}_verb").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or fail with the nearest one."""
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            near = difflib.get_close_matches(name, VERBS, n=1)
            meant = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"there is no verb '{name}'.{meant} The verbs are {', '.join(VERBS)}.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the verbs without loading them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="whet", prog_name="whet")
def whet() -> None:
    """Whet sharpens trained models into CPU services.

    Give it a model, some sample data and the targets of the service; it searches the ways this CPU can run that
    model, proves what it found, and serves the result.

    \b
      whet inspect model.onnx
      whet optimize model.onnx --data data/ --p99-ms 30 --max-drop 0.01 -o bundle/
      whet serve bundle/
      whet bench http://127.0.0.1:8000/models/NAME --scenario server --qps 50 --duration 10s
      whet report bundle/ -o report.html
    """  # noqa: D301  (\b keeps click from refilling the examples)


def as_json(function: Any) -> Any:
    """Add ``--json``: one document on standard output instead of tables."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")(function)


def model_options(function: Any) -> Any:
    """Add what a user may say about a model: weights, shapes, signature, preprocessing, permissions."""
    options = (
        click.option("--weights", metavar="FILE", help="File with the weights, where the format has two."),
        click.option(
            "--input-shape",
            "input_shapes",
            metavar="[NAME=]1,3,224,224",
            multiple=True,
            help="Shape of an input; -1 is variable.",
        ),
        click.option("--signature", metavar="NAME", help="Signature of a TensorFlow SavedModel."),
        click.option("--preprocess", metavar="FILE", help="TOML that describes preprocessing and labels."),
        click.option("--allow-pickle", is_flag=True, help="Unpickle the model, and so run the code it holds."),
        click.option("--allow-converter-env", is_flag=True, help="Make an environment of its own for a converter."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def importer_options(values: dict[str, Any], to: str | None = None) -> Any:
    """Turn what :func:`model_options` read into the importers' options."""
    from pathlib import Path

    from whet.models.importers.base import Options
    from whet.tensors import read_shapes

    def path(name: str) -> Path | None:
        return Path(values[name]) if values[name] else None

    return Options(
        weights=path("weights"),
        input_shapes=read_shapes(values["input_shapes"]),
        signature=values["signature"],
        to=to,  # type: ignore[arg-type]  # click's Choice holds it to the literal
        allow_pickle=values["allow_pickle"],
        allow_converter_env=values["allow_converter_env"],
        preprocess=path("preprocess"),
    )
