"""What ``whet prune`` is asked for, the nets it makes, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.errors import UsageError
from whet.models.artifact import Artifact
from whet.models.importers.base import Options
from whet.optimize.accuracy import DEFAULT_MAX_DROP, Verdict
from whet.optimize.compress.prune import CRITERIA, Scope, Step
from whet.stats import Interval

Say = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneRequest:
    """A job.

    Attributes:
        entry: ``module:function`` that returns an ``nn.Module``, or (module, example inputs).
        data: samples, in one of the forms of :mod:`whet.optimize.data`.
        finetune: ``module:function`` called as ``f(model, data, stage)`` after every removal, or empty.
        ratio: share of the channels that is gone after the last step, above 0 and below 1.
        steps: in how many.
        importance: one of :data:`whet.optimize.compress.prune.CRITERIA`.
        scope: every layer loses the same share, or the least important channels go wherever they are.
        multiple: widths are kept at multiples of it; the host's vector width when None.
        keep: layers that stay as they are, by name.
        outputs: names of the outputs in their order.
        options: input shapes and preprocessing.
        max_drop: the floor, absolute.
        metric: as for ``whet optimize``.
        training_share: of the samples, at most, that may be learnt from; the others judge.
        evaluation: samples to judge on, at most.
        seed: of every draw.
    """

    entry: str
    data: str
    finetune: str = ""
    ratio: float = 0.3
    steps: int = 1
    importance: str = "l2"
    scope: Scope = "layer"
    multiple: int | None = None
    keep: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    max_drop: float = DEFAULT_MAX_DROP
    metric: str = ""
    training_share: float = 0.5
    evaluation: int = 2000
    seed: int = 0

    def check(self) -> None:
        """Refuse what makes no sense, before anything is read.

        Raises:
            UsageError: names the setting, its value and the bound.
        """
        for name, value in (("MODULE", self.entry), ("--finetune", self.finetune)):
            if value and (":" not in value or Path(value).exists()):
                raise UsageError(
                    f"{name} '{value}' is no module:function; pruning needs the code of the net, not a file"
                )
        if not 0 < self.ratio < 1:
            raise UsageError(f"--ratio is {self.ratio:g}; it is the share of channels to remove, above 0 and below 1")
        if not 0 < self.training_share < 1:
            raise UsageError(f"--training-share is {self.training_share:g}; it must lie between 0 and 1")
        if self.multiple is not None and self.multiple < 1:
            raise UsageError(f"--multiple is {self.multiple}; 1 keeps any width, 16 fills AVX-512 registers")
        if self.importance not in CRITERIA:
            raise UsageError(f"--importance '{self.importance}' is unknown; choose one of {', '.join(CRITERIA)}")


@dataclass(frozen=True, slots=True)
class Net:
    """A net that stands in the answer: the unpruned one, or a step.

    Attributes:
        label: ``unpruned``, ``step-1``, ...
        artifact: sealed.
        parameters: how many.
        gflop: of one sample, or None where its shapes are free.
        step: how it was pruned; None for the unpruned net.
        verdict: of accuracy, against the unpruned net; None for it.
        speed: throughput over the unpruned net's, paired, both at the same default plan; None until measured.
    """

    label: str
    artifact: Artifact
    parameters: int
    gflop: float | None
    step: Step | None = None
    verdict: Verdict | None = None
    speed: Interval | None = None

    def row(self) -> dict[str, Any]:
        """Return what ``pruned.json`` says of it."""
        step = self.step
        return {
            "label": self.label,
            "sha256": self.artifact.sha256,
            "parameters": self.parameters,
            "gflop": self.gflop,
            "removed": step.removed if step else None,
            "seconds": step.seconds if step else None,
            "layers": step.layers if step else None,
            "left": step.left if step else None,
            "speed_at_default_plan": self.speed,
            "accuracy": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class PruneOutcome:
    """What it ended with.

    Attributes:
        folder: holds a folder for each net and ``pruned.json``.
        document: what ``pruned.json`` says.
        exit_code: 0 a step holds the floor, 1 none does, 130 interrupted (the finished steps are kept).
        message: one sentence for people.
    """

    folder: Path
    document: dict[str, Any]
    exit_code: int
    message: str


def message(request: PruneRequest, nets: list[Net], passed: list[Net]) -> str:
    """Return how it ended in one sentence: the last of the nets that hold the floor, or why none does."""
    last = nets[-1]
    if passed:
        best = passed[-1]
        speed = f", {best.speed.value:.2f}x [{best.speed.low:.2f}, {best.speed.high:.2f}]" if best.speed else ""
        return f"{best.label} holds the floor{speed}: {best.verdict}"
    untrained = " (nothing trained the net after channels left it: give --finetune module:function)"
    why = "" if request.finetune else untrained
    return f"refused: no step holds the floor{why}. {last.label}: {last.verdict}"
