"""Decodes a picture file into the ``uint8`` image that a service's image input takes."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import DataError, MissingExtra
from whet.models.artifact import ImageInput
from whet.tensors import Array

MAX_PIXELS = 1 << 28
"""A picture of more is refused before it is decoded (768 MB as RGB)."""


def decode_image(source: bytes | Path, image: ImageInput) -> Array:
    """Return the picture as ``uint8 [height, width, channels]``, resized and cropped as ``image`` says.

    Resizing is bilinear with antialiasing (Pillow); ``resize_shorter`` keeps the aspect ratio and rounds the longer
    side down; the centre crop rounds its corner to even. Orientation tags are ignored, as training pipelines do.

    Raises:
        MissingExtra: Pillow is not installed.
        DataError: not a picture, damaged, or too large.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise MissingExtra("decoding pictures", "optimize") from None
    name = str(source) if isinstance(source, Path) else f"a picture of {len(source)} bytes"
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise DataError(f"{name} has {opened.width} x {opened.height} pixels; at most {MAX_PIXELS} are decoded")
            picture = opened.convert("L" if image.source_channels == "GRAY" else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be decoded as a picture: {error}") from error
    pixels = np.asarray(_fitted(picture, image), np.uint8)
    if image.source_channels == "GRAY":
        return pixels[..., None]
    return np.ascontiguousarray(pixels[..., ::-1]) if image.source_channels == "BGR" else pixels


def resized_to(size: tuple[int, int], image: ImageInput) -> tuple[int, int]:
    """Return the (height, width) a picture of ``size`` (height, width) is resized to before the crop. Pure."""
    if image.resize is not None:
        return image.resize
    if image.resize_shorter is None:
        return image.height, image.width
    height, width = size
    short = min(height, width)
    return (
        image.resize_shorter if height == short else image.resize_shorter * height // short,
        image.resize_shorter if width == short else image.resize_shorter * width // short,
    )


def _fitted(picture: Any, image: ImageInput) -> Any:
    from PIL import Image

    height, width = resized_to((picture.height, picture.width), image)
    if (height, width) != (picture.height, picture.width):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    if (height, width) == (image.height, image.width):
        return picture
    if image.crop == "none":
        return picture.resize((image.width, image.height), Image.Resampling.BILINEAR)
    top, left = round((height - image.height) / 2), round((width - image.width) / 2)
    return picture.crop((left, top, left + image.width, top + image.height))
