"""Labelled frames for training, calibration and test, deterministic from a seed and disjoint by scene.

A scene's number says which split it belongs to, and everything about it is drawn from (seed, number): splits share no
scene at any seed, a longer set starts with the shorter one, and the order of work does not matter.
Each scene gives one frame of every class, at its own moment of the scene's motion, in random order.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from degrade import CLASSES, CLIP, VISIBLE, Moment, degrade
from fullref import quality, similarity
from numpy.typing import NDArray
from scenes import SIZE, Rng, Scene, make_scene
from stills import load, names

SPLITS = {"train": 0, "calibration": 1, "test": 2, "photos": 3}
SPAN = 1_000_000  # scene numbers a split owns
STILL_EVERY = 5  # every fifth training scene films a photograph, where there are any
SPACING = 3.0  # frames of motion between a scene's samples


class Sample(NamedTuple):
    """One labelled frame: uint8 RGB [SIZE, SIZE, 3], index into CLASSES, quality and severity 0 to 1, scene."""

    frame: NDArray[np.uint8]
    label: int
    quality: float
    severity: float
    scene: int


class Frames(NamedTuple):
    """A set, as columns."""

    x: NDArray[np.uint8]  # [N, SIZE, SIZE, 3] RGB
    label: NDArray[np.int64]  # [N] index into CLASSES
    quality: NDArray[np.float32]  # [N] 0 to 1, higher is better
    severity: NDArray[np.float32]  # [N] 0 to 1; 0 for pristine
    scene: NDArray[np.int64]  # [N] number of the scene


def split_of(scene: int) -> str:
    """The split a scene number belongs to."""
    return list(SPLITS)[scene // SPAN]


def _rng(seed: int, scene: int) -> Rng:
    return np.random.default_rng([seed, scene])


def scene_of(seed: int, number: int, *, stills: bool = False) -> Scene:
    """The scene with this number; ``stills`` lets training scenes be photographs, ``photos`` scenes always are."""
    split, rng = split_of(number), _rng(seed, number)
    if split == "photos" or (stills and split == "train" and number % STILL_EVERY == 0):
        pictures = names("held-out" if split == "photos" else "training")
        if pictures:
            turn = number if split == "photos" else number // STILL_EVERY
            return make_scene(number, rng, load(pictures[turn % len(pictures)]))
        if split == "photos":
            raise LookupError(
                "no photographs are installed; scikit-learn and scikit-image carry some: pip install scikit-learn"
            )
    return make_scene(number, rng)


def moment_of(place: int) -> float:
    """The time (frames) at which a scene's sample number ``place`` is taken."""
    return CLIP - 1 + (place - len(CLASSES) / 2) * SPACING / 2


def samples_of(seed: int, number: int, *, stills: bool = False) -> list[Sample]:
    """One sample of every class from one scene, in random order."""
    scene = scene_of(seed, number, stills=stills)
    rng = np.random.default_rng([seed, number, 1])
    order = rng.permutation(len(CLASSES))
    samples = []
    for place, label in enumerate(order):
        t = moment_of(place)
        moment = Moment(scene, t, scene.frame(t))
        samples.append(_sample(moment, int(label), rng))
    return samples


def _sample(moment: Moment, label: int, rng: Rng) -> Sample:
    """Degrade a moment, harder where the content would hide it (see `degrade.VISIBLE`)."""
    reference = degrade("pristine", moment, 0.0, rng)
    name = CLASSES[label]
    if name == "pristine":
        return Sample(reference, label, 1.0, 0.0, moment.scene.ident)
    severity = float(rng.random())
    while True:
        frame = degrade(name, moment, severity, rng)
        if similarity(frame, reference) < VISIBLE or severity >= 1:
            return Sample(frame, label, quality(frame, reference), severity, moment.scene.ident)
        severity = min(severity + 0.3, 1.0)


def stream(seed: int, split: str, *, stills: bool = False) -> Iterator[Sample]:
    """Samples of a split without end, scene after scene."""
    first = SPLITS[split] * SPAN
    for number in range(first, first + SPAN):
        yield from samples_of(seed, number, stills=stills)


def _part(job: tuple[int, int, int, bool]) -> list[Sample]:
    """Samples of a run of scenes: what a helper process computes."""
    seed, first, last, stills = job
    return [sample for number in range(first, last) for sample in samples_of(seed, number, stills=stills)]


def make_frames(
    seed: int,
    split: str,
    count: int,
    *,
    stills: bool = False,
    workers: int = 1,
    into: NDArray[np.uint8] | None = None,
) -> Frames:
    """Generate the first ``count`` frames of a split.

    Args:
        seed: any non-negative number; the same seed gives the same frames.
        split: one of `SPLITS`.
        count: how many frames.
        stills: let training scenes be photographs, where packages that carry some are installed.
        workers: processes to use; the result does not depend on it.
        into: where to put the frames, uint8 [count, SIZE, SIZE, 3], say a memory map; made when absent.

    Returns:
        The set.
    """
    x = np.empty((count, SIZE, SIZE, 3), np.uint8) if into is None else into
    columns = np.zeros((3, count))
    labels = np.zeros(count, np.int64)
    for row, sample in enumerate(_parallel(seed, split, count, stills=stills, workers=workers)):
        x[row], labels[row] = sample.frame, sample.label
        columns[:, row] = sample.quality, sample.severity, sample.scene
    return Frames(x, labels, columns[0].astype(np.float32), columns[1].astype(np.float32), columns[2].astype(np.int64))


def _parallel(seed: int, split: str, count: int, *, stills: bool, workers: int) -> Iterator[Sample]:
    if workers <= 1:
        yield from islice(stream(seed, split, stills=stills), count)
        return
    first, scenes, step = SPLITS[split] * SPAN, -(-count // len(CLASSES)), 8
    jobs = [(seed, at, min(at + step, first + scenes), stills) for at in range(first, first + scenes, step)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from islice((sample for part in pool.map(_part, jobs) for sample in part), count)
