"""The last few plans behind a real server: `whet serve` in a process of its own, loaded over HTTP and gRPC.

What the engine carries in process leaves out sockets, protocols and the event loop. Here they are in, and so is the
client, which computes on the same cores: its share is part of every figure, so these figures are lower bounds.
"""

import asyncio
import shutil
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whet.errors import WhetError
from whet.load.http import HttpTarget
from whet.load.launcher import SERVE, Server
from whet.load.result import RunResult
from whet.load.rpc import GrpcTarget
from whet.load.runner import Scenario, run
from whet.load.tied import command
from whet.models.bundle import PlanRecord
from whet.models.hosts import Share, model_key, put
from whet.optimize import profile
from whet.optimize.bracket import Bracket
from whet.optimize.capacity import FIRST, LIMIT, LOAD
from whet.optimize.lab import Case
from whet.optimize.openloop import Bounds, Run, bounds_of, highest, seconds_of
from whet.optimize.pool import open_pool
from whet.optimize.state import State
from whet.optimize.trial_words import Rate
from whet.tensors import Tensors

Protocol = Literal["HTTP", "gRPC"]
SHARE = 0.12
"""Share of the budget for all of it."""
LEAST_S = 5.0
"""Less than this is not begun, but in searches whose budget is one that shows layers and peaks too."""
BUNDLE_S = 1.5
"""Kept for writing the bundle."""
PLANS = 2
"""Plans that are served: the chosen one and, where there is time, the next best."""
CLOSED = 0.12
"""Of the time for a plan, what each closed loop takes."""
CLOSED_S = (0.8, 4.0)
WARM_S = 0.2
REQUESTS, REQUEST_BYTES = 64, 64 << 20
"""Distinct requests, and the memory they may take together."""
READY_S = 60.0
_NAME = "finalist"


def reserve_s(budget_s: float) -> float:
    """Return the seconds of a budget that are kept for serving and for all that comes after it."""
    return SHARE * budget_s + profile.reserve_s(budget_s) + BUNDLE_S


def measure(state: State) -> None:
    """Serve the chosen plan and, where there is time, the next best; what HTTP holds is what the bundle promises.

    A server that does not start, and time that is spent, are a reason in the result.
    """
    case = state.chosen
    if case is None or state.record(case).failure:
        return
    budget_s = state.clock.budget_s
    left = min(SHARE * budget_s, state.clock.left_s - profile.reserve_s(budget_s) - BUNDLE_S)
    if left < LEAST_S and budget_s < profile.FROM_BUDGET_S:
        said = f"not served: {max(0.0, left):.0f} s of {budget_s:g} s were left, it takes {LEAST_S:g}"
        state.served = {"reason": f"{said}; give a longer --budget"}
        return
    state.lab.retire([])  # their memory and their caches belong to the server now
    rivals = [one for one in state.contenders if one.plan != case.plan]
    end = time.monotonic() + max(LEAST_S, left)
    state.served = _of_plan(state, case, end)
    others = []
    for one in rivals[: PLANS - 1]:
        if end - time.monotonic() < LEAST_S:
            break
        others.append(_of_plan(state, one, end))
    state.served["others"] = others


def _of_plan(state: State, case: Case, end: float) -> dict[str, Any]:
    """Return what one plan does behind a server, as plain values, or why it could not be served."""
    state.say("served", state.label(case.plan))
    found: dict[str, Any] = {"plan_id": case.plan.id, "label": state.label(case.plan), "reason": None}
    out = state.work / "served"
    try:
        shutil.rmtree(out, ignore_errors=True)
        artifact = state.lab.artifacts[case.plan.artifact]
        here = state.machine.fingerprint
        record = PlanRecord(case.plan, {"fingerprint": here, **state.machine.fingerprint_fields}, {})
        put(out, Share(_NAME, model_key(artifact), here, (record,), {artifact.sha256: artifact}))
        began = time.monotonic()
        with Server([str(out)], ready_s=READY_S, command=command(SERVE)) as server:
            found["ready_s"] = round(time.monotonic() - began, 3)
            fronts = {
                "HTTP": Front("HTTP", server.http, _samples(state, case)),
                "gRPC": Front("gRPC", server.grpc, _samples(state, case)),
            }
            found |= _drive(state, case, fronts, end)
    except WhetError as error:
        found["reason"] = f"not served: {error}"
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return found


def _drive(state: State, case: Case, fronts: dict[str, "Front"], end: float) -> dict[str, Any]:
    """Return the closed loop over both protocols, then open ones: the highest rate that holds, or the tail at 70 %."""
    share = CLOSED * (end - time.monotonic())
    seconds = min(CLOSED_S[1], max(CLOSED_S[0], share))
    closed = {name: front.closed(case.callers, seconds) for name, front in fronts.items()}
    found: dict[str, Any] = {name.lower(): result.to_json() for name, result in closed.items()}
    speed = closed["HTTP"].steady_per_s or closed["HTTP"].throughput_per_s or 0.0
    if speed <= 0:
        return found | {"reason": f"nothing was answered in {seconds:.1f} s", "loads": []}
    bounds, loads = bounds_of(state.request.targets), []
    if bounds:
        bracket, runs = _bounded(state, case, fronts["HTTP"], (speed, bounds), end)
        found |= {"highest_qps": bracket.held, "promising_qps": bracket.promising, "words": bracket.words()}
        loads = [("HTTP", one) for one in runs]
        rate = bracket.held or bracket.promising
    else:
        rate = LOAD * speed
        loads.append(("HTTP", fronts["HTTP"].open(Rate(rate, seconds_of(rate, confirming=False), state.request.seed))))
    if rate is not None:
        loads.append(("gRPC", fronts["gRPC"].open(Rate(rate, seconds_of(rate, confirming=False), state.request.seed))))
    return found | {"loads": [{"protocol": name, **one.to_json()} for name, one in loads]}


def _bounded(
    state: State, case: Case, front: "Front", known: tuple[float, Bounds], end: float
) -> tuple[Bracket, list[Run]]:
    """Search the highest rate that holds over HTTP, from what the engine holds in process."""
    speed, bounds = known
    in_process = state.rates.get(case.plan.id, {})
    first = in_process.get("highest_qps") or in_process.get("promising_qps") or FIRST * speed
    limit = LIMIT * speed
    bracket = Bracket(min(first, limit), limit, bounds.allowed)

    def drive(rate: Rate) -> Run:
        state.say("served", f"{state.label(case.plan)} at {rate.qps:.0f} requests/s over HTTP")
        return front.open(rate)

    return bracket, highest(bracket, bounds, drive, lambda: end - time.monotonic(), state.request.seed)


def _samples(state: State, case: Case) -> list[Tensors]:
    """Return requests of one sample each, as the trials send them."""
    sha256 = case.plan.artifact
    pool = open_pool(state.lab.pools.get(sha256, state.lab.pool))
    size = sum(array.nbytes for array in pool.rows(0, 1).values())
    count = max(1, min(REQUESTS, len(pool), REQUEST_BYTES // max(1, size)))
    return [{name: np.ascontiguousarray(a) for name, a in pool.rows(i, 1).items()} for i in range(count)]


@dataclass(frozen=True, slots=True)
class Front:
    """One of a server's protocols, and what is sent to it.

    Attributes:
        protocol: ``HTTP`` with binary tensors, or ``gRPC`` with raw contents.
        url: of its port.
        samples: requests to draw from.
    """

    protocol: Protocol
    url: str
    samples: list[Tensors]

    def closed(self, callers: int, seconds: float) -> RunResult:
        """Return what ``callers`` callers get that wait for each answer."""
        return self._run(Scenario("closed", callers=callers, duration_s=seconds, warmup_s=WARM_S))

    def open(self, rate: Rate) -> Run:
        """Return an open loop of Poisson arrivals."""
        found = self._run(Scenario("server", qps=rate.qps, duration_s=rate.seconds, warmup_s=WARM_S, seed=rate.seed))
        latencies = [round(value, 4) for value in found.latency.values.tolist()]
        return Run(rate.qps, latencies, found.failed, found.throughput_per_s or 0.0, found.client_cpu_share)

    def _run(self, scenario: Scenario) -> RunResult:
        import uvloop

        async def driven() -> RunResult:
            make = HttpTarget if self.protocol == "HTTP" else GrpcTarget
            target = make(self.url, _NAME, self.samples)
            try:
                return await run(target, scenario, len(self.samples))
            finally:
                await target.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(driven())
