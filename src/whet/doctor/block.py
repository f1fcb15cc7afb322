"""A process that opens the engine which serves under one plan and measures blocks when told; ends with its parent.

Started as ``python -m whet.doctor.block`` by :mod:`whet.doctor.prove`. The first line on standard input names an
artifact and a plan, each further one ``seconds`` and either ``callers`` or, for random arrivals, ``qps``; every line is
answered by one.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from whet.engine import open_engine
from whet.engine.engine import Engine
from whet.errors import RuntimeFailed, WhetError
from whet.load.inprocess import EngineTarget
from whet.load.runner import Scenario, run
from whet.load.samples import shapes_of, synthesise
from whet.models.artifact import load_artifact
from whet.plan import Plan

WARM_S = 0.1


class _Bench:
    engine: Engine
    target: EngineTarget
    samples: int

    async def open(self, order: dict[str, Any]) -> dict[str, Any]:
        sys.setswitchinterval(0.0002)  # as a worker: a lane that returns must not wait for the interpreter
        artifact = load_artifact(Path(order["artifact"]))
        self.engine = await open_engine(artifact, msgspec.convert(order["plan"], Plan))
        requests = synthesise(self.engine.inputs, shapes=shapes_of(self.engine.inputs))
        self.target, self.samples = EngineTarget(self.engine, requests), len(requests)
        return {"ready": True}

    async def measure(self, order: dict[str, Any]) -> dict[str, Any]:
        if "qps" in order:
            scenario = Scenario("server", qps=order["qps"], duration_s=order["seconds"], warmup_s=WARM_S)
        else:
            scenario = Scenario("closed", callers=order["callers"], duration_s=order["seconds"], warmup_s=WARM_S)
        result = await run(self.target, scenario, samples=self.samples)
        if result.errors:
            failed = ", ".join(f"{slug} x{count}" for slug, count in result.errors.items())
            raise RuntimeFailed(f"requests failed under this plan: {failed}")
        return {"speed": result.steady_per_s or 0.0, "latency_ms": result.latency.mean() or 0.0}


async def _answer(doing: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = await doing
    except WhetError as error:
        return {"error": str(error), "slug": error.slug}
    except Exception as error:  # noqa: BLE001  (a runtime may raise anything; it ends this measurement, not the doctor)
        return {"error": type(error).__name__, "slug": RuntimeFailed.slug}
    return found


def main() -> None:
    """Serve one parent until it closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever libraries print must not come between the answers
    import uvloop

    bench = _Bench()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for number, line in enumerate(sys.stdin.buffer):
            order = msgspec.json.decode(line)
            doing = bench.measure(order) if number else bench.open(order)
            answers.write(msgspec.json.encode(runner.run(_answer(doing))) + b"\n")
        # The runtime's own threads may not outlive an orderly end of the interpreter.
        answers.close()
        os._exit(0)


if __name__ == "__main__":
    main()
