"""What surrounds a net where the runtime's graph does not hold it: before the copy, and after the batch.

The work itself is :mod:`whet.models.around`; this names the moments at which the engine asks for it.
"""

from collections.abc import Callable

from whet.engine.base import Session
from whet.models.artifact import Artifact
from whet.tensors import Array, Tensors

Before = Callable[[Tensors], Tensors]
After = Callable[[dict[str, Array]], dict[str, Array]]


def preprocessing(artifact: Artifact, session: Session) -> Before | None:
    """Return what turns a request's tensors into the session's inputs, or None where nothing is left to do."""
    if session.inputs == artifact.service_inputs:
        return None
    from whet.models.around import apply_images

    return lambda tensors: apply_images(artifact, tensors)


def postprocessing(artifact: Artifact, session: Session) -> After | None:
    """Return what turns a batch's raw outputs into answers, or None where the session's outputs are the answers."""
    if not session.post:
        return None
    from whet.models.around import apply_post

    steps, specs = session.post, artifact.outputs
    return lambda outputs: apply_post(steps, outputs, specs)
