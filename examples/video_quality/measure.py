"""How right a set of answers is."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scores(NamedTuple):
    """Top-1 accuracy, rank correlation and mean absolute error of the quality, and the confusion matrix."""

    top1: float
    spearman: float
    error: float
    confusion: NDArray[np.int64]  # [truth, answer]

    def __str__(self) -> str:
        return f"top-1 {self.top1:.4f}, Spearman {self.spearman:.4f}, quality error {self.error:.4f}"

    def as_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """For JSON."""
        recall = self.confusion.diagonal() / np.maximum(self.confusion.sum(axis=1), 1)
        return {
            "top1": round(self.top1, 4),
            "spearman": round(self.spearman, 4),
            "quality_mean_absolute_error": round(self.error, 4),
            "recall": {name: round(float(value), 4) for name, value in zip(classes, recall, strict=True)},
            "confusion": self.confusion.tolist(),
        }


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def spearman(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Spearman's rank correlation, -1 to 1: Pearson's correlation of the ranks."""
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def score(
    logits: NDArray[np.floating],
    grades: NDArray[np.floating],
    label: NDArray[np.int64],
    quality: NDArray[np.floating],
) -> Scores:
    """Compare answers with the truth.

    Args:
        logits: [N, classes].
        grades: predicted quality, [N].
        label: true class, [N].
        quality: true quality, [N].
    """
    answer = logits.argmax(axis=1)
    confusion = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    np.add.at(confusion, (label, answer), 1)
    error = float(np.abs(grades - quality).mean())
    return Scores(float((answer == label).mean()), spearman(grades, quality), error, confusion)
