"""Puts diagnoses to the test: a plan as it is against the same plan without the ailment, through the serving engine.

Two fresh processes stay resident and measure short blocks in turn, in random order within each pair, so that what
disturbs one disturbs the other too. The ratio of paired blocks and its interval decide, nothing else.
"""

import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import msgspec

from whet.doctor.diagnosis import Diagnosis, Proof
from whet.doctor.observation import ModelSeen, Observation
from whet.engine.environment import environment
from whet.errors import PlanRefused, RuntimeFailed, WhetError
from whet.plan import Plan
from whet.settings import environ
from whet.stats import Interval, paired_ratio

PAIRS = 12
BLOCK_S = 0.5
START_S = 60.0
GRACE_S = 20.0
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Change:
    """A plan without an ailment.

    Attributes:
        plan: the changed plan.
        words: what was changed.
    """

    plan: Plan
    words: str


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
    proven, known = [], dict[tuple[str, str, str], Proof]()
    for each in found:
        model = models.get(each.model) or (seen.models[0] if len(seen.models) == 1 else None)
        change = counterfactual(each, seen, model) if model is not None else None
        if model is None or model.plan is None or change is None:
            proven.append(each)
            continue
        key = (model.artifact, model.plan.id, change.plan.id)
        if key not in known:
            progress(f"{each.slug}: {change.words}")
            known[key] = _measured(model, model.plan, change, pairs)
        proven.append(replace(each, proof=known[key]))
    return proven


def counterfactual(found: Diagnosis, seen: Observation, model: ModelSeen) -> Change | None:
    """Return the plan without the ailment, or None where no knob of a plan makes the difference. Pure."""
    plan, host = model.plan, seen.host
    if plan is None:
        return None
    match found.slug:
        case "oversubscribed" | "quota-throttled" if host is not None and plan.compute_threads > host.cores:
            return _narrowed(plan, host.cores)
        case "smt-contention" if host is not None and plan.compute_threads > host.physical:
            return _narrowed(plan, host.physical)
        case "too-small-batch" if "padded_share" in found.evidence:
            sizes = tuple(sorted({1, *plan.batch_sizes}))
            return Change(plan.with_(batch_sizes=sizes), f"batch sizes {_sizes(sizes)}")
        case "too-small-batch":
            larger = 4 * plan.max_batch
            sizes = (*plan.batch_sizes, larger)
            changed = plan.with_(batch_sizes=sizes, queue_bound=max(plan.queue_bound, 4 * larger))
            return Change(changed, f"batch sizes {_sizes(sizes)}")
        case "preprocessing-not-fused":
            return Change(plan.with_(fused_preprocessing=True), "preprocessing in the graph")
        case "isa-ceiling" if plan.isa_ceiling is not None:
            return Change(plan.with_(isa_ceiling=None), "no ceiling on instruction sets")
        case "no-vnni" if plan.isa_ceiling is not None:
            return Change(plan.with_(isa_ceiling=None), "no ceiling on instruction sets")
        case "no-vnni" if plan.precision != "f32":
            return Change(plan.with_(precision="f32"), "float layers in f32")
        case "memory-bandwidth" if plan.max_batch == 1:
            return Change(plan.with_(batch_sizes=(1, 4)), "batch sizes 1, 4")
    return None


def _narrowed(plan: Plan, cores: int) -> Change:
    if plan.threads <= cores:
        narrow = plan.with_(streams=cores // plan.threads)
    else:
        narrow = plan.with_(streams=1, threads=cores)
    return Change(narrow, f"{narrow.streams} streams of {narrow.threads} threads")


def _sizes(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))


def _measured(model: ModelSeen, plan: Plan, change: Change, pairs: int) -> Proof:
    rng = random.Random(0)  # noqa: S311  (the order of blocks, not a secret)
    callers = 2 * max(plan.streams * plan.max_batch, change.plan.streams * change.plan.max_batch)
    speeds: dict[str, list[float]] = {"as it is": [], "changed": []}
    try:
        with _Bench(model.artifact, plan) as old, _Bench(model.artifact, change.plan) as new:
            for _ in range(pairs):
                for name, bench in rng.sample([("as it is", old), ("changed", new)], 2):
                    speeds[name].append(bench.block(callers, BLOCK_S))
    except WhetError as error:
        return Proof(change.words, None, None, None, 0, f"could not be measured: {error}")
    kept = [(new, old) for new, old in zip(speeds["changed"], speeds["as it is"], strict=True) if new and old]
    if 2 * len(kept) < max(pairs, 4):
        said = f"could not be measured: in {pairs - len(kept)} of {pairs} pairs a block had no two answers"
        return Proof(change.words, None, None, None, len(kept), said)
    ratio = paired_ratio([new for new, _ in kept], [old for _, old in kept])
    return Proof(change.words, ratio.value, ratio.low, ratio.high, len(kept), verdict(ratio))


def verdict(ratio: Interval) -> str:
    """Return what the ratio of speeds, without the ailment over with it, says."""
    if not ratio.excludes(1.0):
        return "cannot tell apart"
    return "confirmed" if ratio.value > 1 else "refuted"


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

    def block(self, callers: int, seconds: float) -> float:
        """Return samples per second of one block; 0 when it was too short for two answers.

        Raises:
            RuntimeFailed: the process ended or hung, or requests failed.
        """
        self._say({"callers": callers, "seconds": seconds})
        return float(self._hear(seconds + GRACE_S)["speed"])

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
