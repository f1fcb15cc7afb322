"""Puts diagnoses to the test: a plan as it is against the same plan without the ailment, through the serving engine.

Two fresh processes stay resident and measure short blocks in turn, in random order within each pair, so that what
disturbs one disturbs the other too. The ratio of paired blocks and its interval decide, nothing else.
"""

import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import msgspec

from whet.doctor import paired
from whet.doctor.changes import Change, counterfactual
from whet.doctor.diagnosis import Diagnosis, Proof
from whet.doctor.observation import ModelSeen, Observation
from whet.doctor.paired import PAIRS, in_turn
from whet.engine.environment import environment
from whet.errors import PlanRefused, RuntimeFailed, WhetError
from whet.plan import Plan
from whet.settings import environ

CAPACITY_BLOCKS = 3
START_S = 60.0
GRACE_S = 20.0
Progress = Callable[[str], None]


def prove(
    seen: Observation, found: list[Diagnosis], progress: Progress = lambda _: None, *, pairs: int = PAIRS
) -> list[Diagnosis]:
    """Return the diagnoses, each that can be measured with its proof.

    The measurement runs on this process's own CPUs, beside whatever else runs there.

    Args:
        seen: what they rest on; its models name artifacts on this machine.
        found: diagnoses.
        progress: told what is measured.
        pairs: blocks on each side, at least 2; those without an answer on either side are dropped together.
    """
    models = {model.name: model for model in seen.models}
    proven, known = [], dict[tuple[str, Plan, Change], Proof]()
    for each in found:
        model = models.get(each.model) or (seen.models[0] if len(seen.models) == 1 else None)
        change = counterfactual(each, seen, model) if model is not None else None
        if model is None or model.plan is None or change is None:
            proven.append(each)
            continue
        key = (model.artifact, model.plan, change)
        if key not in known:
            progress(f"{each.slug}: {change.words}")
            known[key] = _measured(model, model.plan, change, pairs)
        proven.append(replace(each, proof=known[key]))
    return proven


def _measured(model: ModelSeen, plan: Plan, change: Change, pairs: int) -> Proof:
    callers = change.callers or 2 * max(plan.streams * plan.max_batch, change.plan.streams * change.plan.max_batch)
    try:
        with _Bench(model.artifact, plan) as old:
            if change.share is not None:
                return _eased(old, change, callers, pairs)
            with _Bench(model.artifact, change.plan) as new:
                return in_turn(change.words, lambda: old.speed(callers), lambda: new.speed(callers), pairs=pairs)
    except WhetError as error:
        return Proof(change.words, None, None, None, 0, f"could not be measured: {error}")


def _eased(bench: "_Bench", change: Change, callers: int, pairs: int) -> Proof:
    """Compare how soon answers come with as many samples in flight as were seen, and below the plan's capacity."""
    assert change.share is not None
    carried = statistics.median(bench.speed(callers) for _ in range(CAPACITY_BLOCKS))
    rate = change.share * carried
    if not rate:
        return Proof(change.words, None, None, None, 0, "could not be measured: no block had two answers")
    words = f"{rate:.3g} samples/s of random arrivals instead of {callers} in flight ({change.words})"
    return in_turn(
        words, lambda: bench.promptness(callers=callers), lambda: bench.promptness(qps=rate), pairs=pairs,
        measure="latency",
    )  # fmt: skip


class _Bench:
    """One resident process that measures a plan; see :mod:`whet.doctor.block`."""

    def __init__(self, artifact: str, plan: Plan) -> None:
        self._artifact, self._plan = artifact, plan
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process, not with this line)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "whet.doctor.block"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**environ(), **environment(self._plan)},
            start_new_session=True,
        )
        try:
            self._say({"artifact": str(Path(self._artifact)), "plan": self._plan})
            self._hear(START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # a line that the process never read
                    pipe.close()

    def speed(self, callers: int) -> float:
        """Return samples per second of one block in a closed loop; 0 when it was too short for two answers.

        Raises:
            RuntimeFailed: the process ended or hung, or requests failed.
        """
        return float(self._block(callers=callers)["speed"])

    def promptness(self, **load: float) -> float:
        """Return how many answers fit in a second one after another: 1 / mean latency; 0 when there was none.

        Args:
            load: ``callers`` in a closed loop, or ``qps`` of random arrivals.

        Raises:
            RuntimeFailed: as :meth:`speed`.
        """
        latency_ms = float(self._block(**load)["latency_ms"])
        return 1e3 / latency_ms if latency_ms else 0.0

    def _block(self, **load: float) -> dict[str, Any]:
        self._say({"seconds": paired.BLOCK_S, **load})
        return self._hear(paired.BLOCK_S + GRACE_S)

    def _say(self, document: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError):  # hearing says how it ended
            self._process.stdin.write(msgspec.json.encode(document) + b"\n")
            self._process.stdin.flush()

    def _hear(self, timeout_s: float) -> dict[str, Any]:
        assert self._process is not None
        pipe = self._process.stdout
        assert pipe is not None
        end = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise RuntimeFailed(f"plan {self._plan.id} did not answer within {timeout_s:.0f} s")
                part = pipe.read1(1 << 16)  # type: ignore[attr-defined]  # a BufferedReader, typed as IO
                if not part:
                    raise RuntimeFailed(f"the process of plan {self._plan.id} ended{self._last_words()}")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = msgspec.json.decode(line)
        if "error" in answer:
            kind = PlanRefused if answer["slug"] == PlanRefused.slug else RuntimeFailed
            raise kind(answer["error"])
        return answer

    def _last_words(self) -> str:
        """Return the last line the process wrote to its error output, for the reason."""
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1].strip()[:200]}" if lines else ""
