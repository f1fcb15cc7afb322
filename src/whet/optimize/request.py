"""What ``whet optimize`` is asked for, what it answers, and how it tells of its progress."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from whet.errors import UsageError
from whet.models.bundle import Bundle
from whet.models.importers.base import Options
from whet.optimize.accuracy import DEFAULT_MAX_DROP
from whet.plan import Targets

LEAST_BUDGET_S = 10.0
DEFAULT_BUDGET_S = 120.0
Service = Literal["online", "batch", "stream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeRequest:
    """A job for the optimiser.

    Attributes:
        model: the model's file or folder.
        out: the bundle to write.
        options: what the user said about the model.
        data: samples, in one of the forms of :mod:`whet.optimize.data`.
        synthetic: samples of noise instead: speed only, never a ground for int8 or bf16.
        targets: what the service must reach.
        budget_s: seconds the whole job may take, about.
        seed: of every draw.
        runtimes: the only runtimes to consider, or empty for all that are installed.
        allow_synthetic_calibration: judge and calibrate on noise all the same.
        service: ``online`` (single samples, latency matters), ``batch`` (callers bring full batches), ``stream``
            (samples arrive at a steady rate; like online).
        name: the model's name when served; the file's own when empty.
        variants: further models of the same service that compete: label -> path.
        strategy: how plans to measure are chosen, one of :data:`whet.optimize.strategies.NAMES`.
        resume: go on where an interrupted run of the same job stopped.
        calibration: samples to calibrate with, at most.
        evaluation: samples to judge accuracy on, at most.
        journal: folder of a journal that several jobs share: each starts from what is known of the host. None keeps it
            beside the bundle, for this job alone.
        assumed: targets that nobody gave and the kind of service suggested, in words.
    """

    model: Path
    out: Path
    options: Options = field(default_factory=Options)
    data: str | None = None
    synthetic: int | None = None
    targets: Targets = field(default_factory=Targets)
    budget_s: float = DEFAULT_BUDGET_S
    seed: int = 0
    runtimes: tuple[str, ...] = ()
    allow_synthetic_calibration: bool = False
    service: Service = "online"
    name: str = ""
    variants: dict[str, Path] = field(default_factory=dict)
    strategy: str = "racing"
    resume: bool = False
    calibration: int = 300
    evaluation: int = 2000
    journal: Path | None = None
    assumed: tuple[str, ...] = ()

    @property
    def max_drop(self) -> float:
        """The accuracy floor that applies: a default holds where the user names none."""
        return DEFAULT_MAX_DROP if self.targets.max_drop is None else self.targets.max_drop

    def check(self) -> None:
        """Refuse what contradicts itself, before anything is read.

        Raises:
            UsageError: names the setting, its value, the bound and the remedy.
        """
        targets = self.targets
        if (self.data is None) == (self.synthetic is None):
            said = "neither was" if self.data is None else "both were"
            raise UsageError(f"samples come from --data or from --synthetic N, and {said} given; give one of them")
        if not self.budget_s >= LEAST_BUDGET_S:
            raise UsageError(
                f"budget is {self.budget_s:g} s; nothing can be measured in less than {LEAST_BUDGET_S:g} s"
            )
        check_targets(self.targets)
        if targets.min_accuracy is not None and self.synthetic is not None and not self.allow_synthetic_calibration:
            raise UsageError("--min-accuracy needs --data: on noise no accuracy can be judged")
        if self.allow_synthetic_calibration and self.data is not None:
            raise UsageError("--allow-synthetic-calibration goes with --synthetic; real --data needs no permission")


def check_targets(targets: Targets) -> None:
    """Refuse targets that contradict each other, or that nothing can reach.

    Raises:
        UsageError: names the flag, its value, the bound and the remedy.
    """
    for name in ("p99_ms", "p50_ms", "min_qps", "max_cores", "max_rss_mb", "max_load_ms"):
        value = getattr(targets, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} is {value:g}; it must be a number above 0")
    if targets.p50_ms is not None and targets.p99_ms is not None and targets.p50_ms > targets.p99_ms:
        raise UsageError(f"--p50-ms {targets.p50_ms:g} is above --p99-ms {targets.p99_ms:g}; a median never is")
    if targets.max_drop is not None and not 0 <= targets.max_drop < 1:
        raise UsageError(f"--max-drop is {targets.max_drop:g}; it is absolute, from 0 to below 1: 0.01 is one point")
    share = ":" not in targets.metric  # the built-in metrics are shares; one of the user's may have any scale
    if targets.min_accuracy is not None and share and not 0 <= targets.min_accuracy <= 1:
        raise UsageError(f"--min-accuracy is {targets.min_accuracy:g}; built-in metrics lie between 0 and 1")
    if targets.objective == "cores" and targets.min_qps is None:
        raise UsageError("objective 'cores' asks for the fewest cores that carry a load; say which: --min-qps")


@dataclass(frozen=True, slots=True)
class Status:
    """Where a search stands.

    Attributes:
        phase: what is being done, ``baselines``, ``system``, ``compress``, ...
        done: trials measured so far.
        total: trials expected in all, an estimate.
        best: the best so far, in words, or empty.
        left_s: seconds left, an estimate.
        words: what is happening right now.
    """

    phase: str
    done: int
    total: int
    best: str
    left_s: float
    words: str = ""


Progress = Callable[[Status], None]


def silent(_: Status) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search ended with.

    Attributes:
        bundle: what was written, or None when nothing could be measured before an interrupt.
        result: the evidence document.
        exit_code: 0 done, 1 targets not met (the bundle holds the nearest plan), 130 interrupted (the best so far).
        message: one sentence for people.
    """

    bundle: Bundle | None
    result: dict[str, Any]
    exit_code: int
    message: str
