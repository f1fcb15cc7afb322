"""What a process that runs a parent is asked, and how samples travel to and from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.models.importers.base import Options
from whet.tensors import Array

Samples = list[dict[str, Array]]
"""One mapping of tensors by name a sample."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the child is asked; arrays travel in ``.npz`` files named ``<index>/<tensor>``.

    Attributes:
        format: name of the parent's format.
        path: the parent, or ``module:function``.
        options: with which it was imported.
        inputs: the artifact's input names, in order.
        outputs: the artifact's output names, in order.
        feeds: file with the samples.
        answers: file to write.
    """

    format: str
    path: str
    options: Options
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    feeds: str
    answers: str


def save(path: Path, samples: Samples) -> None:
    """Write samples as ``.npz``; strings travel as bytes."""
    arrays: dict[str, Any] = {
        f"{index}/{name}": value.astype(np.bytes_) if value.dtype == object else value
        for index, sample in enumerate(samples)
        for name, value in sample.items()
    }
    # savez treats keyword "file" as its own; tensor names may be anything, so they carry an index in front.
    np.savez(path, **arrays)


def load(path: Path) -> Samples:
    """Read back what :func:`save` wrote."""
    samples: dict[int, dict[str, Array]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition("/")
            value = arrays[key]
            samples.setdefault(int(index), {})[name] = value.astype(object) if value.dtype.kind == "S" else value
    return [samples[index] for index in sorted(samples)]


def by_place(names: tuple[str, ...], values: list[Any]) -> dict[str, Array]:
    """Return values that a framework gives in order, under the artifact's names."""
    return dict(zip(names, (np.asarray(value) for value in values), strict=False))
