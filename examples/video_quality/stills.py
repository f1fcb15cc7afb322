"""Photographs that come with ordinary packages, for training and for an honest look past procedural scenes.

Nothing is downloaded and nothing is needed: a package that is not installed just adds no pictures. The README lists
each picture's author and licence.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# package, folder in it, pictures
TRAINING = (
    ("sklearn", "datasets/images", ("flower.jpg",)),
    ("skimage", "data", ("astronaut.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg")),
    ("skimage", "data", ("brick.png", "grass.png", "gravel.png")),
)
HELD_OUT = (
    ("sklearn", "datasets/images", ("china.jpg",)),
    ("skimage", "data", ("chelsea.png", "camera.png")),
)


def _files(table: tuple[tuple[str, str, tuple[str, ...]], ...]) -> Iterator[Path]:
    for package, folder, names in table:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for name in names:
            path = Path(spec.origin).parent / folder / name
            if path.is_file():
                yield path


@cache
def names(kind: str) -> tuple[Path, ...]:
    """The pictures that are installed, in a fixed order.

    Args:
        kind: ``"training"`` or ``"held-out"``; no picture is in both.
    """
    return tuple(_files({"training": TRAINING, "held-out": HELD_OUT}[kind]))


@cache
def load(path: Path) -> NDArray[np.uint8]:
    """One picture as uint8 RGB [height, width, 3]."""
    return np.asarray(Image.open(path).convert("RGB"))
