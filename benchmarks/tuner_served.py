"""What a user of the tuner gets, timed from outside: a whole `whet optimize`, and its bundle under its own promise."""

import asyncio
import shutil
import time
from pathlib import Path

from harness import Benchmark, Row
from models import build_onnx
from tuner_record import Log
from whet.load.address import Address
from whet.load.bench import model_metadata
from whet.load.http import HttpTarget
from whet.load.launcher import Server
from whet.load.messages import http_specs
from whet.load.result import RunResult
from whet.load.runner import Scenario, run
from whet.load.samples import synthesise
from whet.models.bundle import read_bundle
from whet.optimize.request import OptimizeRequest, Status
from whet.optimize.run import optimize
from whet.plan import Targets
from whet.stats import bound_violations

SAMPLES = 400
LATE = 0.01
"""A p99 target allows this share of requests to be late."""
OF_CAPACITY, RUNS, RUN_S = 0.9, 5, 120.0


def wall(bench: Benchmark, net: str, work: Path) -> None:
    """A whole search with the default budget, and the longest silence of its progress."""
    gaps: list[float] = []
    last = began = time.monotonic()

    def heard(_: Status) -> None:
        nonlocal last
        gaps.append(time.monotonic() - last)
        last = time.monotonic()

    folder = work / "wall"
    shutil.rmtree(folder, ignore_errors=True)
    request = OptimizeRequest(
        model=build_onnx(net), out=folder / "bundle", synthetic=SAMPLES, allow_synthetic_calibration=True
    )
    folder.mkdir(parents=True)
    outcome = optimize(request, heard)
    spent = time.monotonic() - began
    shutil.rmtree(folder, ignore_errors=True)
    print(f"  {outcome.message}")
    bench.add(Row(net, "whole search, default budget", spent, None, None, "s", 180.0, higher=False))
    bench.add(Row(net, "longest silence of progress", max(gaps), None, None, "s"))
    bench.add(Row(net, "times progress was shown", len(gaps), None, None, ""))


def served(bench: Benchmark, net: str, p99_ms: float, work: Path) -> None:
    """The share of late answers at 90 % of the latency-bounded capacity that the bundle claims."""
    log, bundle = Log(work / f"served-{p99_ms:g}ms.jsonl"), work / f"served-{p99_ms:g}ms"
    if not bundle.exists():
        request = OptimizeRequest(
            model=build_onnx(net), out=bundle, synthetic=SAMPLES, allow_synthetic_calibration=True,
            targets=Targets(p99_ms=p99_ms),
        )  # fmt: skip
        print(f"  {optimize(request).message}")
    highest = read_bundle(bundle).plans[0].measured.get("highest_qps")
    if not highest:
        print(f"  {net}: no rate holds p99 {p99_ms:g} ms, so there is none to serve at")
        return
    seconds, runs = (5.0, 1) if bench.quick else (RUN_S, RUNS)
    known = [event for event in log.of("run") if event["seconds"] == seconds]
    for number in range(len(known), runs):
        result = asyncio.run(_run(bundle, OF_CAPACITY * highest, seconds, number))
        late = int((result.latency.values > p99_ms).sum()) + result.failed
        log.add(
            kind="run", seconds=seconds, qps=OF_CAPACITY * highest, late=late, failed=result.failed,
            total=int(result.counted.sum()), client_cpu=result.client_cpu_share,
        )  # fmt: skip
    case = f"{net} p99 {p99_ms:g} ms at {OF_CAPACITY * highest:.0f}/s"
    shares = []
    for event in [event for event in log.of("run") if event["seconds"] == seconds][:runs]:
        found = bound_violations(event["late"], event["total"], confidence=0.9)  # its low end alone holds at 95 %
        shares.append(found)
        bench.add(Row(case, "late answers", 100 * found.value, 100 * found.low, 100 * found.high, "%"))
    middle = sorted(shares, key=lambda one: one.value)[len(shares) // 2]
    worst = max(one.low for one in shares)
    bench.add(Row(case, "late answers, low bound, worst run", 100 * worst, None, None, "%", 100 * LATE, higher=False))
    bench.add(Row(case, "late answers, median run", 100 * middle.value, None, None, "%", 1.2, higher=False))


async def _run(bundle: Path, qps: float, seconds: float, seed: int) -> RunResult:
    """Drive a fresh server over HTTP with Poisson arrivals."""
    async with Server([str(bundle)]) as server:
        address = Address.parse(f"{server.http}/models/{read_bundle(bundle).name}")
        specs = http_specs(await model_metadata(address, 30.0))
        samples = synthesise(specs)
        target = HttpTarget(address.to("").url, address.model, samples, version=address.version, connections=64)
        try:
            scenario = Scenario("server", qps=qps, duration_s=seconds, warmup_s=2.0, seed=seed)
            return await run(target, scenario, len(samples))
        finally:
            await target.close()
