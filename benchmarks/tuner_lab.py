"""What the tuner's benchmark does on the machine: sweeps, searches, and plans measured against each other in pairs."""

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from models import build_int8, build_onnx
from tuner_record import Log, RecordedClock, RecordedLab, Table, told
from whet.optimize import finals, stages
from whet.optimize.lab import Record
from whet.optimize.prepare import prepare
from whet.optimize.request import OptimizeRequest, silent
from whet.optimize.search import Racing
from whet.optimize.space import simplicity
from whet.optimize.state import Clock, State
from whet.optimize.strategies import make
from whet.optimize.strategy import Budget, Candidate
from whet.optimize.yardsticks import WITHOUT_END, Exhaustive
from whet.plan import Plan, Targets
from whet.stats import Interval, paired_ratio

BLOCKS, BLOCK_S, WIDTH = 3, 1.0, 8
"""The sweep: blocks a plan, seconds a block, plans next to the reference in a round."""
LEGS = {"system": 0.2, "application": 0.35, "algorithm": 0.75}
"""Share of the search's time that is spent when a level ends, in the proportions of `whet optimize`; the rest is the
finals'. There, baselines and the making of int8 nets take their time besides."""
BLOCK_PART = 120
"""A search's blocks are this part of its time, as those of `whet optimize` are with what its search is left."""
HALF_WIDTH, MOST_PAIRS, LEAST_PAIRS = 0.015, 60, 8
"""Pairs are measured until the 95 % interval's half-width is this, or so many pairs are spent."""


@dataclass(frozen=True)
class Service:
    """A net and what is asked of it: what bounds the space of its plans.

    Attributes:
        net: of models.py.
        targets: of the search.
        sample_ms: time of one sample where a latency target has to know it, as `whet optimize` learns it from the
            baselines; fixed here so that a sweep and its continuation agree about the space.
    """

    net: str
    targets: Targets = field(default_factory=Targets)
    sample_ms: float | None = None

    @property
    def words(self) -> str:
        given = self.targets
        said = [given.objective, f"{given.max_cores} core(s)" if given.max_cores else "all cores"]
        return ", ".join(said + ([f"p99 {given.p99_ms:g} ms"] if given.p99_ms else []))


@contextmanager
def opened(service: Service, work: Path, seed: int = 0) -> Iterator[State]:
    """Yield a search that could begin: the net in f32 and int8, every precision admitted (random weights have no
    accuracy to lose), the space as ``space.py`` builds it."""
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    request = OptimizeRequest(
        model=build_onnx(service.net),
        out=folder / "bundle",
        synthetic=64,
        targets=service.targets,
        variants={"int8": build_int8(service.net)},
        seed=seed,
    )
    state = prepare(request, folder, silent, Clock(request.budget_s))
    stages.build_space(state, service.sample_ms)
    state.allowed |= {(variant.artifact, one) for variant in state.variants for one in ("f32", *variant.precisions)}
    state.block_s = BLOCK_S
    try:
        yield state
    finally:
        state.lab.close()
        state.journal.close()
        shutil.rmtree(folder, ignore_errors=True)


def searchable(state: State) -> list[Plan]:
    """The plans that a closed loop can tell apart: what any strategy searches."""
    return [plan for plan in state.space.plans if stages.searchable(state, plan)]


def by_key(state: State) -> dict[str, Plan]:
    """The same plans by the key of the case in which they are measured."""
    return {stages.case_of(state, plan).key: plan for plan in searchable(state)}


def space_hash(state: State) -> str:
    """Name of the space: which plans are in it, and nothing else."""
    return hashlib.sha256("\n".join(sorted(plan.id for plan in searchable(state))).encode()).hexdigest()[:10]


def sweep(state: State, log: Log, seconds: float) -> bool:
    """Go on with the exhaustive sweep for about ``seconds``; tell whether it is complete."""
    plans = by_key(state)
    candidates = [Candidate(key, state.space.features(plan), simplicity(plan)) for key, plan in plans.items()]
    strategy = Exhaustive(candidates, WITHOUT_END, width=WIDTH, seed=len(log.events))
    strategy.blocks = BLOCKS
    state.lab.most = WIDTH + 2
    known = set()
    for event in log.of("round"):
        strategy.tell(told(event), event["ready_s"] + event["wall_s"])
        known |= set(event["told"])
    until = time.monotonic() + seconds
    while time.monotonic() < until and (asked := strategy.ask()) is not None:
        began = time.monotonic()
        state.lab.ready([plans[key] for key in asked.keys])
        opened_at = time.monotonic()
        cases = [stages.case_of(state, plans[key]) for key in asked.keys]
        records = stages.measured_round(state, cases, asked.blocks)
        ended = time.monotonic()
        found = [stages.told(state, record, asked.blocks) for record in records]
        others = [
            one.others for record in records for one in record.counters[-asked.blocks :] if one.others is not None
        ]
        log.add(
            kind="round",
            blocks=asked.blocks,
            told={one.key: one.scores for one in found},
            fresh=[key for key in asked.keys if key not in known],
            ready_s=round(opened_at - began, 3),
            wall_s=round(ended - opened_at, 3),
            rss_mb={record.case.key: round(_rss(record)) for record in records},
            others=round(float(np.median(others)), 3) if others else None,
            failures={record.case.key: record.failure for record in records if record.failure},
        )
        known |= set(asked.keys)
        strategy.tell(found, ended - began)
        done = len(strategy.ledger.scores) + len(strategy.ledger.failed)
        print(f"  swept {done} of {len(plans)} plans", flush=True)
    return not strategy.ledger.open


def _rss(record: Record) -> float:
    return max((block.rss_mb for block in record.kept), default=record.ready.rss_mb if record.ready else 0.0)


def search(state: State, name: str, seconds: float, *, finish: bool = True) -> str:
    """Search for ``seconds`` on the state's lab, live or recorded; return the key of what is chosen.

    The default strategy goes through the levels as `whet optimize` does. The others are given the whole space at once.
    All end with the same finals.
    """
    state.block_s = min(0.6, max(0.25, seconds / BLOCK_PART))
    state.strategy = make(name, Budget(0.0, 1.2, state.block_s + 0.08), state.request.seed)
    state.levels.clear()
    state.baselines, state.finals_from, state.chosen = [], None, None
    for level in LEGS if isinstance(state.strategy, Racing) else ("algorithm",):
        stages.level(state, level, state.clock.until(LEGS[level]))
    if finish:
        finals.hold(state)
    ranking = state.strategy.ranking()
    return state.chosen.key if state.chosen is not None else ranking[0].key if ranking else ""


def replayed(state: State, of: Table, name: str, seconds: float, seed: int) -> tuple[str, float, int]:
    """Search on a recorded sweep; return the chosen key, what it would have cost, and how many plans were measured."""
    lab = RecordedLab(of, seed)
    there = [plan for plan in state.space.plans if stages.case_of(state, plan).key in of.start_s]
    on = replace(
        state,
        lab=lab,
        clock=RecordedClock(lab, seconds),
        space=replace(state.space, plans=tuple(there)),
        request=replace(state.request, seed=seed, targets=replace(state.request.targets, p99_ms=None, p50_ms=None)),
        levels={},
        stage_of={},
        refused=[],
    )
    return search(on, name, seconds), lab.now(), len(lab.records)


def against(state: State, one: Plan, other: Plan) -> Interval | None:
    """Measure two plans in pairs until the interval of their ratio is narrow; None when it never is."""
    cases = [stages.case_of(state, plan) for plan in (one, other)]
    if cases[0].key == cases[1].key:
        return Interval(1.0, 1.0, 1.0)
    since = state.lab.next_block
    for _ in range(MOST_PAIRS):
        stages.measured_round(state, cases, 1)
        found = scores(state, [one, other], since)
        if found.shape[1] >= LEAST_PAIRS:
            ratio = paired_ratio(found[0].tolist(), found[1].tolist())
            if (ratio.high - ratio.low) / 2 <= HALF_WIDTH:
                return ratio
    return None


def scores(state: State, plans: Sequence[Plan], since: int) -> np.ndarray:
    """Scores of plans in the blocks all of them took part in, [plans, blocks], from block ``since`` on."""
    by_block: list[dict[int, float]] = []
    for plan in plans:
        record = state.record(stages.case_of(state, plan))
        by_block.append(
            {
                number: stages.score(state, plan, block)
                for number, block in zip(record.numbers, record.blocks, strict=True)
                if block is not None and number >= since
            }
        )
    both = sorted(set.intersection(*(set(of) for of in by_block)))
    return np.array([[of[number] for number in both] for of in by_block])


def together(state: State, plans: Sequence[Plan], blocks: int) -> np.ndarray:
    """Measure plans next to each other; return their scores, [plans, blocks kept]."""
    state.lab.most = max(state.lab.most, len(plans))
    since = state.lab.next_block
    stages.measured_round(state, [stages.case_of(state, plan) for plan in plans], blocks)
    return scores(state, plans, since)
