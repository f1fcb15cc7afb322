"""Computes a pool with an engine and scores it item by item; runs inside a trial process.

The f32 parent's outputs are kept on disk, one flat file an output, so that any number of candidates is compared with
them without computing them again.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from whet.engine.engine import Engine
from whet.errors import DataError
from whet.optimize.accuracy import Metric, item_scores, noise_to_signal
from whet.optimize.data import resolve
from whet.optimize.drops import Scores
from whet.optimize.pool import Pool, open_pool
from whet.optimize.trial_words import Evaluate, Scored
from whet.tensors import Array

MOST_BYTES = 4 << 30
"""Outputs kept on disk, at most; past that the evaluation set is cut, never the outputs."""


async def evaluate(engine: Engine, command: Evaluate) -> Scored:
    """Compute every sample of the command's pool and score it.

    Raises:
        DataError: the outputs carry no batch axis to score by, or the user's metric raised.
    """
    pool = open_pool(command.pool)
    chunk = engine.plan.max_batch if pool.uniform() else 1
    lanes = engine.plan.streams + 1
    metric = Metric(command.metric, command.output)
    keeper = Keeper(command.save, len(pool)) if command.save is not None else None
    parent = Kept(command.parent) if command.parent is not None else None
    count = len(pool) if parent is None else min(len(pool), parent.size)
    scores, noise = np.full(count, np.nan), dict[str, Scores]()
    starts, end = iter(range(0, count, chunk)), time.monotonic() + command.limit_s
    done = 0  # batches begin in order, so what was begun is a prefix

    async def work() -> None:
        nonlocal done
        for start in starts:
            if start and time.monotonic() > end:
                return
            done = max(done, min(start + chunk, count))
            rows = min(chunk, count - start)
            answer = await engine.infer(pool.rows(start, rows))
            outputs = {name: _per_item(name, array, rows, pool) for name, array in answer.outputs.items()}
            items = slice(start, start + rows)
            if keeper is not None:
                keeper.put(start, outputs)
            reference = parent.rows(start, rows) if parent is not None else outputs
            labels = pool.labels[items] if pool.labels is not None else None
            scores[items] = _score(metric, outputs, reference, labels)
            if parent is not None:
                for name, of in reference.items():
                    noise.setdefault(name, np.zeros(count))[items] = noise_to_signal(outputs[name], of)

    await asyncio.gather(*(work() for _ in range(lanes)))
    if keeper is not None:
        keeper.close(done)
    return Scored(scores[:done].tolist(), {name: np.minimum(of[:done], 1e9).tolist() for name, of in noise.items()})


def _per_item(name: str, array: Array, rows: int, pool: Pool) -> Array:
    """Return an output with axis 0 over items."""
    if not pool.batched:
        return array[None]
    if len(array) != rows:
        raise DataError(f"output '{name}' has {len(array)} rows for {rows} samples; it cannot be scored by sample")
    return array


def _score(metric: Metric, outputs: Mapping[str, Array], parent: Mapping[str, Array], labels: Array | None) -> Scores:
    if ":" in metric.name:
        return _own(metric.name, outputs, labels)
    if metric.absolute:
        if labels is None:
            raise DataError(f"metric '{metric.name}' needs labels, the data has none; add them, or use agreement")
        return item_scores(metric, outputs, labels)
    return item_scores(metric, outputs, parent)


def _own(name: str, outputs: Mapping[str, Array], labels: Array | None) -> Scores:
    """Call the user's metric item by item."""
    function, found = resolve(name), list[float]()
    for place in range(len(next(iter(outputs.values())))):
        label: Any = None if labels is None else int(labels[place])
        try:
            found.append(float(function({key: array[place] for key, array in outputs.items()}, label)))
        except Exception as error:  # a stranger's code may raise anything
            raise DataError(f"metric {name} raised {type(error).__name__}: {error}; fix the function") from error
    return np.asarray(found, dtype=np.float64)


class Keeper:
    """Writes outputs to disk as they come, in any order.

    Args:
        folder: to make.
        size: number of items.
    """

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._size = folder, size
        self._arrays: dict[str, Array] = {}

    def put(self, start: int, outputs: Mapping[str, Array]) -> None:
        """Keep the outputs of items from ``start`` on."""
        if not self._arrays:
            for place, (name, array) in enumerate(sorted(outputs.items())):
                size = min(self._size, max(1, MOST_BYTES // max(1, array[0].nbytes * len(outputs))))
                path, shape = self._folder / f"{place}.npy", (size, *array.shape[1:])
                self._arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=array.dtype, shape=shape)
        for name, array in outputs.items():
            into = self._arrays[name]
            if array.shape[1:] != into.shape[1:]:
                raise DataError(
                    f"output '{name}' has shape {list(array.shape[1:])} for one sample and {list(into.shape[1:])} for "
                    "another; give samples of one shape to judge accuracy"
                )
            into[start : start + len(array)] = array[: max(0, len(into) - start)]

    def close(self, done: int) -> None:
        """Write the index; only then the folder counts as whole. ``done`` items were put."""
        for array in self._arrays.values():
            array.flush()  # type: ignore[attr-defined]
        size = min(done, *map(len, self._arrays.values()))
        (self._folder / "kept.json").write_bytes(msgspec.json.encode((size, sorted(self._arrays))))


class Kept:
    """Outputs on disk."""

    def __init__(self, folder: Path) -> None:
        self.size, names = msgspec.json.decode((folder / "kept.json").read_bytes(), type=tuple[int, tuple[str, ...]])
        self._arrays = {name: np.load(folder / f"{place}.npy", mmap_mode="r") for place, name in enumerate(names)}

    def rows(self, start: int, count: int) -> dict[str, Array]:
        """Return the outputs of ``count`` items from ``start`` on."""
        return {name: array[start : start + count] for name, array in self._arrays.items()}
