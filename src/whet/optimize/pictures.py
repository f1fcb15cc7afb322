"""A folder of images as a dataset: class folders, or ``labels.tsv``, or pictures without labels."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whet.errors import DataError
from whet.models.artifact import Artifact, ImageInput
from whet.optimize.data import GROUPS, Dataset
from whet.tensors import Array

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"})


def open_pictures(folder: Path, artifact: Artifact) -> Dataset:
    """Open a folder of images: a table ``labels.tsv``, class folders, or pictures alone.

    Raises:
        DataError: no image, a table that does not say, or a model that takes no images.
    """
    table = folder / "labels.tsv"
    labels: Array | None
    if table.is_file():
        files, labels, columns = _table(table)
    else:
        files, labels = _class_folders(folder, artifact)
        columns = dict[str, Array]()
    if not files:
        raise DataError(f"folder {folder} holds no image ({', '.join(sorted(SUFFIXES))}); give class folders of images")
    if len(artifact.images) != 1 or len(artifact.inputs) != 1:
        raise DataError(
            f"folder {folder} holds images, but the model's inputs ({', '.join(map(str, artifact.inputs))}) carry no "
            "preprocessing; describe it (resize, crop, mean, scale, layout), or give .npz with the tensors"
        )
    image = artifact.images[0]
    group = next((key for key in GROUPS if key in columns), None)
    return Dataset(
        f"{len(files)} images of {folder}",
        len(files),
        lambda index: {image.input: _decode(files[index], image)},
        lambda index: _hash_file(files[index]),
        labels,
        columns[group] if group else None,
        columns,
    )


def _hash_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; remove it from the data, or restore it") from error


def _decode(path: Path, image: ImageInput) -> Array:
    from whet.models.decode import decode_image

    try:
        return decode_image(path, image)
    except DataError as error:
        raise DataError(f"{error}; remove it from the data, or restore it") from error


def _table(table: Path) -> tuple[list[Path], Array, dict[str, Array]]:
    with table.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream, delimiter="\t") if row]
    if not rows:
        raise DataError(f"{table} is empty; write one line per image: file<TAB>class index")
    short = next((row for row in rows if len(row) < 2), None)
    if short is not None:
        raise DataError(f"{table}: line '{' '.join(short)}' has one column; wanted file<TAB>class index")
    header = None if _is_whole(rows[0][1]) else rows.pop(0)
    bad = next((row for row in rows if not _is_whole(row[1])), None)
    if bad is not None:
        raise DataError(f"{table}: '{bad[1]}' of {bad[0]} is no class index; give whole numbers from 0")
    files = [table.parent / row[0] for row in rows]
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None:
        raise DataError(
            f"{table} names {missing.name}, which is not in {table.parent}; remove the line or add the file"
        )
    width = min(map(len, rows), default=2)
    names = (header or [])[2:width] or [f"column{i}" for i in range(2, width)]
    columns = {name: np.asarray([row[2 + i] for row in rows]) for i, name in enumerate(names)}
    return files, np.asarray([int(row[1]) for row in rows], dtype=np.int64), columns


def _is_whole(text: str) -> bool:
    return text.strip().lstrip("-").isdigit()


def _class_folders(folder: Path, artifact: Artifact) -> tuple[list[Path], Array | None]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and _pictures(path))
    if not classes:
        return _pictures(folder), None
    known: Sequence[str] = next((spec.labels for spec in artifact.outputs if spec.labels), ())
    by_name = {name: index for index, name in enumerate(known)}
    indices = {path: by_name.get(path.name, place) for place, path in enumerate(classes)}
    files = [(picture, indices[path]) for path in classes for picture in _pictures(path)]
    return [picture for picture, _ in files], np.asarray([label for _, label in files], dtype=np.int64)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
