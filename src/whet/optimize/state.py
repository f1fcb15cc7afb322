"""What a running search knows. One object, passed along; the phases fill it in."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.engine.base import Capabilities
from whet.host import Host
from whet.models.artifact import Artifact
from whet.optimize.accuracy import Metric, Verdict
from whet.optimize.data import Dataset, Split
from whet.optimize.journal import Journal
from whet.optimize.lab import Case, Lab, Record
from whet.optimize.pool import Pool
from whet.optimize.profile_words import Profile
from whet.optimize.recall import Past
from whet.optimize.request import OptimizeRequest, Progress, Status
from whet.optimize.space import Refusal, Space, Variant
from whet.optimize.strategy import Strategy
from whet.plan import Plan
from whet.stats import Interval

if TYPE_CHECKING:
    from whet.optimize.reference import Reference


@dataclass(slots=True)
class Clock:
    """The time budget: every phase asks for its share of what the whole may take.

    Attributes:
        budget_s: of the whole job.
        began: monotonic seconds.
    """

    budget_s: float
    began: float = field(default_factory=time.monotonic)

    @property
    def spent_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.budget_s - self.spent_s)

    def until(self, share: float) -> float:
        """Return the seconds left before ``share`` of the whole budget is spent, never negative."""
        return max(0.0, share * self.budget_s - self.spent_s)


@dataclass(slots=True)
class Baseline:
    """One default way to run the model.

    Attributes:
        name: ``ONNX Runtime f32 defaults``.
        what: how it is run, in words.
        plans: with which plans, largest batch first; the ones that cannot be opened are passed over.
        handicaps: of the input file, in words.
        best: its best case, once measured.
        reason: why it was not measured, or empty.
        tried: every case that was measured.
    """

    name: str
    what: str
    plans: tuple[Plan, ...] = ()
    handicaps: tuple[str, ...] = ()
    best: Case | None = None
    reason: str = ""
    tried: list[Case] = field(default_factory=list)


@dataclass(slots=True)
class Data:
    """Samples of a search.

    Attributes:
        dataset: where they come from.
        split: which calibrate and which judge.
        measure: samples that trials draw requests from.
        evaluation: samples accuracy is judged on, or None when there is no real data.
        calibration: samples to calibrate with, or None.
        calibration_sha256: hash of those, for lineages.
        metric: how accuracy is judged.
    """

    dataset: Dataset
    split: Split
    measure: Pool
    evaluation: Pool | None = None
    calibration: Pool | None = None
    calibration_sha256: str = ""
    metric: Metric | None = None


@dataclass(frozen=True, slots=True)
class Rung:
    """How one rung of the compression ladder ended.

    Attributes:
        net: label of the net that was compressed.
        rung: name of the recipe, or runtime and precision for the uncompressed net.
        label: what the candidate is called.
        outcome: ``ships`` (it holds the floor and wins, so the ladder stopped), ``hurts``, ``slow`` or ``failed``.
        gain: its throughput over the best float plan's, paired, or None where it was not raced.
        bf16: throughput of the uncompressed net in bf16 over the candidate's, or None.
        verdict: what the accuracy gate said, or None where it was not asked.
        drop: the metric's drop, positive is worse, or None.
        causes: why it is not faster: (slug, words).
        executed: computing layers by the precision in which the runtime executes them, read back from its graph; empty
            where it was not looked into.
    """

    net: str
    rung: str
    label: str
    outcome: str
    gain: Interval | None
    bf16: Interval | None
    verdict: str | None
    drop: Interval | None
    causes: tuple[tuple[str, str], ...] = ()
    executed: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """Everything a search knows."""

    request: OptimizeRequest
    machine: Host
    """Where this runs; plans are filed under it."""
    host: Host
    """The part of the machine that the targets leave to the service."""
    clock: Clock
    work: Path
    progress: Progress
    artifact: Artifact
    data: Data
    lab: Lab
    journal: Journal
    runtimes: dict[str, Capabilities]
    strategy: Strategy
    space: Space
    variants: list[Variant] = field(default_factory=list)
    allowed: set[tuple[str, str]] = field(default_factory=set)
    """(artifact, float precision) that may ship: the parent in f32, and what passed the gate."""
    baselines: list[Baseline] = field(default_factory=list)
    levels: dict[str, Case] = field(default_factory=dict)
    """The best case at the end of each level, and of the steps it is made of (:data:`whet.optimize.stages.STEPS`)."""
    stage_of: dict[str, str] = field(default_factory=dict)
    """Level at which a case was first measured, by key."""
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    rungs: list[Rung] = field(default_factory=list)
    """How the compression ladders were climbed, in order."""
    refused: list[Refusal] = field(default_factory=list)
    service: dict[str, Any] = field(default_factory=dict)
    past: Past = field(default_factory=Past)
    """What an interrupted run of the same job had measured."""
    lessons: list[Mapping[str, Any]] = field(default_factory=list)
    """What other searches found best on this host or its like, most telling first."""
    block_s: float = 0.5
    finals_from: int | None = None
    finalists: list[Case] = field(default_factory=list)
    contenders: list[Case] = field(default_factory=list)
    """Finalists that may be chosen, best in the closed loop first."""
    windowed: Case | None = None
    """The incumbent with a batch window: measured in the finals, chosen by its open loop alone."""
    chosen: Case | None = None
    reference: "Reference | None" = None
    """The plain f32 plan, measured beside the chosen one."""
    rates: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Open loops in process by plan id, and under a latency target the highest rate they hold."""
    profile: Profile | None = None
    """Layers of the chosen plan and this host's peaks."""
    served: dict[str, Any] | None = None
    """The last few plans behind a real server: see :mod:`whet.optimize.served`."""
    noise_floor: Interval | None = None
    """The incumbent against itself in the finals: ratio of neighbouring blocks."""
    started: str = ""
    expected: int = 40

    @property
    def store(self) -> Path:
        """Where artifacts are sealed during the search."""
        return self.work / "artifacts"

    def say(self, phase: str, words: str = "") -> None:
        """Tell where the search stands."""
        done = sum(1 for record in self.lab.records.values() if record.blocks or record.failure)
        best = self.best_words()
        self.progress(Status(phase, done, max(done, self.expected), best, self.clock.left_s, words))

    def best_words(self) -> str:
        """Return the best case so far in words, or the empty string."""
        ranking = self.strategy.ranking()
        if not ranking:
            return ""
        record = self.lab.records[ranking[0].key]
        speeds = sorted(block.throughput_per_s for block in record.kept)
        return f"{self.label(record.case.plan)}: {speeds[len(speeds) // 2]:.0f}/s" if speeds else ""

    def label(self, plan: Plan) -> str:
        """Return the short name of a plan."""
        from whet.optimize.space import label

        variant = next((one.label for one in self.variants if one.artifact == plan.artifact), "as given")
        return label(plan, variant)

    def bench_memory_mb(self) -> float | None:
        """Return what trials may take together, MB, or None where the host does not say."""
        limit = self.lab.bench.memory_bytes
        return None if limit is None else limit / 1e6

    def refuse(self, what: str, reason: str) -> None:
        """Write down that something was not tried or not kept."""
        self.refused.append(Refusal(what, reason))
        self.journal.add("refused", {"what": what, "reason": reason})

    def record(self, case: Case) -> Record:
        """Return the record of a case."""
        return self.lab.record(case)
