"""ONNX Runtime: ``session_options.json``, and a script of its own that applies them."""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from whet.engine.ort import LEVELS, SWITCHES, pool_size
from whet.export.choose import Job
from whet.export.model import Placed, put_model
from whet.export.notes import deadlines
from whet.plan import Plan
from whet.tensors import TensorSpec

OPTIONS, SCRIPT = "session_options.json", "run.py"


def write(job: Job, folder: Path) -> list[str]:
    """Write the model, its options and the script, and return what a session cannot express."""
    placed = put_model(job, folder)
    document = msgspec.json.format(msgspec.json.encode(options(job, placed)), indent=2)
    (folder / OPTIONS).write_bytes(document + b"\n")
    shutil.copyfile(Path(__file__).with_name("run_ort.py"), folder / SCRIPT)
    return notes(job)


def options(job: Job, placed: Placed) -> dict[str, Any]:
    """Return the document the script reads: arguments of ``SessionOptions``, and what the graph takes and gives."""
    plan = job.plan if job.runtime == job.plan.runtime else job.plan.with_(options=())
    return {
        "model": placed.file,
        "providers": ["CPUExecutionProvider"],
        "intra_op_num_threads": pool_size(plan, plan.compute_threads),
        "inter_op_num_threads": 1,
        "execution_mode": "ORT_SEQUENTIAL",
        "graph_optimization_level": LEVELS[plan.option("graph", "all")],
        "config_entries": _entries(plan),
        "concurrent_runs": plan.streams,
        "batch_sizes": list(plan.batch_sizes) if job.artifact.batched else [],
        "inputs": [_tensor(spec) for spec in placed.inputs],
        "outputs": [_tensor(spec) for spec in placed.outputs],
    }


def notes(job: Job) -> list[str]:
    """Return what a session does not do."""
    plan = job.plan
    said = [f"`concurrent_runs` ({plan.streams}) is how many threads call the session at once; they share its pool."]
    if job.artifact.batched and plan.max_batch > 1:
        sizes = ", ".join(map(str, plan.batch_sizes))
        said.append(
            f"A session does not collect batches; the plan computes {sizes} samples together. Stack them first."
        )
    if plan.precision != "f32" and job.runtime != plan.runtime:
        said.append(f"The plan runs float layers in {plan.precision}; ONNX Runtime on the CPU runs them in f32.")
    return [*said, *deadlines(job)]


def _entries(plan: Plan) -> dict[str, str]:
    return {entry: plan.option(name) for name, entry in SWITCHES.items() if plan.option(name)}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
