"""The trial itself: a process that opens the engine which serves, and measures when it is told to.

Started as ``python -m whet.optimize.trial_process`` by :mod:`whet.optimize.trial`; reads commands from standard input
and answers on what was standard output. Whatever libraries print goes to standard error, never between the answers.
"""

import asyncio
import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from whet.engine import open_engine
from whet.engine.engine import Engine
from whet.errors import RuntimeFailed, WhetError
from whet.host.counters import memory
from whet.load.inprocess import EngineTarget
from whet.load.runner import Scenario, run
from whet.models.artifact import load_artifact
from whet.optimize.evaluate import evaluate
from whet.optimize.pool import Pool, open_pool
from whet.optimize.trial_words import (
    Block,
    Command,
    Evaluate,
    Failed,
    Measured,
    Order,
    Rate,
    Ready,
    Reply,
    decode_command,
    decode_order,
    encode,
)
from whet.tensors import Tensors

REQUESTS = 64
"""Distinct requests held in memory to draw from."""
WARM_S = 0.05
"""Seconds at the start of every block that are driven and not counted: queues fill, caches come back after a stop."""
WAVES, LONGEST_S = 3, 2.0
"""A block lasts as long as so many batches in turn on a lane, whatever was asked, but for this it lasts no longer."""
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve one parent until it closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    order = decode_order(sys.stdin.buffer.readline())
    _bind_to(order.parent, order.memory_bytes)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        bench = Bench()
        answers.write(encode(runner.run(_answer(bench.open(order)))))
        for line in sys.stdin.buffer:
            answers.write(encode(runner.run(_answer(bench.obey(decode_command(line))))))
    _end(answers)
    return 0


async def _answer(doing: "object") -> Reply:
    try:
        return await doing  # type: ignore[no-any-return, misc]
    except WhetError as error:
        return Failed(error.slug, str(error))
    except MemoryError:
        return Failed("runtime-failed", "out of memory: the plan needs more than this trial may take")
    except Exception as error:  # noqa: BLE001  (a runtime may raise anything; the parent records it as this trial's end)
        return Failed("runtime-failed", f"{type(error).__name__}: {error}")


class Bench:
    """The engine under test and what drives it."""

    engine: Engine
    pool: Pool

    def __init__(self) -> None:
        self._targets: dict[int, EngineTarget] = {}

    async def open(self, order: Order) -> Ready:
        """Open the engine as ``serve`` would and warm it."""
        sys.setswitchinterval(0.0002)  # as a worker: a lane that returns must not wait for the interpreter
        artifact = load_artifact(order.artifact)
        self.pool = open_pool(order.pool)
        self.engine = await open_engine(artifact, order.plan)
        return Ready(
            load_ms=(time.monotonic() - order.started) * 1e3,
            rss_mb=_rss_mb(),
            effective=self.engine.effective,
            inputs=tuple(self.engine.inputs),
            outputs=tuple(self.engine.outputs),
            service_ms=dict(self.engine.stats().service_ms),
        )

    async def obey(self, command: Command) -> Reply:
        """Carry out one command."""
        match command:
            case Block():
                seconds = max(command.seconds, min(LONGEST_S, WARM_S + WAVES * self._batch_s(command)))
                scenario = Scenario("closed", callers=command.callers, duration_s=seconds, warmup_s=WARM_S)
                return await self._measure(scenario, command.rows)
            case Rate():
                scenario = Scenario(
                    "server", qps=command.qps, duration_s=command.seconds, warmup_s=WARM_S, seed=command.seed
                )
                return await self._measure(scenario, 1)
            case Evaluate():
                return await evaluate(self.engine, command)

    def _batch_s(self, command: Block) -> float:
        """Return how long the largest batch takes that this load can fill, seconds, by what was measured so far."""
        known = self.engine.stats().service_ms
        filled = [ms for size, ms in known.items() if size <= command.callers * command.rows]
        return max(filled, default=0.0) / 1e3

    async def _measure(self, scenario: Scenario, rows: int) -> Measured:
        before, cpu = self.engine.stats(), time.process_time()
        result = await run(self._target(rows), scenario, samples=min(REQUESTS, len(self.pool)))
        after = self.engine.stats()
        batches = {size: count - before.batches.get(size, 0) for size, count in after.batches.items()}
        if not len(result.latency) and not result.errors:
            raise RuntimeFailed(
                f"no request was answered within {scenario.duration_s:g} s; the model is too slow for this"
            )
        return Measured(
            rows=int(result.rows[result.ok].sum()),
            wall_s=result.window_s,
            throughput_per_s=result.steady_per_s or result.throughput_per_s or 0.0,
            latencies_ms=[round(value, 4) for value in result.latency.values.tolist()],
            cpu_s=time.process_time() - cpu,
            rss_mb=_rss_mb(),
            errors=dict(result.errors),
            batches={size: count for size, count in batches.items() if count},
        )

    def _target(self, rows: int) -> EngineTarget:
        if rows not in self._targets:
            count = min(REQUESTS, len(self.pool))
            samples: list[Tensors] = [
                {name: np.ascontiguousarray(array) for name, array in self.pool.rows(i * rows, rows).items()}
                for i in range(count)
            ]
            self._targets[rows] = EngineTarget(self.engine, samples)
        return self._targets[rows]


def _rss_mb() -> float:
    return (memory().rss or 0) / 1e6


def _bind_to(parent: int, memory_bytes: int | None) -> None:
    """Die with the parent, be the first the kernel ends when memory runs out, and allocate no more than allowed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    with suppress(OSError):  # a courtesy that some containers forbid
        Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii")
    if memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, hard))


def _end(answers: IO[bytes]) -> None:
    """Leave without tearing down the runtime: its threads have nothing to save."""
    answers.close()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
