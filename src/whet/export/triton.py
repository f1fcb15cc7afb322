"""Triton Inference Server: ``NAME/config.pbtxt`` and ``NAME/1/``, for its OpenVINO and ONNX Runtime backends.

Parameters are those the backends read (``openvino_backend/src/openvino.cc``, ``onnxruntime_backend/README.md``).
Three facts of the OpenVINO backend shape what is written: it compiles one batch size, ``max_batch_size``, and refuses
smaller batches unless told to pad; ``HINT_BF16`` takes only ``YES``; each instance is one infer request.
"""

from pathlib import Path
from typing import Any

from whet.export.choose import Job
from whet.export.model import Placed, put_model
from whet.export.notes import deadlines
from whet.export.pbtxt import Word, render
from whet.tensors import TensorSpec

_TYPES = {"BYTES": "TYPE_STRING"}
_LEVELS = {"basic": -1, "extended": 1, "none": 2}
"""Graph level -> the backend's number; everything ("all") is what it does when nothing is said."""


def write(job: Job, folder: Path) -> list[str]:
    """Write the model's folder and return what the server cannot express."""
    model = folder / job.name
    placed = put_model(job, model / "1")
    for spec in placed.outputs:
        if spec.labels:
            (model / _label_file(spec)).write_text("\n".join(spec.labels) + "\n", encoding="utf-8")
    (model / "config.pbtxt").write_text(render(config(job, placed)) + "\n", encoding="utf-8")
    return notes(job)


def config(job: Job, placed: Placed) -> dict[str, Any]:
    """Return the fields of the server's ``ModelConfig`` message."""
    plan, batched = job.plan, job.artifact.batched
    fields: dict[str, Any] = {
        "name": job.name,
        "backend": job.runtime,
        "default_model_filename": placed.file,
        "max_batch_size": plan.max_batch if batched else 0,
        "input": [_tensor(spec, batched=batched) for spec in placed.inputs],
        "output": [
            _tensor(spec, batched=batched) | ({"label_filename": _label_file(spec)} if spec.labels else {})
            for spec in placed.outputs
        ],
        "instance_group": {"count": plan.streams, "kind": Word("KIND_CPU")},
    }
    if batched:
        fields["dynamic_batching"] = _batching(job)
    if job.runtime == "onnxruntime" and plan.option("graph", "all") in _LEVELS:
        fields["optimization"] = {"graph": {"level": _LEVELS[plan.option("graph")]}}
    fields["parameters"] = [{"key": key, "value": {"string_value": value}} for key, value in parameters(job).items()]
    return fields


def parameters(job: Job) -> dict[str, str]:
    """Return the backend's parameters."""
    plan = job.plan
    if job.runtime == "onnxruntime":
        # Every instance has a session, and the thread that calls it computes with that session's pool.
        return {"intra_op_thread_count": str(plan.threads), "inter_op_thread_count": "1", "execution_mode": "0"}
    found = {"NUM_STREAMS": str(plan.streams), "INFERENCE_NUM_THREADS": str(plan.compute_threads)}
    if plan.precision == "bf16":
        found["HINT_BF16"] = "YES"
    if job.artifact.batched and plan.max_batch > 1:
        found["ENABLE_BATCH_PADDING"] = "YES"
    return found


def notes(job: Job) -> list[str]:
    """Return what of the plan this server has no field for."""
    plan, said = job.plan, []
    if not job.artifact.batched:
        said += deadlines(job)
    if job.runtime == "openvino":
        said += _of_openvino(job)
    else:
        lost = [f"{name}={value}" for name, value in plan.options if name != "graph"]
        if lost:
            said.append(f"The ONNX Runtime backend has no parameter for {', '.join(lost)}.")
        if plan.streams > 1:
            said.append(
                f"Each of the {plan.streams} instances has a session of its own; Whet shares one among its lanes."
            )
    said.append("Start it: `tritonserver --model-repository=.`, in this folder.")
    return said


def _of_openvino(job: Job) -> list[str]:
    plan, said = job.plan, []
    if plan.precision != "bf16":
        said.append(
            f"The OpenVINO backend cannot ask for {plan.precision}: on processors with bf16 OpenVINO then computes in "
            "bf16, faster and less exact than what was measured."
        )
    if not plan.pinning:
        said.append("The OpenVINO backend cannot switch thread pinning off; two models pin to the same cores.")
    lost = [f"{name}={value}" for name, value in plan.options]
    if lost and plan.runtime == "openvino":
        said.append(f"The OpenVINO backend has no parameter for {', '.join(lost)}.")
    if job.artifact.batched and len(plan.batch_sizes) > 1:
        said.append(
            f"Whet compiles batch sizes {', '.join(map(str, plan.batch_sizes))} and pads to the next; the OpenVINO "
            f"backend compiles {plan.max_batch} alone and pads every batch to it. If requests come one by one, lower "
            "max_batch_size."
        )
    return said


def _batching(job: Job) -> dict[str, Any]:
    plan = job.plan
    policy: dict[str, Any] = {"max_queue_size": plan.queue_bound}
    if plan.deadline_ms is not None:
        policy |= {"timeout_action": Word("REJECT"), "default_timeout_microseconds": round(plan.deadline_ms * 1000)}
    fields: dict[str, Any] = {}
    preferred = [size for size in plan.batch_sizes if size > 1]
    if preferred:
        fields["preferred_batch_size"] = preferred
    fields["max_queue_delay_microseconds"] = round(plan.batch_window_ms * 1000)
    return fields | {"default_queue_policy": policy}


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    dims = list(spec.shape[1:] if batched else spec.shape)
    kind = Word(_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}"))
    if dims:
        return {"name": spec.name, "data_type": kind, "dims": dims}
    # A row that is one number has no dimensions of its own, which the server writes as a reshape of [1].
    return {"name": spec.name, "data_type": kind, "dims": [1], "reshape": {}}


def _label_file(spec: TensorSpec) -> str:
    plain = "".join(char if char.isalnum() else "_" for char in spec.name)
    return f"{plain}_labels.txt"
