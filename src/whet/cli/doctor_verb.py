"""``whet doctor URL|BUNDLE|PID``: what holds a server or a bundle back."""

import click

from whet.cli.verbs import as_json


@click.command(name="doctor")
@click.argument("subject", metavar="URL|BUNDLE|PID")
@click.option("--interval", default="5s", show_default=True, metavar="TIME", help="How long to watch a server.")
@click.option("--prove", "proving", is_flag=True, help="Measure plans without the ailment; loads this machine's CPUs.")
@click.option("--prove-live", "asking", is_flag=True, help="Also ask the running server both ways; its clients wait.")
@as_json
def command(subject: str, interval: str, proving: bool, asking: bool, as_json: bool) -> int:
    """Name the bottleneck of a running server or of a bundle, worst first, with its numbers and a remedy.

    A server is watched for a while and only read from. On this machine its processes tell more than its metrics do.

    --prove measures in processes of its own: a server on this machine shares the CPUs with them for some seconds.
    --prove-live sends a server up to 16 requests at a time for some 15 seconds a diagnosis, in made-up samples.
    """
    from whet.cli.parse import seconds
    from whet.cli.show import console, emit_json, pairs
    from whet.doctor.observe import observe
    from whet.doctor.result import document, rows
    from whet.doctor.signs import diagnose, healthy
    from whet.errors import UsageError

    seen = observe(subject, seconds(interval))
    if asking and seen.kind != "server":
        raise UsageError(f"--prove-live asks a running server and '{subject}' is none; use --prove, or name its server")
    found = diagnose(seen)

    def progress(words: str) -> None:
        console(stderr=True).print(f"measuring {words}", markup=False)

    if proving and found:
        from whet.doctor.prove import prove

        found = prove(seen, found, progress)
    if asking and found:
        from whet.doctor.ask import prove_by_asking

        found = prove_by_asking(seen, found, progress)
    if as_json:
        emit_json(document(seen, found))
        return 0
    if found:
        pairs(f"{seen.subject}: {len(found)} thing{'s' if len(found) > 1 else ''} found, worst first", rows(found))
    else:
        console().print(f"{seen.subject}: {healthy(seen, found)}", markup=False, soft_wrap=True)
    for remark in seen.unseen:
        console().print(f"not seen: {remark}", markup=False, soft_wrap=True)
    return 0
