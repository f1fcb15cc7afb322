"""The search, level by level: rounds of trials asked for by the strategy, measured in the lab, told back."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from whet.engine.environment import ALLOCATORS, can_preload
from whet.errors import PlanRefused, WhetError
from whet.host import Host
from whet.optimize import classify
from whet.optimize.baselines import measure as measure_baselines
from whet.optimize.lab import Case, Record, capacity
from whet.optimize.lessons import proposed
from whet.optimize.recall import read_past
from whet.optimize.space import Level, Room, Variant, build, simplicity
from whet.optimize.state import State
from whet.optimize.strategy import Candidate, Told
from whet.optimize.trial_words import Measured
from whet.plan import Plan, Targets

ALGORITHM_SHARE = 0.62
"""Share of the whole budget that is spent when the search ends; what one level leaves over, the next may use."""
FINALS_SHARE = 0.2
"""Share of the budget that levels leave to the finals and the load, however late they are."""
LOAD_OF_FINALS = 0.4
"""Share of what is left after the search that restarts, the window and the open loop take."""
FINALISTS_ABOUT, OVERHEAD_S, SHORTEST_S = 4, 0.12, 0.15
"""Finalists and the twin that are no step of a level; seconds around a block; a block says nothing when shorter."""
STEPS: tuple[tuple[str, Level], ...] = (
    ("threads", "system"),
    ("system", "system"),
    ("batches", "application"),
    ("application", "application"),
    ("precision", "algorithm"),
    ("algorithm", "algorithm"),
)
"""Steps of the waterfall after what is run today: its own runtime with its threads set, the best runtime, batches,
preprocessing, precision, and the variants that were given."""
HINTED_BATCH = 8
"""Batch at which the hints are tried where batching pays: that of the baselines."""
MUST: dict[str, int] = {"system": 3, "application": 1, "algorithm": 4}
"""Seeds of a level that are measured even when the budget is short."""


def case_of(state: State, plan: Plan) -> Case:
    """Return the load a plan is searched under: one caller for latency, else what keeps every lane busy."""
    return load_of(state.request.targets, plan, plan.max_batch if state.request.service == "batch" else 1)


def load_of(targets: Targets, plan: Plan, rows: int = 1) -> Case:
    """Return the load that shows what a plan is worth under ``targets``, in requests of ``rows`` samples."""
    return Case(plan, callers=1) if targets.objective == "latency" else capacity(plan, rows)


def score(state: State, plan: Plan, measured: Measured) -> float:
    """Return how good a block was, higher is better; the search maximises this."""
    return worth(state.request.targets, state.host.budget.cores, case_of(state, plan), measured)


def worth(targets: Targets, cores: int, case: Case, measured: Measured) -> float:
    """Return how good a block of ``case`` was under ``targets`` on a budget of ``cores``, higher is better.

    Throughput; under a latency target less in proportion as the closed loop's latency is past it. That latency is
    Little's law, what is held over throughput: every lane computes a batch and has one waiting, so it is what a request
    takes that finds all lanes busy. A block's own 99th percentile is its worst one or two answers, the machine's doing
    more than the plan's; the tail is measured in an open loop, of the finalists. For ``latency`` the inverse of the
    median. For ``cores`` the share of the wanted rate that is carried, and from there on the inverse of the cores.
    """
    speed = measured.throughput_per_s
    if targets.objective == "latency":
        middle = float(np.median(measured.latencies_ms)) if measured.latencies_ms else math.inf
        return 1000.0 / middle if middle > 0 else 0.0
    speed *= min(1.0, speed / _enough_per_s(targets, case))
    if targets.objective == "cores" and targets.min_qps is not None:
        carried = min(1.0, speed / targets.min_qps)
        return carried * (cores / case.plan.compute_threads if carried >= 1.0 else 1.0)
    return speed


def enough_per_s(state: State, plan: Plan) -> float:
    """Return the throughput, samples/s, from which on the closed loop's latency meets the targets; tiny without one."""
    return _enough_per_s(state.request.targets, case_of(state, plan))


def _enough_per_s(targets: Targets, case: Case) -> float:
    target = min((ms for ms in (targets.p99_ms, targets.p50_ms) if ms is not None), default=math.inf)
    return max(1e-9, 1000.0 * case.callers * case.rows / target)


def baselines(state: State) -> None:
    """Measure the defaults, and learn from them how long blocks must be."""
    state.say("baselines")
    measure_baselines(state, state.block_s, lambda name: state.say("baselines", name))
    speeds = [
        state.record(one.best).kept[-1].throughput_per_s
        for one in state.baselines
        if one.best and state.record(one.best).kept
    ]
    if speeds:
        sample_s = 1.0 / max(speeds)
        # A block holds some thirty samples at least, or says little.
        state.block_s = min(max(state.block_s, 30 * sample_s), max(state.block_s, state.clock.budget_s / 40))
        build_space(state, sample_ms=1000.0 * sample_s)
    state.strategy.budget = type(state.strategy.budget)(0.0, state.strategy.budget.start_s, state.block_s + 0.08)
    room = state.bench_memory_mb()
    largest = max((record.ready.rss_mb for record in state.lab.records.values() if record.ready), default=0.0)
    if room is not None and largest:  # so many may stay resident, stopped, ready for the finals
        state.lab.most = max(4, min(24, int(0.5 * room / largest)))


def build_space(state: State, sample_ms: float | None = None) -> None:
    """Derive the legal plans from what is known by now."""
    known = sample_ms if sample_ms is not None else state.service.get("sample_ms")
    if known is not None:
        state.service["sample_ms"] = known
    room = room_of(state.host, state.request.service, known)
    state.space = build(state.variants, state.runtimes, room, state.request.targets)


def room_of(host: Host, service: str, sample_ms: float | None = None) -> Room:
    """Return what the host and the service leave to choose from."""
    return Room(
        cores=host.budget.cores,
        physical=host.budget.physical,
        nodes=host.nodes_needed(),
        allocators=("default", *(name for name in ALLOCATORS if can_preload(name))),
        intel_openmp=can_preload("libiomp5"),
        service=service,
        sample_ms=sample_ms,
    )


def level(state: State, name: Level, seconds: float) -> None:
    """Search one level, starting from the best of the level before; ``seconds`` is what it may spend."""
    plans = [plan for plan in state.space.at(name) if searchable(state, plan)]
    key_of = {plan.id: case_of(state, plan).key for plan in plans}
    candidates = [_candidate(state, plan) for plan in plans]
    taught = [plan.id for plan in proposed(state.lessons, name, state.space, plans)]
    seeds = [key_of[plan] for plan in (*taught, *_seeds(state, name, plans)) if plan in key_of]
    must = classify.order(state).must if name == "application" else MUST[name]
    state.strategy.extend(candidates, seconds, seeds, must=must + len(taught))
    for plan in plans:
        known(state, plan, name)
    plan_of = {key: record.case.plan for key, record in state.lab.records.items()}
    plan_of |= {key_of[plan.id]: plan for plan in plans}
    while (asked := state.strategy.ask()) is not None:
        cases = [case_of(state, plan_of[key]) for key in asked.keys]
        state.say(name, ", ".join(state.label(case.plan) for case in cases[-3:]))
        began = state.lab.now()
        records = measured_round(state, cases, asked.blocks)
        state.strategy.tell([told(state, record, asked.blocks) for record in records], state.lab.now() - began)
        for case in cases:
            state.stage_of.setdefault(case.key, name)
    for step, case in _steps(state, name):
        state.levels[step] = case


def _steps(state: State, name: Level) -> Iterator[tuple[str, Case]]:
    """Yield the best case of each step a level is made of, the whole level last."""
    cases = [state.lab.records[one.key].case for one in state.strategy.ranking()]
    given = {variant.artifact for variant in state.variants if _given(state, variant)}
    today = next((one.best.plan.runtime for one in state.baselines if one.best is not None), "")
    steps: dict[str, tuple[str, Callable[[Plan], bool]]] = {
        "system": ("threads", lambda plan: plan.runtime == today),
        "application": ("batches", lambda plan: not state.space.unfused(plan)),
        "algorithm": ("precision", lambda plan: plan.artifact not in given),
    }
    step, belongs = steps[name]
    best = next((case for case in cases if belongs(case.plan)), None)
    if best is not None:
        yield step, best
    if cases:
        yield name, cases[0]


def _given(state: State, variant: Variant) -> bool:
    """Tell whether a net is one of the variants the user gave, or was made of one."""
    return any(variant.label == one or variant.label.startswith(f"{one}+") for one in state.request.variants)


def seconds_for(state: State, name: Level) -> float:
    """Return what a level may spend: up to its share of the budget, and a tenth even when others ran late."""
    order = classify.order(state)
    reserve = FINALS_SHARE * state.clock.budget_s
    shares = {"system": order.system, "application": order.application, "algorithm": ALGORITHM_SHARE}
    left = max(0.0, state.clock.left_s - reserve)
    return min(max(state.clock.until(shares[name]), 0.1 * state.clock.budget_s), 0.8 * left)


def fit_finals(state: State, blocks: int) -> None:
    """Shorten blocks so that ``blocks`` rounds of the finals fit into what is left, down to :data:`SHORTEST_S`."""
    cases = len(state.levels) + sum(one.best is not None for one in state.baselines) + FINALISTS_ABOUT
    affordable = (1 - LOAD_OF_FINALS) * state.clock.left_s / (blocks * cases) - OVERHEAD_S
    state.block_s = min(state.block_s, max(SHORTEST_S, affordable))


def measured_round(state: State, cases: Sequence[Case], blocks: int) -> list[Record]:
    """Measure a round and hold the candidates to the limits that need no statistics."""
    records = list(state.lab.round(cases, blocks, state.block_s).values())
    for record in records:
        hold_to_limits(record, state.request.targets)
    return records


def hold_to_limits(record: Record, targets: Targets) -> None:
    """Refuse what takes more memory, or longer to load, than the targets allow; how far over it is stays on record."""
    if record.ready is None or record.failure:
        return
    rss = max((block.rss_mb for block in record.kept), default=record.ready.rss_mb)
    for took, most, said in (
        (rss, targets.max_rss_mb, f"takes {rss:.0f} MB, above --max-rss-mb"),
        (record.ready.load_ms, targets.max_load_ms, f"loads in {record.ready.load_ms:.0f} ms, above --max-load-ms"),
    ):
        if most is not None and took > most:
            record.failure, record.refused, record.over = f"{said} {most:g}", True, took / most
            return


def told(state: State, record: Record, blocks: int) -> Told:
    """Return what the strategy learns of a record's last round."""
    if record.failure:
        return Told(record.case.key, ())
    numbers = sorted(set(record.numbers))[-blocks:]
    found: dict[int, float | None] = dict.fromkeys(numbers)
    for number, block in zip(record.numbers, record.blocks, strict=True):
        if number in found and block is not None:
            found[number] = score(state, record.case.plan, block)
    return Told(record.case.key, tuple(found.values()))


def _candidate(state: State, plan: Plan) -> Candidate:
    """Return a plan as the strategy sees it; it is called as the case it is measured in."""
    throughput = state.request.targets.objective == "throughput"
    knee = math.log(enough_per_s(state, plan)) if throughput else -math.inf
    return Candidate(case_of(state, plan).key, state.space.features(plan), simplicity(plan), knee)


def searchable(state: State, plan: Plan) -> bool:
    """A window shows only where requests do not queue; precision must have passed the gate."""
    return not plan.batch_window_ms and (plan.artifact, plan.precision) in state.allowed


def _seeds(state: State, name: Level, plans: Sequence[Plan]) -> Iterable[str]:
    """Return the keys to begin a level with: what practitioners would try first."""
    plain = [plan for plan in plans if not plan.options and not plan.pinning and plan.isa_ceiling is None]
    plain = [plan for plan in plain if plan.openmp is None and not plan.batch_window_ms]
    plain = [plan for plan in plain if not state.space.unfused(plan) and plan.allocator == "default"]
    cores = max((plan.compute_threads for plan in plain), default=1)
    if name == "system" and state.request.targets.objective == "cores":  # every size once, the fewest cores first
        whole = [plan for plan in plain if plan.streams in {1, plan.compute_threads}]
        order = sorted(whole, key=lambda plan: (plan.runtime != "openvino", plan.compute_threads, -plan.streams))
        return [plan.id for plan in order]
    if name == "system":
        # What the runtimes' own defaults amount to is always among what is measured, OpenVINO's pins included: no
        # search may end below it.
        full = [plan for plan in plain if plan.compute_threads == cores and plan.streams in {1, cores}]
        pinned = [plan.with_(pinning=True) for plan in full if plan.runtime == "openvino" and plan.streams == cores]
        few = classify.latency_oriented(state) and state.service.get("bound") != "io"
        order = sorted(full, key=lambda plan: (plan.runtime != "openvino", plan.streams if few else -plan.streams))
        return [plan.id for plan in (*order[:2], *pinned, *order[2:])]
    before = next((state.levels[one] for one in ("application", "system") if one in state.levels), None)
    if before is None:
        return []
    base = before.plan
    if name == "application":
        by_batch = {plan.max_batch: plan for plan in plain if not plan.dynamic_batch}
        larger = [by_batch[batch] for batch in classify.order(state).batches if batch in by_batch]
        return [base.with_(batch_sizes=one.batch_sizes, queue_bound=one.queue_bound).id for one in larger]
    return [plan.id for plan in (*_compressed(state, plain, base), *_hinted(state, plain, base))]


def _hinted(state: State, plain: Sequence[Plan], base: Plan) -> list[Plan]:
    """Return what OpenVINO's own hints amount to where the net holds in bf16, the precision they choose.

    The levels before were searched in f32, whose best shape need not be bf16's: no search may end below the defaults.
    """
    cores, batch = state.host.budget.cores, HINTED_BATCH if base.max_batch > 1 else 1
    net = {artifact for artifact, variant in state.space.variants.items() if variant.parent}
    shapes = {(cores, 1), (1, cores)}
    ours = [one for one in plain if one.artifact in net and (one.runtime, one.precision) == ("openvino", "bf16")]
    found = [one for one in ours if (one.streams, one.threads) in shapes and one.max_batch == batch]
    return sorted((one for one in found if not one.dynamic_batch), key=lambda plan: -plan.streams)


def _compressed(state: State, plain: Sequence[Plan], base: Plan) -> list[Plan]:
    """Return, for everything that passed the gate, the plan like the best so far: what rounds most comes first."""
    found = []
    for plan in plain:
        able = state.space.variants[plan.artifact].runtimes
        runtime = base.runtime if not able or base.runtime in able else able[0]
        shape = (plan.runtime, plan.streams, plan.threads, plan.max_batch, plan.dynamic_batch)
        if shape == (runtime, base.streams, base.threads, base.max_batch, False):
            found.append(plan)
    made = [one.artifact for one in state.variants]
    return sorted(found, key=lambda plan: (plan.artifact == made[0], made.index(plan.artifact), plan.precision))


def resume(state: State) -> None:
    """Take up what an interrupted run of the same job had measured."""
    if not state.request.resume:
        return
    state.past = read_past(state.journal)
    state.strategy.ledger.block = state.lab.next_block = state.past.next_block


def known(state: State, plan: Plan, name: Level) -> None:
    """Tell the strategy what an interrupted run found of a plan that level ``name`` may choose."""
    case, ledger = case_of(state, plan), state.strategy.ledger
    record = Record(case)
    if not state.past.take(case, record):
        return
    state.lab.records[case.key] = record
    state.stage_of.setdefault(case.key, name)
    hold_to_limits(record, state.request.targets)
    if record.failure:
        ledger.failed.add(case.key)
        return
    pairs = zip(record.numbers, record.blocks, strict=True)
    scores = {number: score(state, plan, block) for number, block in pairs if block is not None}
    ledger.scores[case.key] = {number: math.log(value) for number, value in scores.items() if value > 0}


def nearest(state: State) -> Case | None:
    """Return the measured case that breaks a limit of the targets by least, where none holds them all."""
    searched = [record for key, record in state.lab.records.items() if key in state.stage_of]
    over = [record for record in searched if record.over and record.kept]
    return min(over, key=lambda record: record.over).case if over else None


def nothing_measured(state: State) -> WhetError:
    """Return the error that says why not one plan could be measured."""
    reasons = {record.failure for record in state.lab.records.values() if record.failure}
    said = "; ".join(sorted(reasons)[:3]) or "no plan is legal here"
    return PlanRefused(f"not one plan of {len(state.space.plans)} could be measured: {said}")
