"""Whether a runtime can honour a plan for an artifact, by what it declared. Pure."""

from whet.engine.base import Capabilities
from whet.errors import PlanRefused
from whet.models.artifact import Artifact
from whet.plan import Plan


def refuse_illegal(runtime: str, able: Capabilities, artifact: Artifact, plan: Plan) -> None:
    """Raise unless every knob of ``plan`` is within the runtime's capabilities.

    Raises:
        PlanRefused: names the knob, its value and what is possible.
    """
    asked = (
        ("artifact format", artifact.format, sorted(able.formats)),
        ("device", plan.device, list(able.devices)),
        ("precision", plan.precision, sorted(able.precisions)),
        ("pinning", plan.pinning, [False, True] if able.pinning else [False]),
        ("isa_ceiling", plan.isa_ceiling, [None, *able.isa_ceilings]),
        ("allocator", plan.allocator, list(able.allocators)),
    )
    for knob, value, possible in asked:
        if value not in possible:
            raise PlanRefused(f"{runtime} cannot honour {knob} '{value}' on this host; it can: {_words(possible)}")
    if plan.openmp is not None and not able.openmp:
        raise PlanRefused(f"{runtime} does not compute on OpenMP threads; leave openmp out of the plan")
    if plan.fused_preprocessing and artifact.images and not able.fuses_images:
        raise PlanRefused(f"{runtime} cannot take preprocessing into its graph; set fused_preprocessing=False")
    for image in artifact.images:
        if plan.layout not in {"native", image.layout}:
            raise PlanRefused(
                f"{runtime} feeds input '{image.input}' in the net's own layout {image.layout}, not {plan.layout}; "
                "leave layout at native"
            )
    for name, value in plan.options:
        if name not in able.options:
            raise PlanRefused(f"{runtime} has no option '{name}'; it has: {_words(sorted(able.options))}")
        values = able.options[name]
        if values and value not in values:
            raise PlanRefused(f"{runtime} cannot set option '{name}' to '{value}'; it can: {_words(values)}")


def _words(possible: object) -> str:
    values = [str(value) for value in possible] if isinstance(possible, list | tuple) else [str(possible)]
    return ", ".join(values) or "nothing"
