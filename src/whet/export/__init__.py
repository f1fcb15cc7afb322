"""A bundle's plan in the words of other servers: OpenVINO Model Server, Triton Inference Server, ONNX Runtime.

The model is written with its pre- and postprocessing in the graph, so that it takes what Whet's service takes on
servers that have no preprocessing of their own. What a target cannot express is listed, never dropped in silence.
"""

from collections.abc import Callable
from pathlib import Path

from whet.errors import OutputError, UsageError
from whet.export import ort, ovms, triton
from whet.export.choose import Exported, Job, choose
from whet.export.notes import common, text
from whet.host import Host
from whet.models.bundle import Bundle

TARGETS: dict[str, Callable[[Job, Path], list[str]]] = {"ovms": ovms.write, "triton": triton.write, "ort": ort.write}
"""Target -> what writes its configuration into a folder and returns what it cannot express."""
NOTES = "NOTES.md"

__all__ = ["NOTES", "TARGETS", "Exported", "export"]


def export(bundle: Bundle, target: str, folder: Path, host: Host, plan_id: str = "") -> Exported:
    """Write the configuration that is equivalent to a bundle's plan into ``folder``, which exists and is empty.

    Args:
        bundle: what to export.
        target: a key of :data:`TARGETS`.
        folder: where to write.
        host: the host it will run on; decides which plan fits best.
        plan_id: the plan to export instead of the one that fits best.

    Raises:
        UsageError: no such target or plan.
        PlanRefused: the target can run no artifact of the bundle.
        OutputError: the folder cannot be written.
    """
    if target not in TARGETS:
        raise UsageError(f"--to '{target}' is unknown; known are {', '.join(TARGETS)}")
    job = choose(bundle, target, host, plan_id)
    try:
        notes = [*TARGETS[target](job, folder), *common(job)]
        (folder / NOTES).write_text(text(job, notes), encoding="utf-8")
        files = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
    except OSError as error:
        raise OutputError(f"cannot write the export: {error.strerror or error}; free space, or set TMPDIR") from error
    return Exported(target, job.name, job.plan, files, tuple(notes))
