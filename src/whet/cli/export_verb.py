"""``whet export BUNDLE``: a bundle's plan as configuration of another server."""

from pathlib import Path
from typing import Any

import click

from whet.cli.verbs import as_json


@click.command(name="export")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(["ovms", "triton", "ort"]), required=True, help="Which server.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to write.")
@click.option("--plan", "plan_id", default="", metavar="ID", help="Plan to export instead of the one that fits best.")
@click.option("--host", default="", metavar="FINGERPRINT", help="Export the plan of this host; see `whet inspect`.")
@as_json
def command(bundle: Path, target: str, out: Path, plan_id: str, host: str, as_json: bool) -> int:
    """Write what is equivalent to BUNDLE's plan for OpenVINO Model Server, Triton or ONNX Runtime.

    What that server cannot express is printed, and lies beside the files in NOTES.md.
    """
    import tempfile

    from whet.cli.output import place_folder
    from whet.export import export
    from whet.host import read_host
    from whet.models.bundle import read_bundle
    from whet.models.hosts import of_host

    found = of_host(read_bundle(bundle), host) if host else read_bundle(bundle)
    with place_folder(out) as place, tempfile.TemporaryDirectory(prefix="whet-export-") as work:
        done = export(found, target, Path(work), read_host(), plan_id)
        place(Path(work))
    _show(done, out, as_json=as_json)
    return 0


def _show(done: Any, out: Path, *, as_json: bool) -> None:
    from whet.cli.show import console, emit_json, pairs

    if as_json:
        emit_json(
            {
                "schema": 1,
                "target": done.target,
                "name": done.name,
                "plan": done.plan.id,
                "folder": str(out),
                "files": list(done.files),
                "notes": list(done.notes),
            }
        )
        return
    rows = [("Plan", f"{done.plan.id}: {done.plan}"), ("Folder", str(out)), ("Files", ", ".join(done.files))]
    pairs(f"{done.name} for {done.target}", rows)
    console().print("\nWhat the files cannot say (also in NOTES.md):", markup=False)
    for note in done.notes:
        console().print(f"- {note}", markup=False, soft_wrap=True)
