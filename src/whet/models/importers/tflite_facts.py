"""What a TensorFlow Lite file says around its net: quantization of inputs and outputs, and its metadata.

The metadata (``TFLITE_METADATA``, tensorflow/tflite-support ``metadata_schema.fbs``) gives the normalization of
pictures, and names label files that lie in a zip archive appended to the file. Field numbers below are the schemas'.
"""

import io
import lzma
import math
import mmap
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from whet.errors import ModelError
from whet.models.importers import flatbuffer
from whet.models.importers.flatbuffer import Table

MAX_LABEL_BYTES = 16 << 20
_LEVELS = {3: "u8", 9: "i8", 7: "i16"}
"""TensorType -> what it is called here, for types that carry quantised levels."""
_IMAGE, _NORMALIZATION, _AXIS_LABELS = 2, 1, 2
"""ContentProperties.ImageProperties, ProcessUnitOptions.NormalizationOptions, AssociatedFileType."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What the file says of one input or output.

    Attributes:
        name: of the tensor.
        levels: ``u8``, ``i8`` or ``i16`` where it carries quantised levels, else empty.
        scale: of the quantization: ``value = (level - zero_point) * scale``; 0 where there is none.
        zero_point: likewise.
        is_image: the metadata says that it takes pictures.
        mean: subtracted from a picture's 0..255, one value a channel or one for all; empty for none.
        std: then divided by.
        labels: class names of the last axis.
    """

    name: str
    levels: str = ""
    scale: float = 0.0
    zero_point: int = 0
    is_image: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


def read_facts(path: Path) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    """Return the facts of the inputs and of the outputs, in the file's order.

    Raises:
        ModelError: damaged, or it cannot be read.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            try:
                return parse_facts(view, str(path))
            finally:
                view.release()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; check the path") from error


def parse_facts(data: memoryview, where: str) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    """Return the facts of the inputs and outputs of the first subgraph.

    Raises:
        ModelError: an offset, an index or a list that leads nowhere.
    """
    model = flatbuffer.root(data, where)
    graphs = model.tables(2)
    if not graphs:
        raise ModelError(f"{where} has no subgraph; the file is damaged")
    tensors = graphs[0].tables(0)
    said = _metadata(model, where)
    sides = []
    for side, field in enumerate((1, 2)):
        places = [int(place) for place in graphs[0].numbers(field, "i32")]
        if any(not 0 <= place < len(tensors) for place in places):
            raise ModelError(f"{where} names tensor {max(places)} of {len(tensors)}; the file is damaged")
        around = said.tables(2 + side) if said else ()
        # Metadata that describes another number of tensors cannot be told apart by place: it is left alone.
        paired = around if len(around) == len(places) else (None,) * len(places)
        sides.append(
            tuple(_facts(tensors[place], meta, data, where) for place, meta in zip(places, paired, strict=True))
        )
    return sides[0], sides[1]


def _metadata(model: Table, where: str) -> Table | None:
    """Return the metadata of the first subgraph, from the buffer that ``TFLITE_METADATA`` names."""
    buffers = model.tables(4)
    for entry in model.tables(6):
        place = int(entry.number(1, "u32"))
        if entry.text(0) == "TFLITE_METADATA" and place < len(buffers):
            content = buffers[place].content(0)
            graphs = flatbuffer.root(content, f"{where}, metadata").tables(3) if content else ()
            return graphs[0] if graphs else None
    return None


def _facts(tensor: Table, meta: Table | None, data: memoryview, where: str) -> TensorFacts:
    levels = _LEVELS.get(int(tensor.number(1, "i8")), "")
    quantization = tensor.table(4)
    scales = quantization.numbers(2, "f32") if quantization and levels else ()
    points = quantization.numbers(3, "i64") if quantization and levels else ()
    whole = len(scales) == len(points) == 1 and math.isfinite(scales[0]) and scales[0] > 0
    image, mean, std = _picture(meta, where) if meta else (False, (), ())
    return TensorFacts(
        name=tensor.text(3),
        levels=levels,
        scale=float(scales[0]) if whole else 0.0,
        zero_point=int(points[0]) if whole else 0,
        is_image=image,
        mean=mean,
        std=std,
        labels=_labels(meta, data, where) if meta else (),
    )


def _picture(meta: Table, where: str) -> tuple[bool, tuple[float, ...], tuple[float, ...]]:
    content = meta.table(3)
    is_image = content is not None and content.number(0, "u8") == _IMAGE
    for unit in meta.tables(4):
        options = unit.table(1)
        if unit.number(0, "u8") == _NORMALIZATION and options is not None:
            mean, std = (tuple(map(float, options.numbers(field, "f32"))) for field in (0, 1))
            if not all(map(math.isfinite, (*mean, *std))) or 0 in std or len(mean) != len(std):
                raise ModelError(
                    f"{where}: normalization by mean {mean} and std {std} is none; the metadata is damaged"
                )
            return is_image, mean, std
    return is_image, (), ()


def _labels(meta: Table, data: memoryview, where: str) -> tuple[str, ...]:
    """Return the lines of the first label file, from the archive that follows the FlatBuffer."""
    name = next((file.text(0) for file in meta.tables(6) if file.number(2, "i8") == _AXIS_LABELS), "")
    if not name:
        return ()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = archive.getinfo(name).file_size
            if size > MAX_LABEL_BYTES:
                raise ModelError(f"{where}: label file '{name}' has {size} bytes; the bound is {MAX_LABEL_BYTES}")
            text = archive.read(name).decode()
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, KeyError, ValueError, RuntimeError, EOFError, OSError):
        return ()  # named, but not packed in: a model without labels, not a damaged one
    return tuple(line.strip() for line in text.splitlines() if line.strip())
