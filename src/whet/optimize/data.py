"""Sample data for calibration and evaluation: ``--data`` in its four forms, and the split that keeps them apart.

======================= ==============================================================================================
``--data``              what it holds
======================= ==============================================================================================
a folder of images      class folders, or ``labels.tsv`` (file<TAB>class index[<TAB>more]), or pictures without labels
``x.npy``               the only input, axis 0 over samples
``x.npz``               one array an input (or ``x`` for the only one); ``label``, ``labels`` or ``y``; ``group`` or
                        ``scene`` says which samples belong together; other keys are kept as columns
``module:function``     a function of yours that yields samples: an array, a dict, or (sample, label)
======================= ==============================================================================================
"""

import hashlib
import importlib
import itertools
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import DataError, TensorError, WhetError
from whet.models.artifact import Artifact
from whet.tensors import Array, Tensors, TensorSpec, check

LABELS = ("label", "labels", "y")
GROUPS = ("group", "groups", "scene", "scenes")
MOST_YIELDED = 20_000
"""A data function is read no further than this: it may be endless."""

Sample = dict[str, Array]
"""One sample: an array per service input, without the batch axis when the model has one."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples that are read when asked for.

    Attributes:
        words: what it is, for people.
        size: number of samples.
        read: reads sample ``i``.
        fingerprint: returns a hash of sample ``i``'s content.
        labels: int64[size] class indices, or None.
        groups: which samples belong together (scene, patient, user), or None.
        columns: further values per sample, axis 0 of length ``size``.
        synthetic: random numbers, not data.
    """

    words: str
    size: int
    read: Callable[[int], Sample]
    fingerprint: Callable[[int], str]
    labels: Array | None = None
    groups: Array | None = None
    columns: dict[str, Array] = field(default_factory=dict)
    synthetic: bool = False

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int) -> Sample:
        """Return sample ``index``.

        Raises:
            DataError: it cannot be read; names it.
        """
        return self.read(index)

    def label(self, index: int) -> int | None:
        """Return the class index of sample ``index``, or None."""
        return None if self.labels is None else int(self.labels[index])


@dataclass(frozen=True, slots=True)
class Split:
    """Indices for calibration and for evaluation; no content (and no group) is on both sides.

    Attributes:
        calibration: statistics for quantization come from these.
        evaluation: accuracy is judged on these.
        grouped: the dataset says which samples belong together, and the split kept to it.
    """

    calibration: tuple[int, ...]
    evaluation: tuple[int, ...]
    grouped: bool


def open_data(source: str, artifact: Artifact) -> Dataset:
    """Open what ``--data`` names, for the service inputs of ``artifact``.

    Raises:
        DataError: missing, empty, or not what the model takes; names the thing and the remedy.
    """
    path = Path(source)
    if path.is_dir():
        from whet.optimize.pictures import open_pictures

        dataset = open_pictures(path, artifact)
    elif (path.suffix == ".npy" and path.exists()) or (path.suffix == ".npz" and path.exists()):
        dataset = _arrays(path, _load(path), artifact)
    elif ":" in source and not path.exists():
        dataset = _function(source, artifact)
    else:
        state = "is no folder, .npy or .npz" if path.exists() else "does not exist"
        raise DataError(f"data '{source}' {state}; give a folder of images, .npy, .npz or module:function")
    if not len(dataset):
        raise DataError(f"data '{source}' holds no sample; give at least one")
    fits(artifact, dataset.sample(0), f"data '{source}', sample 0")
    return dataset


def synthetic(artifact: Artifact, size: int, seed: int) -> Dataset:
    """Return ``size`` samples of seeded noise in the shapes and dtypes the service takes.

    Good enough to measure speed, and never used to judge accuracy or to calibrate unless the user insists.

    Raises:
        DataError: no sample asked for, or an input has free dimensions, for which noise has no size.
    """
    if size < 1:
        raise DataError(f"--synthetic is {size}; ask for at least one sample, such as --synthetic 32")
    specs = artifact.service_inputs
    for spec in specs:
        if -1 in sample_shape(spec, artifact) or spec.datatype == "BYTES":
            raise DataError(f"input '{spec}' has no fixed shape to make noise for; give --input-shape, or real --data")

    def read(index: int) -> Sample:
        rng = np.random.default_rng((seed, index))
        return {spec.name: _noise(rng, spec, sample_shape(spec, artifact)) for spec in specs}

    return Dataset(f"{size} synthetic samples", size, read, lambda index: f"synthetic-{seed}-{index}", synthetic=True)


def sample_shape(spec: TensorSpec, artifact: Artifact) -> tuple[int, ...]:
    """Return the shape of one sample: the spec's without the batch axis when the model has one."""
    return spec.shape[1:] if artifact.batched else spec.shape


def fits(artifact: Artifact, sample: Tensors, what: str) -> None:
    """Check one sample against the service's inputs.

    Raises:
        DataError: names the sample, the input, what came and what is wanted.
    """
    specs = {spec.name: spec for spec in artifact.service_inputs}
    if sample.keys() != specs.keys():
        raise DataError(f"{what} has inputs {sorted(sample)}, the model takes {sorted(specs)}; name them alike")
    for name, array in sample.items():
        try:
            check(specs[name], array[None] if artifact.batched else array)
        except TensorError as error:
            raise DataError(f"{what}: {error}") from None


def split(dataset: Dataset, *, seed: int, calibration: int = 300, evaluation: int = 2000, share: float = 0.2) -> Split:
    """Draw disjoint calibration and evaluation samples, by group when there is one, by content otherwise.

    At most a fifth of the data calibrates by default, so that small data still judges.

    Args:
        dataset: where to draw from.
        seed: of the draw; the same seed draws the same samples.
        calibration: samples wanted for calibration, at most.
        evaluation: samples wanted for evaluation, at most.
        share: of all samples that calibrates, at most.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))
    wanted = min(calibration, int(len(dataset) * share))
    grouped = dataset.groups is not None
    keys: dict[int, str] = {}

    def unit(index: int) -> str:
        return str(dataset.groups[index]) if dataset.groups is not None else content(index)

    def content(index: int) -> str:
        return keys.setdefault(index, dataset.fingerprint(index)) if index not in keys else keys[index]

    if grouped:  # whole groups, in the order in which the draw meets them, at most a third of them (or the share)
        names = list(dict.fromkeys(unit(int(index)) for index in order))
        rank = {name: place for place, name in enumerate(names)}
        order = np.asarray(sorted(order, key=lambda index: rank[unit(int(index))]), dtype=np.int64)
        ceiling = set(names[: max(1, len(names) // 3, int(len(names) * share))])
    chosen: list[int] = []
    for index in map(int, order):
        if len(chosen) >= wanted or (grouped and unit(index) not in ceiling):
            break
        chosen.append(index)
    taken, seen = {unit(index) for index in chosen}, {content(index) for index in chosen}
    picked = set(chosen)
    rest = (i for i in map(int, order) if i not in picked and unit(i) not in taken and content(i) not in seen)
    return Split(tuple(chosen), tuple(itertools.islice(rest, evaluation)), grouped)


def _noise(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    if spec.datatype == "BOOL":
        return rng.random(shape) < 0.5
    if spec.dtype.kind in "iu":
        high = 256 if spec.datatype == "UINT8" else 2  # two: an index that every vocabulary has
        return rng.integers(0, high, shape).astype(spec.dtype)
    return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)


def _load(path: Path) -> dict[str, Array]:
    try:
        if path.suffix == ".npy":
            return {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no readable numpy file: {error}; write it with numpy.save or numpy.savez"
        ) from error


def _digest(sample: Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(sample):
        digest.update(f"{name}{sample[name].dtype}{sample[name].shape}".encode())
        digest.update(np.ascontiguousarray(sample[name]).data)
    return digest.hexdigest()


def _labels(values: Any, size: int, what: str) -> Array:
    labels = np.asarray(values)
    if labels.ndim != 1 or len(labels) != size or not np.issubdtype(labels.dtype, np.number):
        raise DataError(f"{what} has labels of shape {list(labels.shape)}, wanted [{size}]: one class index a sample")
    if (labels != np.round(labels)).any():
        raise DataError(f"{what} has labels that are no whole numbers; give class indices")
    return labels.astype(np.int64)


def _arrays(path: Path, arrays: dict[str, Array], artifact: Artifact) -> Dataset:
    specs = artifact.service_inputs
    names = {spec.name: spec.name for spec in specs if spec.name in arrays}
    if not names and len(specs) == 1 and "x" in arrays:
        names = {specs[0].name: "x"}
    if len(names) != len(specs):
        missing = sorted({spec.name for spec in specs} - names.keys())
        raise DataError(f"{path} lacks {missing}; it has {sorted(arrays)}; name the arrays like the model's inputs")
    sizes = {name: len(arrays[key]) if arrays[key].ndim else 0 for name, key in names.items()}
    size = next(iter(sizes.values()))
    if len(set(sizes.values())) > 1:
        raise DataError(f"{path}: inputs have different numbers of samples: {sizes}; axis 0 runs over samples")
    others = {key: value for key, value in arrays.items() if key not in names.values()}
    key = next((key for key in LABELS if key in others), None)
    labels = None if key is None else _labels(others.pop(key), size, f"{path}, array '{key}'")
    for name, column in others.items():
        if column.ndim == 0 or len(column) != size:
            raise DataError(f"{path}: array '{name}' has shape {list(column.shape)}, wanted {size} along axis 0")
    group = next((key for key in GROUPS if key in others), None)

    def read(index: int) -> Sample:
        return {name: np.ascontiguousarray(arrays[key][index]) for name, key in names.items()}

    return Dataset(
        f"{size} samples of {path.name}",
        size,
        read,
        lambda index: _digest(read(index)),
        labels,
        others[group] if group else None,
        others,
    )


def _function(source: str, artifact: Artifact) -> Dataset:
    specs, samples, labels = artifact.service_inputs, list[Sample](), list[Any]()
    for index, item in enumerate(itertools.islice(call(source), MOST_YIELDED)):
        sample, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not isinstance(sample, dict):
            if len(specs) != 1:
                raise DataError(f"{source} yields arrays, the model takes {len(specs)} inputs; yield dicts of arrays")
            sample = {specs[0].name: sample}
        sample = {name: np.ascontiguousarray(array) for name, array in sample.items()}
        fits(artifact, sample, f"{source}, sample {index}")
        samples.append(sample)
        labels.append(label)
    if not samples:
        raise DataError(f"{source} yielded no sample; yield at least one")
    known = [label for label in labels if label is not None]
    if known and len(known) != len(labels):
        raise DataError(f"{source} yields labels for {len(known)} of {len(labels)} samples; label all or none")
    return Dataset(
        f"{len(samples)} samples of {source}",
        len(samples),
        samples.__getitem__,
        lambda index: _digest(samples[index]),
        _labels(known, len(samples), source) if known else None,
    )


def call(source: str) -> Iterator[Any]:
    """Call ``module:function`` of the user and return the iterator it gives.

    Raises:
        DataError: no such module or function, or it raised; the user's own error is quoted.
    """
    function = resolve(source)
    try:
        yield from function()
    except WhetError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise DataError(f"{source} raised {type(error).__name__}: {error}; fix the function") from error


def resolve(source: str) -> Callable[..., Any]:
    """Return the function ``module:function`` names; modules of the current folder can be named.

    Raises:
        DataError: no such module or function.
    """
    module_name, _, name = source.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a stranger's module may raise anything
        raise DataError(
            f"cannot import '{module_name}' of '{source}': {type(error).__name__}: {error}; "
            "run where the module is, or install it"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise DataError(f"module '{module_name}' has no function '{name}'; name one that it has")
    return function  # type: ignore[no-any-return]
