"""The search, level by level: rounds of trials asked for by the strategy, measured in the lab, told back."""

import math
import time
from collections.abc import Iterable, Sequence

from whet.errors import PlanRefused, WhetError
from whet.optimize.baselines import measure as measure_baselines
from whet.optimize.lab import Case, Record, capacity
from whet.optimize.lessons import proposed
from whet.optimize.recall import read_past
from whet.optimize.search import Candidate, Told
from whet.optimize.space import Level, Room, build, simplicity
from whet.optimize.state import State
from whet.optimize.trial_words import Measured
from whet.plan import Plan, Targets

SHARES: dict[str, float] = {"system": 0.26, "application": 0.38, "algorithm": 0.7}
"""Share of the whole budget that is spent when a level ends; what one leaves over, the next may use."""

MUST: dict[str, int] = {"system": 3, "application": 1, "algorithm": 4}
"""Seeds of a level that are measured even when the budget is short."""
MEMORY_BOUND = 1.6
"""Batching that gains more than this means that weights, or the cost of a call, are the limit, not arithmetic."""


def case_of(state: State, plan: Plan) -> Case:
    """Return the load a plan is searched under: one caller for latency, else what keeps every lane busy."""
    if state.request.targets.objective == "latency":
        return Case(plan, callers=1)
    return capacity(plan, plan.max_batch if state.request.service == "batch" else 1)


def score(state: State, plan: Plan, measured: Measured) -> float:
    """Return how good a block was, higher is better; the search maximises this.

    Throughput; under a latency target less in proportion as the closed loop's tail is past it (a queue twice as long
    as the target leaves room for half the load, by Little's law). For ``latency`` the inverse of the median. For
    ``cores`` the share of the wanted rate that is carried, and from there on the inverse of the cores.
    """
    targets = state.request.targets
    tail = sorted(measured.latencies_ms)
    middle = tail[len(tail) // 2] if tail else float("inf")
    late = tail[min(len(tail) - 1, int(0.99 * len(tail)))] if tail else float("inf")
    if targets.objective == "latency":
        return 1000.0 / middle if middle > 0 else 0.0
    fits = min(1.0, targets.p99_ms / late) if targets.p99_ms is not None and late > 0 else 1.0
    fits *= min(1.0, targets.p50_ms / middle) if targets.p50_ms is not None and middle > 0 else 1.0
    speed = measured.throughput_per_s * fits
    if targets.objective == "cores" and targets.min_qps is not None:
        carried = min(1.0, speed / targets.min_qps)
        return carried * (state.host.budget.cores / plan.compute_threads if carried >= 1.0 else 1.0)
    return speed


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
    state.racing.budget = type(state.racing.budget)(0.0, state.racing.budget.start_s, state.block_s + 0.08)
    room = state.bench_memory_mb()
    largest = max((record.ready.rss_mb for record in state.lab.records.values() if record.ready), default=0.0)
    if room is not None and largest:  # so many may stay resident, stopped, ready for the finals
        state.lab.most = max(4, min(24, int(0.5 * room / largest)))


def build_space(state: State, sample_ms: float | None = None) -> None:
    """Derive the legal plans from what is known by now."""
    budget = state.host.budget
    known = sample_ms if sample_ms is not None else state.service.get("sample_ms")
    if known is not None:
        state.service["sample_ms"] = known
    room = Room(
        cores=budget.cores,
        physical=budget.physical,
        nodes=state.host.nodes_needed(),
        service=state.request.service,
        sample_ms=known,
    )
    state.space = build(state.variants, state.runtimes, room, state.request.targets)


def level(state: State, name: Level, seconds: float) -> None:
    """Search one level, starting from the best of the level before; ``seconds`` is what it may spend."""
    plans = [plan for plan in state.space.at(name) if _searchable(state, plan)]
    candidates = [Candidate(plan.id, state.space.features(plan), simplicity(plan)) for plan in plans]
    by_id = {plan.id: plan for plan in plans}
    taught = [plan.id for plan in proposed(state.lessons, name, state.space, plans)]
    seeds = [key for key in (*taught, *_seeds(state, name, plans)) if key in by_id]
    state.racing.extend(candidates, seconds, seeds, must=MUST[name] + len(taught))
    for plan in plans:
        known(state, plan)
    plan_of = {**{key: record.case.plan for key, record in state.lab.records.items()}, **by_id}
    while (asked := state.racing.ask()) is not None:
        cases = [case_of(state, plan_of[key]) for key in asked.keys]
        state.say(name, ", ".join(state.label(case.plan) for case in cases[-3:]))
        began = time.monotonic()
        records = measured_round(state, cases, asked.blocks)
        state.racing.tell([told(state, record, asked.blocks) for record in records], time.monotonic() - began)
        for case in cases:
            state.stage_of.setdefault(case.key, name)
    ranking = state.racing.ranking()
    if ranking:
        state.levels[name] = state.lab.records[ranking[0].key].case


def seconds_for(state: State, name: Level) -> float:
    """Return what a level may spend: up to its share of the budget, and a tenth even when others ran late."""
    return min(max(state.clock.until(SHARES[name]), 0.1 * state.clock.budget_s), 0.8 * state.clock.left_s)


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


def _searchable(state: State, plan: Plan) -> bool:
    """A window shows only where requests do not queue; precision must have passed the gate."""
    return not plan.batch_window_ms and (plan.artifact, plan.precision) in state.allowed


def _seeds(state: State, name: Level, plans: Sequence[Plan]) -> Iterable[str]:
    """Return the keys to begin a level with: what practitioners would try first."""
    plain = [plan for plan in plans if not plan.options and not plan.pinning and plan.isa_ceiling is None]
    plain = [plan for plan in plain if plan.fused_preprocessing and plan.allocator == "default"]
    cores = max((plan.compute_threads for plan in plain), default=1)
    if name == "system":
        # What the runtimes' own defaults amount to is always among what is measured, OpenVINO's pins included: no
        # search may end below it.
        full = [plan for plan in plain if plan.compute_threads == cores and plan.streams in {1, cores}]
        pinned = [plan.with_(pinning=True) for plan in full if plan.runtime == "openvino" and plan.streams == cores]
        order = sorted(full, key=lambda plan: (plan.runtime != "openvino", -plan.streams))
        return [plan.id for plan in (*order[:2], *pinned, *order[2:])]
    before = next((state.levels[one] for one in ("application", "system") if one in state.levels), None)
    if before is None:
        return []
    base = before.plan
    if name == "application":
        larger = [
            base.with_(batch_sizes=plan.batch_sizes, queue_bound=plan.queue_bound)
            for plan in plain
            if plan.max_batch == 8
        ]
        return [plan.id for plan in larger[:1]]
    return [plan.id for plan in _compressed(state, plain, base)]


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


def classify(state: State) -> None:
    """Say what the service is bound by, from how it scaled over threads, streams and batch so far."""
    speeds = {one.key: one.score for one in state.racing.ranking()}
    plans = {key: state.lab.records[key].case.plan for key in speeds}
    floats = {
        key: plan for key, plan in plans.items() if (plan.artifact, plan.precision) == (state.artifact.sha256, "f32")
    }
    best_of = {
        batch: max((speeds[key] for key, plan in floats.items() if (plan.max_batch > 1) == batch), default=None)
        for batch in (False, True)
    }
    single, batched = best_of[False], best_of[True]
    gain = None if single is None or batched is None else math.exp(batched - single)
    latency = state.request.targets.objective == "latency" or state.request.service == "stream"
    if gain is None:
        bound, words = "unknown", "batches were not measured: whether weights or arithmetic limit it is unknown"
    elif gain > MEMORY_BOUND:
        bound, words = _why_batching_pays(state, gain)
    else:
        bound, words = "compute", f"batching gains {100 * (gain - 1):+.0f} %: arithmetic limits it"
    state.service |= {
        "kind": "latency-oriented" if latency else "throughput-oriented",
        "bound": bound,
        "batching_gain": gain,
        "words": words,
    }
    state.journal.add("service", dict(state.service))


def _why_batching_pays(state: State, gain: float) -> tuple[str, str]:
    """Tell weights that are read anew for every sample from calls that cost more than what they compute."""
    size = sum(path.stat().st_size for path in state.artifact.folder.iterdir() if path.is_file())
    cache = state.host.fingerprint_fields.get("l3_bytes")
    said = f"batching gains {100 * (gain - 1):.0f} %"
    if isinstance(cache, int) and size > cache / 2:
        return (
            "memory",
            f"{said} and the weights ({size / 1e6:.0f} MB) do not stay in the cache: reading them limits it",
        )
    return "queue", f"{said} though the weights ({size / 1e6:.1f} MB) stay in the cache: the cost of a call limits it"


def resume(state: State) -> None:
    """Take up what an interrupted run of the same job had measured."""
    if not state.request.resume:
        return
    state.past = read_past(state.journal)
    state.racing.ledger.block = state.lab.next_block = state.past.next_block


def known(state: State, plan: Plan) -> None:
    """Tell the strategy what an interrupted run found of a plan."""
    case, ledger = case_of(state, plan), state.racing.ledger
    record = Record(case)
    if not state.past.take(case, record):
        return
    state.lab.records[case.key] = record
    hold_to_limits(record, state.request.targets)
    if record.failure:
        ledger.failed.add(plan.id)
        return
    pairs = zip(record.numbers, record.blocks, strict=True)
    scores = {number: score(state, plan, block) for number, block in pairs if block is not None}
    ledger.scores[plan.id] = {number: math.log(value) for number, value in scores.items() if value > 0}


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
