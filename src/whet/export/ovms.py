"""OpenVINO Model Server: ``config.json`` and a versioned model folder.

Keys are those of the server's own JSON schema (``src/schema.cpp``), which refuses unknown ones; values of
``plugin_config`` are strings, as in its documentation.
"""

from pathlib import Path
from typing import Any

import msgspec

from whet.engine.ov import settings_for
from whet.export.choose import Job
from whet.export.model import Placed, put_model
from whet.export.notes import deadlines
from whet.tensors import DYNAMIC, TensorSpec


def write(job: Job, folder: Path) -> list[str]:
    """Write ``config.json`` and ``NAME/1/`` and return what the server cannot express."""
    placed = put_model(job, folder / job.name / "1")
    (folder / "config.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(config(job, placed)), indent=2) + b"\n"
    )
    return notes(job)


def config(job: Job, placed: Placed) -> dict[str, Any]:
    """Return the document; paths are relative to it."""
    plan = job.plan
    model: dict[str, Any] = {
        "name": job.name,
        "base_path": job.name,
        "target_device": plan.device,
        # One request more than streams: the next is handed over while the others compute.
        "nireq": plan.streams + 1,
        "plugin_config": plugin_config(job),
    }
    if job.artifact.batched:
        model["shape"] = {spec.name: _shape(spec, plan.batch_sizes) for spec in placed.inputs}
    layouts = {image.input: "NHWC" for image in job.artifact.images}
    if layouts:
        model["layout"] = layouts
    return {"model_config_list": [{"config": model}]}


def plugin_config(job: Job) -> dict[str, str]:
    """Return OpenVINO's properties, the very ones Whet compiles with where it runs the plan under OpenVINO."""
    plan = job.plan
    if job.runtime != plan.runtime:
        plan = plan.with_(options=())  # another runtime's switches mean nothing to OpenVINO
    return {name: _word(value) for name, value in settings_for(plan).items()}


def notes(job: Job) -> list[str]:
    """Return what of the plan this server has no key for."""
    plan = job.plan
    said = deadlines(job)
    if job.artifact.batched and plan.max_batch > 1:
        said.insert(
            0,
            f"OpenVINO Model Server does not collect samples of several requests into a batch; the plan computes up to "
            f"{plan.max_batch} together (window {plan.batch_window_ms:g} ms). Send batches of up to {plan.max_batch}.",
        )
        said.insert(
            1,
            f"Whet compiles batch sizes {', '.join(map(str, plan.batch_sizes))} and pads to them; here the batch "
            "axis is one range, compiled with a free dimension, which is some per cent slower.",
        )
    said.append("Start it: `ovms --config_path config.json --port 9000 --rest_port 8000`, in this folder.")
    return said


def _shape(spec: TensorSpec, sizes: tuple[int, ...]) -> str:
    batch = f"1:{sizes[-1]}" if sizes[-1] > 1 else "1"
    return "(" + ",".join([batch, *("-1" if dim == DYNAMIC else str(dim) for dim in spec.shape[1:])]) + ")"


def _word(value: object) -> str:
    return {True: "YES", False: "NO"}[value] if isinstance(value, bool) else str(value)
