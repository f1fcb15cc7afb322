"""Does a candidate hurt? Pure per-item scores, their paired drop, and the verdict against a floor.

Every metric gives one score per item in [0, 1], higher is better. The drop of a candidate is::

    drop = mean over items of (score of the parent on the item - score of the candidate on the same item)

absolute, in the metric's own unit: 0.01 is one point of top-1. Positive means worse. A candidate is within the floor
when the *upper* end of the paired 95 % interval of the drop is at most ``max_drop``. No verdict divides by a score, so
it is defined at zero too; the relative drop, told beside it, is :func:`relative_drop`. Metrics:

========= ======================================================= =====================================================
name      score of an item                                         needs
========= ======================================================= =====================================================
top1      1 if the largest class is the label, else 0              labels
top5      1 if the label is among the five largest, else 0         labels
agreement 1 if the largest class is the f32 parent's, else 0       the parent's outputs
snr       1 - min(1, noise power / signal power), mean of outputs  the parent's outputs; 0.99 is 20 dB
m:f       ``f(outputs, label)`` of the user's module ``m``         whatever it uses
========= ======================================================= =====================================================
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from whet.errors import DataError, UsageError
from whet.optimize.drops import DROP, Scores, binary, items_needed, paired_drop, relative_drop, tango
from whet.stats import Interval
from whet.tensors import Array, TensorSpec

BUILT_IN = ("top1", "top5", "agreement", "snr")
DEFAULT_MAX_DROP = 0.01
"""The floor when the user names none: one point of top-1, or 20 dB of signal over noise."""
WORST = 10
"""How many of the worst-hit items and classes a record names."""

FORMULAS = {
    "top1": "share of items whose largest class is the label; higher is better",
    "top5": "share of items whose label is among the five largest classes; higher is better",
    "agreement": "share of items whose largest class is the f32 parent's; higher is better",
    "snr": "1 - noise power / signal power against the f32 parent, mean over outputs and items; 0.99 is 20 dB; "
    "higher is better",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and where it looks.

    Attributes:
        name: one of :data:`BUILT_IN` or ``module:function``.
        output: the output that holds the class scores, empty where the metric looks at all of them.
    """

    name: str
    output: str = ""

    @property
    def formula(self) -> str:
        """What is computed, and in which direction it is better."""
        return FORMULAS.get(self.name, f"mean of {self.name}(outputs, label) over items; higher is better")

    @property
    def absolute(self) -> bool:
        """The parent has a score of its own; otherwise it agrees with itself perfectly (score 1)."""
        return self.name not in {"agreement", "snr"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the floor says about a candidate, as it stands in the evidence.

    Attributes:
        candidate: label of what was judged.
        metric: name of the metric.
        formula: what it computes and its direction.
        parent: mean score of the f32 parent.
        value: mean score of the candidate.
        drop: parent - value with its paired 95 % interval; positive is worse.
        relative: the drop over the parent's score, or None where that is 0 and the candidate's is not.
        max_drop: the floor that was asked for.
        items: items evaluated.
        verdict: ``within the floor``, ``past the floor`` or ``not enough data``.
        needs: items it would take to promise the floor at the observed discordance; None where no number would do (the
            drop is the floor itself), or none are needed.
        hopeless: so few items that not even a candidate which loses none could be promised within the floor.
        lost: items where the candidate scores lower than the parent.
        gained: items where it scores higher.
        snr_db: signal to noise against the parent, decibel, by output; None where there is no noise at all.
        per_class: the worst-hit classes: label, items, parent, value, drop.
        worst: the worst-hit items: index, parent, value.
    """

    candidate: str
    metric: str
    formula: str
    parent: float
    value: float
    drop: Interval
    max_drop: float
    items: int
    verdict: Literal["within the floor", "past the floor", "not enough data"]
    needs: int | None
    lost: int
    gained: int
    snr_db: dict[str, float | None] = field(default_factory=dict)
    per_class: tuple[dict[str, Any], ...] = ()
    worst: tuple[dict[str, Any], ...] = ()
    relative: float | None = None
    hopeless: bool = False
    drop_formula: str = DROP

    @property
    def passes(self) -> bool:
        """The floor holds with 95 % confidence."""
        return self.verdict == "within the floor"

    def __str__(self) -> str:
        said = (
            f"{self.metric} {self.parent:.4f} -> {self.value:.4f}, drop {self.drop.value:+.4f} "
            f"[{self.drop.low:+.4f}, {self.drop.high:+.4f}] over {self.items} items: {self.verdict} ({self.max_drop:g})"
        )
        return said + (f"; {self.needs} items would tell" if self.needs else "")


def choose_metric(wanted: str, outputs: Sequence[TensorSpec], *, labelled: bool) -> Metric:
    """Return the metric to judge by: the one asked for, else the strongest the data and the outputs allow.

    Args:
        wanted: the user's choice, or empty.
        outputs: what the service answers.
        labelled: the data has a label for every item.

    Raises:
        UsageError: the metric is unknown, or the data or the model cannot carry it.
    """
    classes = [spec for spec in outputs if _has_classes(spec)]
    if not wanted:
        wanted = "snr" if not classes else "top1" if labelled else "agreement"
    if ":" in wanted:
        return Metric(wanted)
    if wanted not in BUILT_IN:
        raise UsageError(f"metric '{wanted}' is unknown; choose one of {', '.join(BUILT_IN)} or module:function")
    if wanted == "snr":
        return Metric(wanted)
    if not classes:
        shapes = ", ".join(map(str, outputs))
        raise UsageError(f"metric '{wanted}' needs an output [batch, classes], the model has {shapes}; use snr")
    if wanted in {"top1", "top5"} and not labelled:
        raise UsageError(f"metric '{wanted}' needs labels, the data has none; add labels.tsv, or use agreement")
    named = [spec for spec in classes if any(word in spec.name.lower() for word in ("prob", "logit", "class", "score"))]
    return Metric(wanted, (named or classes)[0].name)


def _has_classes(spec: TensorSpec) -> bool:
    """Tell whether an output is ``[batch, classes]``; axes of one behind it, as pooling leaves them, do not count."""
    shape = spec.shape
    return len(shape) >= 2 and (shape[1] == -1 or shape[1] > 1) and all(dim == 1 for dim in shape[2:])


def item_scores(metric: Metric, outputs: Mapping[str, Array], reference: Array | Mapping[str, Array]) -> Scores:
    """Score each item with a built-in metric.

    Args:
        metric: one of :data:`BUILT_IN`.
        outputs: the candidate's outputs, axis 0 over items.
        reference: labels ``int64[items]`` for ``top1`` and ``top5``; the parent's outputs for the others.

    Returns:
        float64[items] in [0, 1], higher is better.

    Raises:
        DataError: a label is outside the model's classes.
    """
    if metric.name == "snr":
        assert isinstance(reference, Mapping)
        noise = [noise_to_signal(outputs[name], reference[name]) for name in reference]
        return np.asarray(1.0 - np.minimum(1.0, np.mean(noise, axis=0)), dtype=np.float64)
    scores = outputs[metric.output].reshape(len(outputs[metric.output]), -1)
    if metric.name == "agreement":
        assert isinstance(reference, Mapping)
        parent = reference[metric.output].reshape(scores.shape)
        return _ones(scores.argmax(axis=1) == parent.argmax(axis=1))
    labels = np.asarray(reference, dtype=np.int64)
    if labels.size and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        raise DataError(
            f"labels range over {labels.min()}..{labels.max()}, output '{metric.output}' has classes "
            f"0..{scores.shape[1] - 1}; give class indices that start at 0"
        )
    if metric.name == "top1":
        return _ones(scores.argmax(axis=1) == labels)
    five = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return _ones((five == labels[:, None]).any(axis=1))


def _ones(hits: Any) -> Scores:
    """Return 1 where it hit, else 0."""
    return np.asarray(hits, dtype=np.float64)


def noise_to_signal(output: Array, parent: Array) -> Scores:
    """Return sum((output - parent)^2) / sum(parent^2) per item; 0 where both are equal, 1 where only noise is there."""
    a = np.asarray(output, dtype=np.float64).reshape(len(output), -1)
    b = np.asarray(parent, dtype=np.float64).reshape(len(parent), -1)
    noise, signal = np.square(a - b).sum(axis=1), np.square(b).sum(axis=1)
    ratio = np.divide(noise, signal, out=np.where(noise > 0, 1.0, 0.0), where=signal > 0)
    return np.asarray(np.nan_to_num(ratio, nan=np.inf, posinf=np.inf), dtype=np.float64)


def decibel(ratio: float) -> float | None:
    """Return signal over noise in dB of a noise-to-signal ratio, or None where there is no noise (or no number)."""
    return -10.0 * math.log10(ratio) if 0 < ratio < math.inf else None


def judge(
    candidate: str,
    metric: Metric,
    parent: Scores,
    scores: Scores,
    *,
    max_drop: float,
    labels: Array | None = None,
    noise: Mapping[str, Scores] | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge a candidate's per-item scores against its parent's on the same items.

    Args:
        candidate: label of what is judged.
        metric: how the scores were made.
        parent: float64[items], the f32 parent's scores.
        scores: float64[items], the candidate's.
        max_drop: the floor, absolute.
        labels: int64[items], for the table of classes.
        noise: noise-to-signal ratio per item, by output.
        seed: of the bootstrap.

    Raises:
        DataError: no item, or scores that are not numbers.
    """
    if not len(parent) or len(parent) != len(scores):
        raise DataError(f"{len(parent)} items of the parent against {len(scores)} of '{candidate}'; both need the same")
    if not (np.isfinite(parent).all() and np.isfinite(scores).all()):
        raise DataError(f"metric '{metric.name}' gave scores that are no numbers for '{candidate}'; check the metric")
    drop = paired_drop(parent, scores, seed=seed)
    difference = parent - scores
    needs: int | None = None
    verdict: Literal["within the floor", "past the floor", "not enough data"] = "past the floor"
    if drop.high <= max_drop:
        verdict = "within the floor"
    elif drop.value <= max_drop:
        verdict, needs = "not enough data", items_needed(difference, max_drop)
        needs = None if needs is None else max(needs, len(parent) + 1)
    return Verdict(
        candidate=candidate,
        metric=metric.name,
        formula=metric.formula,
        parent=float(parent.mean()),
        value=float(scores.mean()),
        drop=drop,
        max_drop=max_drop,
        items=len(parent),
        verdict=verdict,
        needs=needs,
        lost=int((difference > 0).sum()),
        gained=int((difference < 0).sum()),
        snr_db={name: decibel(float(np.mean(ratio))) for name, ratio in (noise or {}).items()},
        per_class=_per_class(parent, scores, labels),
        worst=_worst(parent, scores, noise or {}),
        relative=relative_drop(float(parent.mean()), float(scores.mean())),
        hopeless=binary(difference) and tango(0, 0, len(parent))[1] > max_drop,
    )


def _per_class(parent: Scores, scores: Scores, labels: Array | None) -> tuple[dict[str, Any], ...]:
    if labels is None or np.asarray(labels).ndim != 1:
        return ()
    rows = []
    for label in np.unique(labels):
        of = labels == label
        before, after = float(parent[of].mean()), float(scores[of].mean())
        row = {"label": int(label), "items": int(of.sum()), "parent": before, "value": after, "drop": before - after}
        rows.append(row)
    return tuple(sorted(rows, key=lambda row: (-row["drop"], row["label"]))[:WORST])


def _worst(parent: Scores, scores: Scores, noise: Mapping[str, Scores]) -> tuple[dict[str, Any], ...]:
    drop = parent - scores
    loudest = np.mean([np.minimum(ratio, 1e6) for ratio in noise.values()], axis=0) if noise else np.zeros(len(drop))
    order = np.lexsort((-loudest, -drop))[:WORST]
    return tuple(
        {
            "index": int(i),
            "parent": float(parent[i]),
            "value": float(scores[i]),
            "snr_db": decibel(float(loudest[i])) if noise else None,
        }
        for i in order
        if drop[i] > 0 or loudest[i] > 0
    )
