"""The evidence document: what was measured, as plain values. Pure; nothing is rounded up, missing is null."""

from collections import Counter
from typing import Any

from whet.optimize import provenance
from whet.optimize.accuracy import Verdict
from whet.optimize.advice import advice
from whet.optimize.finals import compare
from whet.optimize.lab import Case, Record, paired
from whet.optimize.profile import uncompressed
from whet.optimize.roofs import Reached, layer_rows, roofline
from whet.optimize.space import Level
from whet.optimize.stages import STEPS
from whet.optimize.state import Baseline, State
from whet.optimize.values import ends, interval, plain
from whet.plan import Plan
from whet.stats import Samples, paired_ratio

SCHEMA = 1


def document(state: State) -> dict[str, Any]:
    """Return the evidence of a search as the report reads it."""
    return {
        "schema": SCHEMA,
        "model": provenance.model(state),
        "host": provenance.host(state),
        "versions": provenance.versions(state),
        "targets": plain(state.request.targets),
        "data": provenance.data(state),
        "service": dict(state.service),
        "baselines": [_baseline(state, one) for one in state.baselines],
        "trials": [_trial(state, record) for record in _searched(state)],
        "chosen": _chosen(state),
        "accuracy": [plain(one) for one in state.verdicts.values()],
        "gate": [plain(one) for one in state.rungs],
        "ablation": _ablation(state),
        "pareto": _pareto(state),
        "layers": layer_rows(state.profile),
        "roofline": roofline(state.profile, _reached(state)),
        "refused": _refused(state),
        "advice": advice(state),
        "noise": _noise(state),
        "served": state.served,
        "seed": state.request.seed,
        "budget_s": state.request.budget_s,
        "wall_s": round(state.clock.spent_s, 3),
        "started": state.started,
    }


def measurement(state: State, record: Record, *, since: int | None = None) -> dict[str, Any]:
    """Return what was measured of one case; from block ``since`` on where that is given."""
    pairs = zip(record.numbers, record.blocks, strict=True)
    blocks = [block for number, block in pairs if block is not None and (since is None or number >= since)]
    speeds = [block.throughput_per_s for block in blocks]
    latency = Samples([value for block in blocks for value in block.latencies_ms], "ms")
    return {
        "throughput_per_s": interval(speeds, state.request.seed),
        "latency_ms": {
            **{f"p{q}": ends(latency.estimate(q)) for q in (50, 90, 99)},
            "count": len(latency),
            "histogram": latency.histogram(30),
        },
        "callers": record.case.callers,
        "rows": record.case.rows,
        "rss_mb": max((block.rss_mb for block in blocks), default=record.ready.rss_mb if record.ready else None),
        "load_ms": record.ready.load_ms if record.ready else None,
        "cpu_s": sum(block.cpu_s for block in blocks) if blocks else None,
        "effective": plain(record.ready.effective) if record.ready else None,
        "blocks": len(blocks),
        "discarded": record.discarded,
        "samples_per_s_blocks": speeds,
        "counters": _counters(record),
    }


def _counters(record: Record) -> dict[str, Any]:
    kept = [count for count, block in zip(record.counters, record.blocks, strict=True) if block is not None]
    if not kept:
        return {}
    worst = {
        name: max((value for one in kept if (value := getattr(one, name)) is not None), default=None)
        for name in ("steal", "others", "pressure", "load1")
    }
    return {
        **{f"{name}_max": value for name, value in worst.items()},
        "throttled_ms": sum(o.throttled_ms for o in kept),
    }


def _searched(state: State) -> list[Record]:
    """Return the records of the search itself, baselines left out."""
    own = {case.key for baseline in state.baselines for case in baseline.tried}
    own |= {Case(plan, c, r).key for one in state.baselines for plan in one.plans for c in (1, 2) for r in (1, 8)}
    return [record for key, record in state.lab.records.items() if key not in own and not record.case.twin]


def _trial(state: State, record: Record) -> dict[str, Any]:
    plan = record.case.plan
    ratio = None
    if state.chosen is not None and record.case.key != state.chosen.key:
        one, two = paired(record, state.record(state.chosen))
        ratio = paired_ratio(one, two, seed=state.request.seed) if len(one) >= 2 else None
    return {
        "plan": plain(plan),
        "plan_id": plan.id,
        "artifact": plan.artifact,
        "label": state.label(plan),
        "stage": state.stage_of.get(record.case.key, "finals"),
        "status": "refused" if record.refused else "ok" if record.kept and not record.failure else "failed",
        "reason": record.failure or (None if record.kept else "every block was disturbed by others on the machine"),
        "ratio_to_incumbent": ends(ratio),
        "accuracy": plain(_verdict(state, plan)),
        **measurement(state, record),
    }


def _verdict(state: State, plan: Plan) -> Verdict | None:
    return state.verdicts.get((plan.artifact, plan.precision))


def _baseline(state: State, baseline: Baseline) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": baseline.name,
        "what": baseline.what,
        "handicaps": list(baseline.handicaps),
        "reason": baseline.reason or None,
        "batch": None,
        "callers": None,
        "trial": None,
        "tried": [],
    }
    if baseline.best is None:
        return found
    record = state.record(baseline.best)
    found |= {"batch": baseline.best.rows, "callers": baseline.best.callers}
    found["trial"] = measurement(state, record, since=_since(state, record))
    found["tried"] = [
        {"batch": case.rows, "callers": case.callers, "throughput_per_s": _first(state.record(case))}
        for case in baseline.tried
    ]
    return found


def _first(record: Record) -> float | None:
    return record.kept[0].throughput_per_s if record.kept else None


def _since(state: State, record: Record) -> int | None:
    """Return where the finals begin when the record took part in them: only then it was measured beside the others."""
    since = state.finals_from
    return since if since is not None and any(number >= since for number in record.numbers) else None


def _chosen(state: State) -> dict[str, Any] | None:
    case = state.chosen
    if case is None:
        return None
    over = {}
    for baseline in state.baselines:
        if baseline.best is not None:
            over[baseline.name] = ends(compare(state, case, baseline.best))
    record = state.record(case)
    return {
        "plan": plain(case.plan),
        "plan_id": case.plan.id,
        "label": state.label(case.plan),
        "words": str(case.plan),
        "trial": measurement(state, record, since=_since(state, record)),
        "speedup": {"over": over},
        "accuracy": plain(_verdict(state, case.plan)),
        "load": _load(state, case.plan),
    }


def _load(state: State, plan: Plan) -> dict[str, Any] | None:
    found = state.rates.get(plan.id)
    if found is None:
        return None
    return {
        "arrivals": "poisson",
        "highest_qps": found.get("highest_qps"),
        "promising_qps": found.get("promising_qps"),
        "words": found.get("words"),
        "runs": [run.to_json() for run in found["runs"]],
    }


def _ablation(state: State) -> list[dict[str, Any]]:
    """Return the bars from what you run today to what is served, each measured beside the others at the end."""
    measured = [one for one in state.baselines if one.best is not None]
    if state.chosen is None or state.finals_from is None:
        return []
    today = next((one for one in measured if not one.name.startswith("OpenVINO")), measured[0] if measured else None)
    steps: list[tuple[str, Level, Case]] = []
    if today is not None and today.best is not None:
        load = f"batch {today.best.rows}, callers {today.best.callers}"
        steps.append((f"today: {today.name} ({load})", "system", today.best))
    levels = ((name, state.levels[step]) for step, name in STEPS[:-1] if step in state.levels)
    steps.extend((state.label(case.plan), name, case) for name, case in levels)
    steps.append((state.label(state.chosen.plan), "algorithm", state.chosen))
    rows: list[dict[str, Any]] = []
    before: Case | None = None
    for words, name, case in steps:
        if before is not None and before.key == case.key:
            continue
        record = state.record(case)
        speed = measurement(state, record, since=state.finals_from)["throughput_per_s"]
        gain = compare(state, case, before) if before is not None else None
        rows.append(
            {"step": words, "level": name, "plan_id": case.plan.id, "throughput_per_s": speed, "gain": ends(gain)}
        )
        before = case
    return rows


def _pareto(state: State) -> list[dict[str, Any]]:
    rows = []
    parent = next((one.parent for one in state.verdicts.values()), None)
    for record in _searched(state):
        if record.failure or not record.kept:
            continue
        plan, found = record.case.plan, measurement(state, record)
        verdict = _verdict(state, plan)
        exact = plan.artifact == state.artifact.sha256 and plan.precision == "f32"
        rows.append(
            {
                "label": state.label(plan),
                "plan_id": plan.id,
                "throughput_per_s": found["throughput_per_s"]["value"],
                "latency_p99_ms": found["latency_ms"]["p99"],
                "latency_p50_ms": found["latency_ms"]["p50"],
                "accuracy": verdict.value if verdict is not None else parent if exact else None,
                "chosen": state.chosen is not None and record.case.key == state.chosen.key,
            }
        )
    return rows


def _reached(state: State) -> list[Reached]:
    """Return the chosen plan and, where it was measured, the same plan over the f32 parent."""
    if state.chosen is None or state.profile is None:
        return []
    plan = state.chosen.plan
    found = [(plan, state.chosen, state.profile.layers)]
    parent = uncompressed(state, plan)
    measured = (record.case for record in state.lab.records.values() if record.case.plan == parent and record.kept)
    found += [(parent, case, state.profile.parent) for case in list(measured)[:1] if parent != plan]
    rows = []
    for one, case, layers in found:
        record = state.record(case)
        speed = measurement(state, record, since=_since(state, record))["throughput_per_s"]
        if speed is not None:
            rows.append(Reached(state.label(one), one.artifact, speed["value"], one.max_batch, layers))
    return rows


def _refused(state: State) -> list[dict[str, Any]]:
    counted: Counter[tuple[str, str]] = Counter()
    for one in (*state.refused, *state.space.refused):
        counted[one.what, one.reason] += one.count
    return [{"what": what, "reason": reason, "count": count} for (what, reason), count in counted.items()]


def _noise(state: State) -> dict[str, Any]:
    judge, lab = state.lab.judge, state.lab
    return {
        "floor": ends(state.noise_floor),
        "discarded_share": judge.discarded_share,
        "discarded": judge.discarded,
        "kept": judge.kept,
        "forced": judge.forced,
        "words": judge.words,
        "measuring_cpu_share": lab.measuring_cpu_s / lab.measuring_wall_s if lab.measuring_wall_s else None,
    }
