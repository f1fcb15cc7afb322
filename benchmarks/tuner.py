"""The tuner against an exhaustive sweep, random search and Optuna's TPE.

Parts, each on its own and resumable: everything measured is appended to a record under ``--work``, one folder a net and
space, and a part that finds its figures there measures nothing again.

    sweep    every plan that a closed loop can tell apart, 3 blocks of 1 s each, next to the best so far
    replay   the strategies on the recorded sweep, over 20 seeds, with a tenth of the sweep's time
    live     searches by the default strategy on the machine, and their regret against the best of the sweep's top five
    repeat   what five searches chose, measured together
    served   the bundle of a p99 target, served over HTTP at 90 % of its latency-bounded capacity
    wall     a whole `whet optimize` with the default budget

    .venv/bin/python benchmarks/tuner.py [--part NAME ...] [--only NET ...] [--seconds N] [--quick] [--json FILE]

The nets have random weights: throughput does not depend on them, but accuracy means nothing, so every precision is
admitted. A sweep belongs to a space, named by the hash of its plans' ids; when the space changes, a new sweep begins.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from harness import ROOT, Benchmark, Row, benchmark
from tuner_lab import Service, against, by_key, opened, replayed, search, searchable, space_hash, sweep, together
from tuner_record import Log, Table, table
from tuner_served import served, wall
from whet.optimize.state import Clock, State
from whet.plan import Targets
from whet.stats import Interval, bootstrap

SERVICES = (
    Service("lstm", Targets(max_cores=1, p99_ms=4.5), sample_ms=2.4),
    Service("mobilenetv2", Targets(max_cores=1, p99_ms=16.0), sample_ms=9.0),
    Service("bert-base", Targets(max_cores=1, p99_ms=300.0), sample_ms=160.0),
    Service("resnet50", Targets(max_cores=1, p99_ms=60.0), sample_ms=35.0),
)
"""Bounded so that a sweep takes minutes, not hours: to one core, and to batches that a latency allows."""
SERVED = {"mobilenetv2": 30.0}
WALL = ("mobilenetv2",)
SHARE = 0.09
"""Share of the sweep's time that a search is given: it may overrun a little and stay below a tenth."""
SEEDS, LIVE, SEARCHES = 20, 3, 5
TOP, TOGETHER = 5, 15
RIVALS = ("tpe", "random")
PARTS = ("sweep", "replay", "live", "repeat", "served", "wall")


def show_space(state: State, service: Service) -> None:
    plans = searchable(state)
    print(f"{service.net}: {len(state.space.plans)} legal plans ({service.words}); a closed loop can tell")
    print(f"    {len(plans)} of them apart; space {space_hash(state)}")
    for refusal in state.space.refused:
        print(f"    refused {refusal.count:>4} x {refusal.what}: {refusal.reason}")


def do_sweep(bench: Benchmark, service: Service, state: State, log: Log) -> None:
    complete = sweep(state, log, 10.0 if bench.quick else bench.given.seconds)
    made = table(log.of("round"))
    bench.add(Row(service.net, "legal plans", len(state.space.plans), None, None, "", 100))
    done = len(made.effect) + len(made.failed)
    bench.add(Row(service.net, "swept" if complete else "swept so far", done, None, None, "plans"))
    bench.add(Row(service.net, "failed plans", len(made.failed), None, None, "plans"))
    bench.add(Row(service.net, "sweep, wall time", made.seconds, None, None, "s"))
    bench.add(Row(service.net, "noise of a block", 100 * made.noise, None, None, "%"))


def do_replay(bench: Benchmark, service: Service, state: State, made: Table) -> None:
    """Every strategy over the same seeds, with the same time, on the same recorded sweep."""
    seeds, budget = range(4 if bench.quick else SEEDS), SHARE * made.seconds
    regrets: dict[str, list[float]] = {}
    for name in ("racing", *RIVALS):
        runs = [replayed(state, made, name, budget, seed) for seed in seeds]
        regrets[name] = [100 * made.regret(key) for key, _, _ in runs]
        low, high = np.quantile(regrets[name], (0.025, 0.975))
        own, reach = name == "racing", (3.0, 8.0) if name == "racing" else (None, None)
        case = f"{service.net} replay, {name}"
        bench.add(Row(case, "regret, median", statistics.median(regrets[name]), low, high, "%", reach[0], higher=False))
        bench.add(Row(case, "regret, worst", max(regrets[name]), None, None, "%", reach[1], higher=False))
        share = 100 * statistics.median(cost for _, cost, _ in runs) / made.seconds
        bench.add(Row(case, "wall time of the sweep's", share, None, None, "%", 10.0 if own else None, higher=False))
        bench.add(Row(case, "plans measured", statistics.median(count for _, _, count in runs), None, None, ""))
    for name in RIVALS:
        worse = np.array(regrets["racing"]) - np.array(regrets[name])
        mean = bootstrap(worse, np.mean)
        case = f"{service.net} replay, racing - {name}"
        bench.add(Row(case, "mean regret, low bound", mean.low, mean.low, mean.high, "points", 0.0, higher=False))
        middle = statistics.median(regrets["racing"]) - statistics.median(regrets[name])
        bench.add(Row(case, "median regret", middle, None, None, "points", 0.0, higher=False))


def do_live(bench: Benchmark, service: Service, state: State, log: Log, made: Table) -> None:
    """Regret against the best of the sweep's top five, found and measured again, in pairs."""
    plans = by_key(state)
    if not log.of("best"):
        top = made.best[:TOP]
        measured = together(state, [plans[key] for key in top], TOGETHER)
        log.add(kind="best", key=top[int(np.median(measured, axis=1).argmax())], top=top)
    best = log.of("best")[0]["key"]
    known = {event["key"]: event["ratio"] for event in log.of("pairs")}
    for run in log.of("live"):
        if run["key"] not in known:
            ratio = against(state, plans[run["key"]], plans[best])
            known[run["key"]] = None if ratio is None else [ratio.value, ratio.low, ratio.high]
            log.add(kind="pairs", key=run["key"], ratio=known[run["key"]])
    found = [known[run["key"]] for run in log.of("live")[:LIVE]]
    for run, ratio in zip(log.of("live"), found, strict=False):
        case = f"{service.net} live, seed {run['seed']}"
        share = 100 * run["wall_s"] / made.seconds
        bench.add(Row(case, "wall time of the sweep's", share, None, None, "%", 10.0, higher=False))
        if ratio is None:
            print(f"{case}: regret not resolvable: the interval stayed wider than +-1.5 % over 60 pairs")
        else:
            low, high = 100 * (1 - ratio[2]), 100 * (1 - ratio[1])
            bench.add(Row(case, "regret", 100 * (1 - ratio[0]), low, high, "%", 8.0, higher=False))
    if resolved := [100 * (1 - ratio[0]) for ratio in found if ratio is not None]:
        row = Row(
            f"{service.net} live", "regret, median", statistics.median(resolved), None, None, "%", 3.0, higher=False
        )
        bench.add(row)


def do_repeat(bench: Benchmark, service: Service, state: State, log: Log) -> None:
    """The capacity of what five searches chose, measured together: the slowest against the fastest."""
    chosen = list(dict.fromkeys(run["key"] for run in log.of("live")[:SEARCHES]))
    known = next((event for event in log.of("repeat") if event["keys"] == chosen), None)
    if len(chosen) > 1 and known is None:
        plans = by_key(state)
        known = {"keys": chosen, "scores": together(state, [plans[key] for key in chosen], TOGETHER).tolist()}
        log.add(kind="repeat", **known)
    apart = _apart(np.array(known["scores"])) if known else Interval(0.0, 0.0, 0.0)  # one plan is itself
    case = f"{service.net}, {len(log.of('live')[:SEARCHES])} searches chose {len(chosen)} plan(s)"
    bench.add(Row(case, "capacities apart", apart.value, apart.low, apart.high, "%", 5.0, higher=False))


def _apart(measured: np.ndarray) -> Interval:
    """How far the slowest plan is below the fastest, in per cent, resampled over blocks; [plans, blocks]."""

    def of(blocks: np.ndarray) -> float:
        middle = np.median(measured[:, blocks], axis=1)
        return float(100 * (1 - middle.min() / middle.max()))

    rng, count = np.random.default_rng(0), measured.shape[1]
    drawn = [of(rng.integers(0, count, count)) for _ in range(1000)]
    return Interval(of(np.arange(count)), float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975)))


def on_the_space(bench: Benchmark, service: Service, parts: set[str]) -> None:
    work = bench.given.work / service.net
    with opened(service, work) as state:
        show_space(state, service)
        log = Log(work / f"{space_hash(state)}.jsonl")
        if "sweep" in parts:
            do_sweep(bench, service, state, log)
        made = table(log.of("round"))
        left = len(searchable(state)) - len(made.effect) - len(made.failed)
        if left > 0:
            print(f"{service.net}: {left} plans are not swept yet; what follows is of the others, and searches wait")
            parts = parts - {"live", "repeat"}
        if len(made.effect) < TOP:
            return
        if "replay" in parts:
            do_replay(bench, service, state, made)
        if parts & {"live", "repeat"}:
            live(bench, service, log, made, SEARCHES if "repeat" in parts else LIVE)
        if "live" in parts:
            do_live(bench, service, state, log, made)
        if "repeat" in parts:
            do_repeat(bench, service, state, log)


def live(bench: Benchmark, service: Service, log: Log, made: Table, wanted: int) -> None:
    """Search on the machine with the default strategy; searches on record are not made again."""
    budget = SHARE * made.seconds
    for seed in range(len(log.of("live")), 1 if bench.quick else wanted):
        with opened(service, bench.given.work / service.net / "live", seed) as state:
            state.clock = Clock(budget)
            began = time.monotonic()
            key = search(state, "racing", budget)
            state.lab.close()
            log.add(kind="live", seed=seed, key=key, wall_s=time.monotonic() - began, plans=len(state.lab.records))


def main() -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--part",
        nargs="*",
        choices=PARTS,
        help="only these parts; --quick sweeps and replays one net unless told otherwise",
    )
    own.add_argument("--work", type=Path, default=ROOT / ".cache" / "tuner", metavar="DIR", help="where records lie")
    own.add_argument("--seconds", type=float, default=240.0, metavar="N", help="a sweep stops, to be resumed, after N")
    bench = benchmark("tuner", __doc__, own)
    quick = bench.quick and not bench.given.part
    parts = set(bench.given.part or (PARTS[:2] if quick else PARTS))
    for service in SERVICES[:1] if quick else SERVICES:
        if bench.wants(service.net) and parts & {"sweep", "replay", "live", "repeat"}:
            on_the_space(bench, service, parts)
    for net, p99_ms in SERVED.items():
        if bench.wants(net) and "served" in parts:
            served(bench, net, p99_ms, bench.given.work / net)
    for net in WALL:
        if bench.wants(net) and "wall" in parts:
            wall(bench, net, bench.given.work / net)
    bench.close()


if __name__ == "__main__":
    main()
