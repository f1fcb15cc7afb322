"""Samples laid out on disk, so that trial processes map them instead of decoding: one flat file an input.

::

    pool.json              the inputs' specs, number of samples
    <i>.raw                samples of input i, C order, one after another
    <i>.shapes.npy         int64[samples, rank]: samples may differ in shape
    labels.npy             int64[samples], where the data has labels
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from whet.errors import DataError, OutputError
from whet.models.artifact import Artifact
from whet.optimize.data import Dataset, Sample, fits
from whet.tensors import Array, TensorSpec

MOST_BYTES = 2 << 30
"""A pool holds no more than this; what does not fit is left out, and the caller sees fewer samples."""


@dataclass(frozen=True, slots=True)
class _Index:
    inputs: tuple[TensorSpec, ...]
    size: int
    batched: bool
    labelled: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """A materialised set of samples, mapped read-only.

    Attributes:
        folder: where it lies.
        size: number of samples.
        batched: samples are rows of a batch; otherwise each is a whole input.
        labels: int64[size], or None.
        flat: the samples of each input, one after another.
        shapes: int64[size, rank] for each input.
        starts: int64[size + 1], where each sample begins in ``flat``.
    """

    folder: Path
    size: int
    batched: bool
    labels: Array | None
    flat: dict[str, Array]
    shapes: dict[str, Array]
    starts: dict[str, Array]

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int) -> Sample:
        """Return sample ``index % size`` without the batch axis, as views of the mapped files."""
        index %= self.size
        return {
            name: flat[self.starts[name][index] : self.starts[name][index + 1]].reshape(self.shapes[name][index])
            for name, flat in self.flat.items()
        }

    def rows(self, start: int, count: int) -> Sample:
        """Return ``count`` samples from ``start`` on (wrapping) as one request: a new axis 0, or the one whole input.

        Samples of one request must agree in shape.
        """
        if not self.batched:
            return self.sample(start)
        if count == 1:
            return {name: array[None] for name, array in self.sample(start).items()}
        samples = [self.sample(start + i) for i in range(count)]
        return {name: np.stack([sample[name] for sample in samples]) for name in self.flat}

    def uniform(self) -> bool:
        """Tell whether all samples have the same shapes, so that any of them share a batch."""
        return all((shapes == shapes[0]).all() for shapes in self.shapes.values())


def materialise(dataset: Dataset, indices: Sequence[int], artifact: Artifact, folder: Path) -> Pool:
    """Read ``indices`` of ``dataset`` once and write them to ``folder``.

    Raises:
        DataError: a sample cannot be read or does not fit the model; names it.
        OutputError: the folder cannot be written.
    """
    specs = artifact.service_inputs
    try:
        folder.mkdir(parents=True, exist_ok=True)
        size, shapes = _write(dataset, indices, artifact, folder)
        for place, spec in enumerate(specs):
            np.save(folder / f"{place}.shapes.npy", np.asarray(shapes[spec.name], dtype=np.int64))
        labelled = dataset.labels is not None
        if dataset.labels is not None:
            np.save(folder / "labels.npy", dataset.labels[list(indices[:size])])
        (folder / "pool.json").write_bytes(msgspec.json.encode(_Index(specs, size, artifact.batched, labelled)))
    except OSError as error:
        raise OutputError(
            f"cannot write samples to {folder}: {error.strerror or error}; free space, or set TMPDIR elsewhere"
        ) from error
    return open_pool(folder)


def _write(
    dataset: Dataset, indices: Sequence[int], artifact: Artifact, folder: Path
) -> tuple[int, dict[str, list[tuple[int, ...]]]]:
    specs = artifact.service_inputs
    shapes: dict[str, list[tuple[int, ...]]] = {spec.name: [] for spec in specs}
    streams = [(folder / f"{place}.raw").open("wb") for place in range(len(specs))]
    size = written = 0
    try:
        for index in indices:
            sample = dataset.sample(index)
            fits(artifact, sample, f"{dataset.words}, sample {index}")
            written += sum(array.nbytes for array in sample.values())
            if size and written > MOST_BYTES:
                break
            for spec, stream in zip(specs, streams, strict=True):
                stream.write(np.ascontiguousarray(sample[spec.name]).data)
                shapes[spec.name].append(sample[spec.name].shape)
            size += 1
    finally:
        for stream in streams:
            stream.close()
    if not size:
        raise DataError(f"{dataset.words}: no sample to write")
    return size, shapes


def open_pool(folder: Path) -> Pool:
    """Map the pool in ``folder``.

    Raises:
        DataError: it is not there or damaged.
    """
    try:
        index = msgspec.json.decode((folder / "pool.json").read_bytes(), type=_Index)
        shapes = {spec.name: np.load(folder / f"{place}.shapes.npy") for place, spec in enumerate(index.inputs)}
        labels = np.load(folder / "labels.npy") if index.labelled else None
        flat: dict[str, Array] = {
            spec.name: np.memmap(folder / f"{place}.raw", dtype=spec.dtype, mode="r")
            for place, spec in enumerate(index.inputs)
        }
    except (OSError, ValueError, KeyError, msgspec.DecodeError) as error:
        raise DataError(f"{folder} holds no readable samples: {error}; run again") from error
    starts = {name: np.concatenate([[0], np.cumsum(of.prod(axis=1))]) for name, of in shapes.items()}
    return Pool(folder, index.size, index.batched, labels, flat, shapes, starts)
