"""Caffe's ``transform_param``: what its data layers do to a picture, as the artifact's preprocessing.

``DataTransformer`` computes ``(x - mean) * scale`` in the order B, G, R, with one mean a channel or a mean picture,
and cuts ``crop_size`` out of the middle at test time. The picture's size before the cut is that of the mean picture or
of ``new_height`` and ``new_width``.
"""

from pathlib import Path
from typing import Literal

from whet.errors import ModelError
from whet.models.artifact import ImageInput
from whet.models.importers.caffe.net import Layer, Net
from whet.models.importers.caffe.table import DATA
from whet.models.importers.caffe.weights import Blob, parse_blob

MAX_MEAN_BYTES = 256 << 20


def image_inputs(
    net: Net, shapes: dict[str, tuple[int, ...]], folder: Path
) -> tuple[tuple[ImageInput, ...], tuple[str, ...]]:
    """Return the preprocessing of the net's inputs, and notes on what could not be carried over.

    Args:
        net: the net.
        shapes: shape by input name.
        folder: where the prototxt lies; mean pictures are only looked for there.
    """
    images: list[ImageInput] = []
    notes: list[str] = []
    for layer in net.layers:
        if not layer.message.messages("transform_param"):
            continue
        top = next((name for name in layer.tops if name in shapes), None) if layer.type in DATA else None
        if top is not None and len(shapes[top]) == 4 and shapes[top][1] in (1, 3):
            image, said = _image(layer, top, shapes[top], folder)
            images.append(image)
            notes += said
        elif layer.param("transform_param").numbers("mean_value"):
            means = layer.param("transform_param").numbers("mean_value")
            notes.append(f"{layer.where} says that pictures have mean {means} (B, G, R); the net does not subtract it")
    return tuple(images), tuple(notes)


def _image(layer: Layer, name: str, shape: tuple[int, ...], folder: Path) -> tuple[ImageInput, list[str]]:
    block, notes = layer.param("transform_param"), []
    channels: Literal["BGR", "GRAY"] = "BGR" if shape[1] == 3 else "GRAY"
    means, factor = block.numbers("mean_value"), block.number("scale", 1.0)
    resize = _resize(layer)
    if not means and "mean_file" in block:
        blob, said = _mean_picture(block.text("mean_file"), folder)
        notes.append(said)
        if blob is not None and len(blob.shape) >= 3 and blob.shape[-3] == shape[1]:
            means = [float(mean) for mean in blob.data.reshape(shape[1], -1).mean(1)]
            resize = resize or (blob.shape[-2], blob.shape[-1])
    if len(means) not in (0, 1, shape[1]) or not factor:
        raise ModelError(f"{layer.where}: {len(means)} mean_value and scale {factor} do not fit {shape[1]} channels")
    image = ImageInput(
        input=name,
        height=shape[2],
        width=shape[3],
        channels=channels,
        source_channels="RGB" if channels == "BGR" else "GRAY",
        mean=tuple(means * shape[1] if len(means) == 1 else means),
        scale=() if factor == 1 else (1 / factor,) * shape[1],
        resize=resize if resize and resize[0] >= shape[2] and resize[1] >= shape[3] else None,
        crop="center",
    )
    return image, notes


def _resize(layer: Layer) -> tuple[int, int] | None:
    block = layer.param("image_data_param")
    height, width = block.integer("new_height", 0, 0, 1 << 16), block.integer("new_width", 0, 0, 1 << 16)
    return (height, width) if height and width else None


def _mean_picture(said: str, folder: Path) -> tuple[Blob | None, str]:
    """Read a ``binaryproto`` of that name beside the prototxt; paths of the trainer's machine are not followed."""
    name = said.replace("\\", "/").rsplit("/", 1)[-1]
    path = folder / name
    if not name or path.is_symlink() or not path.is_file():
        return None, f"the net subtracts the mean picture '{name}', which does not lie beside it: copy it there"
    if path.stat().st_size > MAX_MEAN_BYTES:
        raise ModelError(f"mean picture '{name}' has {path.stat().st_size} bytes; the bound is {MAX_MEAN_BYTES}")
    blob = parse_blob(memoryview(path.read_bytes()), f"mean picture '{name}'")
    return blob, f"the mean picture '{name}' is subtracted as one mean a channel, as Caffe's own examples do"
