"""The program in one function: import, baselines, system, application, algorithm, finals, choose, bundle.

Levels are searched in the order practitioners work in (system, then application, then algorithm), so that the report
can say what each was worth. The time budget covers all of it; every phase may spend what those before left over.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from whet.errors import OutputError
from whet.host import read_host
from whet.models.bundle import Bundle, PlanRecord, refuse_strangers
from whet.models.hosts import Share, model_key, put
from whet.models.swap import alone
from whet.optimize import (
    baselines,
    capacity,
    classify,
    climb,
    curves,
    evidence,
    finals,
    lessons,
    profile,
    reference,
    served,
    stages,
    windows,
)
from whet.optimize.journal import Journal
from whet.optimize.lab import Case
from whet.optimize.prepare import prepare
from whet.optimize.request import OptimizeRequest, Outcome, Progress, silent
from whet.optimize.state import Clock, State
from whet.optimize.values import ends, plain
from whet.stats import Interval

DONE, NOT_MET, INTERRUPTED = 0, 1, 130


def optimize(request: OptimizeRequest, progress: Progress = silent) -> Outcome:
    """Search the best plan for a model on this host, prove it, and write the bundle.

    Interrupted (KeyboardInterrupt), it keeps the best so far and says so in the outcome. When no plan reaches the
    targets, the nearest is written all the same, marked, with exit code 1.

    Args:
        request: the job.
        progress: told where the search stands, often.

    Raises:
        UsageError: the request contradicts itself.
        InputError: the model or the data cannot be used.
        EnvironmentLacks: a runtime or space is missing.
        PlanRefused: not one plan could be measured.
    """
    clock = Clock(request.budget_s)
    request.check()
    with _workplace(request) as work:
        state = prepare(request, work, progress, clock)
        try:
            interrupted = False
            try:
                search(state)
            except KeyboardInterrupt:
                interrupted = True
            state.lab.close()
            return conclude(state, interrupted=interrupted)
        finally:
            state.lab.close()
            state.journal.close()


def search(state: State) -> None:
    """Fill the state with measurements, from the baselines to the plan that is chosen."""
    stages.resume(state)
    state.baselines = baselines.define(state)
    stages.baselines(state)
    classify.first(state)
    for level in ("system", "application"):
        stages.level(state, level, stages.seconds_for(state, level))
    classify.confirm(state)
    climb.climb(state)
    stages.level(state, "algorithm", stages.seconds_for(state, "algorithm"))
    windows.propose(state)
    stages.fit_finals(state, finals.LEAST_BLOCKS)
    finals.hold(state)
    windows.settle(state)
    capacity.measure(state)
    later_s = served.reserve_s(state.clock.budget_s)
    state.reference = reference.refer(state, later_s)
    curves.measure(state, later_s)
    served.measure(state)
    profile.profile(state)


def conclude(state: State, *, interrupted: bool) -> Outcome:
    """Choose what can be chosen, write the bundle and its evidence, and say how it ended."""
    if state.chosen is None:
        state.chosen = finals.best_so_far(state) or stages.nearest(state)
    if state.chosen is None:
        if interrupted:
            return Outcome(None, evidence.document(state), INTERRUPTED, "interrupted before anything could be measured")
        raise stages.nothing_measured(state)
    state.noise_floor = _noise_floor(state)
    missed = [] if interrupted else finals.missed(state)
    document = evidence.document(state)
    document["targets_met"] = None if interrupted else not missed
    document["missed"] = missed
    lessons.learn(state)
    if not interrupted:
        state.journal.add("end", {"chosen": state.chosen.plan.id, "targets_met": document["targets_met"]})
    bundle, there = _write(state, document)
    said = verdict(document) + lost(state.journal) + (f"; {there}" if there else "")
    if interrupted:
        return Outcome(bundle, document, INTERRUPTED, f"interrupted; the best so far is kept: {said}")
    if missed:
        words = f"targets not met: {'; '.join(missed)}. The nearest plan is in {state.request.out}: {said}"
        return Outcome(bundle, document, NOT_MET, words)
    return Outcome(bundle, document, DONE, said)


def noise_words(document: dict[str, Any]) -> str:
    """Return how quiet the machine was: the best plan against its twin, and the share of blocks discarded."""
    noise = document["noise"]
    floor = noise["floor"]
    twin = "not measured" if floor is None else f"{floor['value']:.3f}x [{floor['low']:.3f}, {floor['high']:.3f}]"
    said = [
        f"noise: the best plan against its twin {twin}",
        f"{100 * noise['discarded_share']:.0f} % of blocks discarded",
    ]
    return "; ".join(said + ([noise["words"]] if noise["words"] else []))


def lost(journal: Journal) -> str:
    """Return what to say of events that a full disk did not take, or the empty string."""
    return f"; {journal.lost} events are missing from the journal, the disk was full" if journal.lost else ""


def verdict(document: dict[str, object]) -> str:
    """Return the result in one sentence."""
    chosen = document["chosen"]
    assert isinstance(chosen, dict)
    speed = chosen["trial"]["throughput_per_s"]
    words = f"{chosen['label']}: {speed['value']:.0f}/s" if speed else str(chosen["label"])
    words += over_http(document)
    ratios = {name: one for name, one in chosen["speedup"]["over"].items() if one is not None}
    said = [f"{one['value']:.2f}x [{one['low']:.2f}, {one['high']:.2f}] {name}" for name, one in ratios.items()]
    return f"{words}; {', '.join(said)}" if said else words


def over_http(document: dict[str, object]) -> str:
    """Return what the chosen plan does behind HTTP, in words that go on from its speed; empty where not measured."""
    found = document.get("served")
    if not isinstance(found, dict) or not found.get("http"):
        return ""
    said = f", {found['http']['throughput_per_s']['value']:.0f}/s over HTTP"
    if found.get("highest_qps"):
        return f"{said}, where {found['highest_qps']:.0f}/s at random hold the latency target"
    return f"{said} ({found['words']} with the latency target)" if found.get("words") else said


def _noise_floor(state: State) -> Interval | None:
    """Return the ratio of the incumbent to its twin in the finals: what no difference at all looks like here."""
    twin = next((record.case for record in state.lab.records.values() if record.case.twin), None)
    return finals.compare(state, replace(twin, twin=False), twin) if twin is not None else None


def _write(state: State, document: dict[str, Any]) -> tuple[Bundle, str]:
    """Put what was found into the bundle; return it, and what became of what lay there."""
    request, case = state.request, state.chosen
    assert case is not None
    folder = state.work / "evidence"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(plain(document)), indent=1))
    except OSError as error:
        raise OutputError(
            f"cannot write evidence to {folder}: {error.strerror}; free space or choose another -o"
        ) from error
    state.journal.export(folder / "journal.jsonl")
    name = request.name or request.model.stem or "model"
    here, records = state.machine.fingerprint, _records(state, case, document)
    share = Share(name, model_key(state.artifact), here, records, state.lab.artifacts, request.targets, evidence=folder)
    return put(request.out, share)


def _records(state: State, case: Case, document: dict[str, Any]) -> tuple[PlanRecord, ...]:
    """Return the chosen plan's record and, where it was measured, the plain f32 plan's."""
    host = {"fingerprint": state.machine.fingerprint, **state.machine.fingerprint_fields}
    measured = {
        **_figures(document["chosen"]["trial"]),
        "accuracy": document["chosen"]["accuracy"],
        "highest_qps": finals.highest_qps(state),
        "targets_met": document["targets_met"],
    }
    known = state.reference
    if known is None or known.case.plan == case.plan:
        return (PlanRecord(case.plan, host, plain(measured)),)
    over = ends(known.ratio)
    measured["over_f32"] = {"plan": known.case.plan.id, **over} if over is not None else None
    measured["answers"] = known.answers
    figures = _figures(evidence.measurement(state, state.record(known.case), since=known.since))
    return (
        PlanRecord(case.plan, host, plain(measured)),
        PlanRecord(known.case.plan, host, plain(figures), "reference"),
    )


def _figures(trial: dict[str, Any]) -> dict[str, Any]:
    return {
        "throughput_per_s": trial["throughput_per_s"],
        "latency_ms": {name: trial["latency_ms"][name] for name in ("p50", "p90", "p99", "count")},
        "rss_mb": trial["rss_mb"],
        "load_ms": trial["load_ms"],
    }


@contextmanager
def _workplace(request: OptimizeRequest) -> Iterator[Path]:
    """Yield this host's work folder beside the bundle: kept when the process is killed, for ``resume``; else removed.

    Searches of several hosts may share the bundle's folder; of one host, one at a time.
    """
    out = request.out
    refuse_strangers(out)
    work = out.parent / f".{out.name}.whet-work-{read_host().fingerprint}"
    busy = f"another `whet optimize` on this host writes {out}; wait until it has ended, or choose another -o"
    with alone(work.with_name(f"{work.name}.lock"), busy):
        try:
            if work.exists() and not request.resume:
                shutil.rmtree(work)
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write beside {out}: {error.strerror}; choose another -o") from error
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
