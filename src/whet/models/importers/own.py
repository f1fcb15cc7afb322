"""The last step of every importer of our own: a graph with a free batch where the net allows it, written as ONNX."""

from collections.abc import Callable
from pathlib import Path

import whet
from whet.errors import Unsupported
from whet.models.importers.base import Converted, Options
from whet.models.importers.onnx_graph import UNKNOWN, Graph, free_batch


def written(build: Callable[[int], Graph], path: Path, options: Options, workdir: Path, recipe: str) -> Converted:
    """Write ``model.onnx``.

    Args:
        build: converts with every input's first axis larger by its argument.
        path: the model, for messages.
        options: a variable batch in its shapes must be possible.
        workdir: where to write.
        recipe: the importer's name; Whet's version is added.

    Raises:
        Unsupported: the user wants a variable batch, and the net mixes the samples of one.
        ModelError: whatever ``build(0)`` raises.
    """
    graph, free = free_batch(build)
    if not free and any(shape[:1] == (UNKNOWN,) for shape in options.input_shapes.values()):
        raise Unsupported(f"'{path.name}' mixes the samples of a batch: its batch cannot be variable; give a number")
    model = workdir / "model.onnx"
    return Converted(model, graph.save(model, free), "onnx", f"{recipe} {whet.__version__}")
