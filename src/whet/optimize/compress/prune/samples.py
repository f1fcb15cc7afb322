"""What the user's fine-tune function is given: samples as the net takes them, and where the pruning stands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.models.artifact import Artifact, load_artifact
from whet.optimize.pool import open_pool


class Samples:
    """Samples of ``--data`` that may be learnt from; none of them is ever judged on.

    Args:
        artifact: the unpruned net with what is around it: pictures are normalised as it says.
        pool: folder of the samples.
    """

    def __init__(self, artifact: Artifact, pool: Path) -> None:
        self._artifact, self._pool = artifact, open_pool(pool)

    def __len__(self) -> int:
        return len(self._pool)

    @property
    def labels(self) -> np.ndarray[Any, Any] | None:
        """int64[samples] class indices, or None."""
        return self._pool.labels

    def batches(self, size: int, seed: int | None = None) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Yield (inputs, labels): tensors [size, ...] in the order of the net's arguments, and int64 [size] or None.

        Args:
            size: samples in a batch; the last may be smaller. 1 where the net has no batch axis.
            seed: of the order; the pool's own order when None.
        """
        import torch

        order = np.arange(len(self))
        if seed is not None:
            np.random.default_rng(seed).shuffle(order)
        size = size if self._pool.batched and self._pool.uniform() else 1
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            parts = [self._net_inputs(int(row)) for row in rows]
            inputs = tuple(
                torch.from_numpy(
                    np.concatenate([part[spec.name] for part in parts]) if self._pool.batched else parts[0][spec.name]
                )
                for spec in self._artifact.inputs
            )
            labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
            yield inputs, labels

    def _net_inputs(self, index: int) -> dict[str, Any]:
        from whet.models.around import apply_images

        sample = self._pool.rows(index, 1)
        found = dict(apply_images(self._artifact, sample)) if self._artifact.images else sample
        return {name: np.array(value) for name, value in found.items()}


def open_samples(artifact: Path, pool: Path | None) -> Samples | None:
    """Open the samples of a pool, or return None where there are none."""
    return None if pool is None else Samples(load_artifact(artifact), pool)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the pruning stands; the third argument of a fine-tune function.

    Attributes:
        index: of the step, from 1.
        steps: in all.
        ratio: share of the channels that is gone now.
        seed: for whatever the function draws; another one every step.
        parent: the unpruned net in evaluation mode, to learn from (distillation). Leave it as it is.
        say: shows what the function is doing: ``say("epoch 2/4, loss 0.31")``.
    """

    index: int
    steps: int
    ratio: float
    seed: int
    parent: Any
    say: Callable[[str], None]
