"""What a target cannot express, in sentences. Pure."""

from whet.engine.environment import ALLOCATORS, ISA_VARIABLE
from whet.export.choose import Job
from whet.models.around import split_post
from whet.models.artifact import ImageInput

SERVERS = {
    "ovms": "OpenVINO Model Server",
    "triton": "Triton Inference Server",
    "ort": "ONNX Runtime",
}


def common(job: Job) -> list[str]:
    """Return what no target's files can say about a plan: environment, placement, processes, postprocessing."""
    plan, server = job.plan, SERVERS[job.target]
    notes = []
    if job.runtime != plan.runtime:
        notes.append(
            f"The plan was measured under {plan.runtime}; {server} will run it under {job.runtime}. "
            "Its speed and its last digits are not the measured ones."
        )
    cores = plan.compute_threads
    notes.append(
        f"The plan computes on {cores} core{'s' if cores > 1 else ''} a process. Give the process exactly that mask "
        f"(`taskset`, `docker run --cpuset-cpus`, a static CPU policy); a CPU quota alone throttles instead."
    )
    if plan.workers > 1:
        notes.append(
            f"The plan has {plan.workers} worker processes; start {plan.workers}, each with a mask of its own."
        )
    if plan.isa_ceiling is not None:
        notes.append(f"Set `{ISA_VARIABLE}={plan.isa_ceiling}` in the process's environment before it starts.")
    if plan.allocator != "default":
        notes.append(f"Preload the allocator: `LD_PRELOAD` with the path of `{ALLOCATORS[plan.allocator]}`.")
    if plan.openmp is not None:
        notes.append(f"Set `OMP_NUM_THREADS={plan.openmp.threads}` in the process's environment before it starts.")
    left = split_post(job.artifact.post)[1]
    if left:
        steps = ", ".join(f"{step.kind} of '{step.output}'" for step in left)
        notes.append(f"Postprocessing that is no graph operation is left to the client: {steps}.")
    if (job.artifact.images or job.artifact.post) and not plan.fused_preprocessing:
        notes.append(
            "Pre- and postprocessing are in the exported graph; the plan was measured with them outside of it."
        )
    return [*notes, *(_image(image) for image in job.artifact.images)]


def _image(image: ImageInput) -> str:
    depth = 1 if image.source_channels == "GRAY" else 3
    return (
        f"Input '{image.input}' takes `UINT8 [N, {image.height}, {image.width}, {depth}]` in {image.source_channels} "
        "order; channel order, mean, scale and layout are in the graph. Resizing and cropping are left to the client."
    )


def deadlines(job: Job) -> list[str]:
    """Return the notes on admission for a target that has none."""
    plan, server = job.plan, SERVERS[job.target]
    unbounded = f"{server} has no bound of waiting samples; Whet refuses past {plan.queue_bound}."
    notes = [f"{unbounded} Bound concurrency at the proxy in front."]
    if plan.deadline_ms is not None:
        notes.append(
            f"{server} does not drop requests by deadline; the plan's is {plan.deadline_ms:g} ms. Set it at clients."
        )
    return notes


def text(job: Job, notes: list[str]) -> str:
    """Return the Markdown page that lies beside the configuration."""
    lines = [
        f"# {job.name} for {SERVERS[job.target]}",
        "",
        f"Exported from plan `{job.plan.id}`: {job.plan}.",
        "",
        "## What the files cannot say",
        "",
        *(f"- {note}" for note in notes),
        "",
    ]
    return "\n".join(lines)
