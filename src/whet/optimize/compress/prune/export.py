"""A PyTorch module as ONNX, and the hash of what it holds."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whet.errors import UsageError
from whet.models.importers.torch_entry import Entry, exported, load_entry


def load(entry: str, shapes: Sequence[tuple[int, ...]]) -> Entry:
    """Call the user's function and return its module with example inputs.

    Raises:
        UsageError: no example inputs and no shapes.
        ModelError: it raised, or returned no module.
    """
    import torch

    made = load_entry(entry)
    if made.example is not None:
        return made
    if not shapes:
        raise UsageError(f"{entry}: say the inputs' shapes (--input-shape 1,3,224,224), or return (module, examples)")
    example = tuple(torch.zeros([2 if dim < 0 else dim for dim in shape]) for shape in shapes)
    return Entry(made.module, example)


def digest(module: Any) -> str:
    """Return a hash over every parameter and buffer: name, shape and bytes."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(dtype=_bytes()).numpy().tobytes())
    return found.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8


def write_onnx(module: Any, example: tuple[Any, ...], outputs: Sequence[str], file: Path, what: str) -> None:
    """Write a module in evaluation mode as ONNX, with a free batch axis where that can be followed.

    The exporter's notes about this machine's source files are left out: the same net gives the same bytes.

    Raises:
        ModelError: ``torch.export`` cannot follow the module.
        UsageError: the names do not fit its outputs.
    """
    import onnx
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        program = exported(torch, module, example, Path(what))
        count = len(program.graph_signature.user_outputs)
        if outputs and len(outputs) != count:
            raise UsageError(
                f"{what} has {count} outputs, --output-name was given {len(outputs)} times; name each once"
            )
        names = list(outputs) or (["output"] if count == 1 else [f"output_{place}" for place in range(count)])
        inputs = [str(name) for name in program.graph_signature.user_inputs]
        proto = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=inputs, output_names=names
        ).model_proto
    for owner in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.value_info):
        del owner.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    onnx.save(proto, file)
