"""Does the compression gate stop where it should? At least six nets climb the real ladder, with real labels.

Each net is searched in f32 for a short while (system and application level), then the gate makes, races and judges its
candidates as ``whet optimize`` does: the same code, with the finals left out. A row says where the ladder stopped, the
accuracy drop with its 95 % interval, and the paired gain in throughput over the best f32 plan. Below its rows
stands the reason for every rung that did not ship.

    .venv/bin/python benchmarks/gate.py [--quick] [--json FILE] [--only WORD ...]
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gate_nets import NETS, Net
from harness import Benchmark, Row, benchmark
from whet.optimize import classify, climb, stages
from whet.optimize.prepare import prepare
from whet.optimize.request import OptimizeRequest, Status
from whet.optimize.state import Clock, Rung, State
from whet.plan import Targets

BUDGET_S, LEVEL_S = 120.0, 4.0
"""Budget of one net (the gate takes its shares of it), and what each float level is searched for."""
QUICK = ("digits, plain", "digits, raw units")
QUICK_BUDGET_S, QUICK_LEVEL_S = 40.0, 2.0


def show(name: str) -> Callable[[Status], None]:
    """Return a progress function that prints phases that matter here, a line each."""

    def tell(status: Status) -> None:
        if status.phase in {"race", "accuracy", "compress", "sensitivity", "look"}:
            print(f"  {name}: {status.phase}: {status.words}", file=sys.stderr, flush=True)

    return tell


def climbed(net: Net, work: Path, quick: bool) -> State:
    """Run the search of a net up to and including the gate, and return what it knows."""
    model, data = net.build()
    budget, level = (QUICK_BUDGET_S, QUICK_LEVEL_S) if quick else (BUDGET_S, LEVEL_S)
    request = OptimizeRequest(
        model=model,
        out=work / "bundle",
        data=str(data),
        budget_s=budget,
        targets=Targets(max_drop=net.max_drop),
        runtimes=net.runtimes,
    )
    state = prepare(request, work, show(net.name), Clock(budget))
    try:
        stages.build_space(state, sample_ms=1.0)
        for name in ("system", "application"):
            stages.level(state, name, level)
        learn(state)
        classify.confirm(state)
        climb.climb(state)
    finally:
        state.lab.close()
        state.journal.close()
    return state


def learn(state: State) -> None:
    """Take the time of a sample, by which calibration is sized, from the fastest plan; ``optimize`` has baselines."""
    speeds = [block.throughput_per_s for record in state.lab.records.values() for block in record.kept]
    stages.build_space(state, sample_ms=1e3 / max(speeds))


def stopped(state: State) -> Rung | None:
    """Return the rung on which the ladder stopped, or None when none shipped."""
    return next((one for one in state.rungs if one.outcome == "ships"), None)


def report(bench: Benchmark, net: Net, state: State) -> list[str]:
    """Add the rows of a net, and return its lines of the table."""
    last = stopped(state)
    where = last.rung if last is not None else "refused"
    where = "bf16" if where.endswith("bf16") else where
    bench.add(Row(net.name, f"stops at {where}", float(where in net.reach), None, None, "as built", 1.0))
    lines = [f"{net.name} ({net.what}; floor {net.max_drop:g}): {where}"]
    for one in state.rungs:
        if one.drop is not None:
            row = Row(net.name, f"drop of {one.label}", one.drop.value, one.drop.low, one.drop.high, "of score")
            if one is last:
                row.reach, row.higher, row.value = net.max_drop, False, one.drop.value
            bench.add(row)
        if one.gain is not None:
            reach = 1.0 if one is last else None
            bench.add(Row(net.name, f"gain of {one.label}", one.gain.value, one.gain.low, one.gain.high, "x", reach))
        layers = ", ".join(f"{count} {precision}" for precision, count in one.executed.items())
        lines.append(f"    {one.label}: {one.outcome}" + (f" (computing layers: {layers})" if layers else ""))
    return lines + [f"    refused {refusal.what}: {refusal.reason}" for refusal in state.refused]


def main() -> None:
    bench = benchmark("gate", __doc__)
    for net in NETS:
        if not bench.wants(net.name) or (bench.quick and net.name not in QUICK):
            continue
        work = Path(tempfile.mkdtemp(prefix="whet-gate-"))
        try:
            print("\n".join(report(bench, net, climbed(net, work, bench.quick))), flush=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    bench.close()


if __name__ == "__main__":
    main()
