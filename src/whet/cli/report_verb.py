"""``whet report BUNDLE``: a bundle's evidence for people and programs."""

from pathlib import Path

import click

from whet.cli.verbs import as_json

FORMS = ("html", "md", "json", "summary")


@click.command(name="report")
@click.argument("bundle")
@click.option("-o", "--output", metavar="FILE", help="Where to write it; standard output when absent.")
@click.option(
    "--format", "form", type=click.Choice(["html", "md", "json", "summary"]), help="By default from -o's ending."
)
@click.option(
    "--host", default="", metavar="FINGERPRINT", help="Host whose figures are shown; by default the one optimized last."
)
@as_json
def command(bundle: str, output: str | None, form: str | None, host: str, as_json: bool) -> int:
    """Render the evidence in BUNDLE; the HTML is one self-contained file."""
    from whet.cli.output import write_text
    from whet.report import load_evidence, render_html, render_json, render_markdown

    endings = {".html": "html", ".htm": "html", ".md": "md", ".json": "json"}
    if form == "summary":
        from whet.cli.result import show_result

        show_result(load_evidence(Path(bundle), host))
        return 0
    form = form or ("json" if as_json else endings.get(Path(output or "").suffix, "html" if output else "md"))
    render = {"html": render_html, "md": render_markdown, "json": render_json}[form]
    text = render(load_evidence(Path(bundle), host))
    if output:
        write_text(Path(output), text)
        click.echo(f"wrote {output}", err=True)
    else:
        click.echo(text)
    return 0
