"""A PyTorch module that the user's own code makes: ``module:function``, exported and converted.

The function takes nothing and returns an ``nn.Module``, or the module and a tuple of example inputs. This runs the
user's code, on the user's word, in a process of its own; the current folder is importable there.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import ModelError, UsageError
from whet.models.importers.base import Converted, Options
from whet.models.importers.isolated import one_line
from whet.models.importers.torch_file import convert_program, load_torch


@dataclass(frozen=True, slots=True)
class Entry:
    """What the function returned.

    Attributes:
        module: in evaluation mode.
        example: inputs to export it with, or None.
    """

    module: Any
    example: tuple[Any, ...] | None


def sniff(path: Path) -> bool:
    """Never: an entry point is no file, it is recognised by its form."""
    del path
    return False


def load_entry(name: str) -> Entry:
    """Import the module, call the function.

    Raises:
        UsageError: no such module or function.
        ModelError: it raised, or returned no ``nn.Module``.
    """
    torch = load_torch()
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{name}: {one_line(error)}; give module:function, importable from {Path.cwd()}") from error
    try:
        made = function()
    except Exception as error:
        raise ModelError(f"{name}() raised {type(error).__name__}: {one_line(error)}") from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{name}() returned {type(module).__name__}; return an nn.Module, or (module, example inputs)")
    if example is not None and not isinstance(example, tuple):
        example = (example,)
    return Entry(module.eval(), example)


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Export with a free batch axis where the module allows it, then convert.

    Raises:
        UsageError: no example inputs and no ``--input-shape``.
        ModelError: ``torch.export`` cannot follow the module.
    """
    torch = load_torch()
    entry = load_entry(str(path))
    example = entry.example
    if example is None:
        shapes = list(options.input_shapes.values())
        if not shapes:
            raise UsageError(
                f"{path}: say the inputs' shapes (--input-shape 1,3,224,224), or return (module, examples)"
            )
        example = tuple(torch.zeros([2 if dim < 0 else dim for dim in shape]) for shape in shapes)
    program = exported(torch, entry.module, example, path)
    return convert_program(program, path, options, workdir)


def exported(torch: Any, module: Any, example: tuple[Any, ...], path: Path) -> Any:
    """Return the exported program; with a free batch axis if that can be followed, else as the example is."""
    # torch.export takes an axis of length 1 for a constant, so the example is made two rows long.
    doubled = tuple(torch.cat([value, value]) if value.ndim and value.shape[0] == 1 else value for value in example)
    free = tuple({0: torch.export.Dim("batch")} if value.ndim else None for value in doubled)
    try:
        return torch.export.export(module, doubled, dynamic_shapes=free)
    except Exception:  # noqa: BLE001  (whatever keeps the batch from being free, the fixed form may still do)
        return _fixed(torch, module, example, path)


def _fixed(torch: Any, module: Any, example: tuple[Any, ...], path: Path) -> Any:
    try:
        return torch.export.export(module, example)
    except Exception as error:
        raise ModelError(f"{path}: torch.export cannot follow the module: {one_line(error)}") from error
