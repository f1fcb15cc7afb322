"""A trial as its parent sees it: a fresh process with the engine that serves, stopped except while it measures.

Mask and environment are set before the interpreter starts. The process is resident, so that blocks of several trials
can be interleaved, and SIGSTOPped between its blocks, so that none disturbs another. Whatever goes wrong with it (a
crash, a hang, no memory) is an error with a reason for this trial alone.
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from whet.errors import DataError, OutputError, PlanRefused, RuntimeFailed, WhetError
from whet.host.apply import inherited
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
    Scored,
    decode_reply,
    encode,
)
from whet.plan import Plan
from whet.settings import environ

START_S = 60.0
"""A trial that is not ready by then has failed: any model worth searching reads, compiles and warms faster."""
GRACE_S = 20.0
"""How much longer than asked a block may take."""
R = TypeVar("R", Measured, Scored)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where trials run.

    Attributes:
        cpus: mask of every trial, the same that a worker would get.
        work: folder for their logs.
        memory_bytes: each may allocate no more, or None.
        start_s: how long one may take to be ready.
    """

    cpus: tuple[int, ...]
    work: Path
    memory_bytes: int | None = None
    start_s: float = START_S


class Trial:
    """One resident process. Not thread-safe; one command at a time.

    Args:
        artifact: folder of the artifact.
        plan: knobs under test.
        pool: folder of the samples to measure with.
        bench: where it runs.
        environment: variables to add to this process's own.
    """

    def __init__(self, artifact: Path, plan: Plan, pool: Path, bench: Bench, environment: Mapping[str, str]) -> None:
        self.plan = plan
        self.ready: Ready | None = None
        self._bench = bench
        self._log = bench.work / f"trial-{plan.id}.log"
        self._started = time.monotonic()
        order = Order(artifact, plan, pool, os.getpid(), self._started, bench.memory_bytes)
        self._process = _spawn(environment, bench.cpus, self._log)
        self._buffer = b""
        self._send(encode(order))

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait_ready(self) -> Ready:
        """Wait until the engine serves, then stop the process until a block is wanted.

        Raises:
            PlanRefused: the runtime does not honour the plan.
            RuntimeFailed: it crashed, hung or failed; says how.
        """
        if self.ready is None:
            reply = self._receive(self._started + self._bench.start_s - time.monotonic(), "start")
            if not isinstance(reply, Ready):
                raise self._unexpected(reply)
            self.ready = reply
            self._stop()
        return self.ready

    def measure(self, command: Block | Rate) -> Measured:
        """Run one block and return it.

        Raises:
            RuntimeFailed: it crashed, hung or failed; says how.
        """
        return self._ask(command, Measured, command.seconds + GRACE_S)

    def evaluate(self, command: Evaluate, timeout_s: float) -> Scored:
        """Compute and score a pool.

        Raises:
            RuntimeFailed: it crashed, failed, or took longer than ``timeout_s``.
        """
        return self._ask(command, Scored, timeout_s)

    def close(self) -> None:
        """End the process; never raises, never waits long."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)  # it holds nothing that needs an orderly end
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # a write that the dead process never read
                    pipe.close()

    def _ask(self, command: Command, kind: type[R], timeout_s: float) -> R:
        self._signal(signal.SIGCONT)
        self._send(encode(command))
        reply = self._receive(timeout_s, type(command).__name__.lower())
        if not isinstance(reply, kind):
            raise self._unexpected(reply)
        self._stop()
        return reply

    def _unexpected(self, reply: Reply) -> WhetError:
        self.close()
        if not isinstance(reply, Failed):
            return RuntimeFailed(f"trial {self.plan.id} answered out of turn; this is a bug")
        kinds: dict[str, type[WhetError]] = {kind.slug: kind for kind in (PlanRefused, DataError)}
        return kinds.get(reply.slug, RuntimeFailed)(reply.reason)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # the next receive says how it ended
            os.kill(self._process.pid, number)

    def _stop(self) -> None:
        """Stop the process and return when every thread of it stands: the next block is another's."""
        self._signal(signal.SIGSTOP)
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _send(self, line: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(OSError):  # the next receive says how it ended
            pipe.write(line)
            pipe.flush()

    def _receive(self, timeout_s: float, doing: str) -> Reply:
        """Sleep until a line arrives; the parent uses no CPU meanwhile."""
        pipe = self._process.stdout
        assert pipe is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.close()
                    raise RuntimeFailed(f"hung: no answer to '{doing}' within {timeout_s:.0f} s, ended")
                chunk = os.read(pipe.fileno(), 1 << 20)
                if not chunk:
                    raise self._died(doing)
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return decode_reply(line)
        except msgspec.DecodeError as error:
            self.close()
            raise RuntimeFailed(f"trial {self.plan.id} answered with no message ({error}); this is a bug") from error

    def _died(self, doing: str) -> RuntimeFailed:
        self._process.wait()
        code = self._process.returncode
        self.close()
        tail = _tail(self._log)
        if code == -signal.SIGKILL:
            return RuntimeFailed(f"killed during '{doing}' (SIGKILL), most likely for memory{tail}")
        if code < 0:
            return RuntimeFailed(f"crashed during '{doing}' ({signal.Signals(-code).name}){tail}")
        return RuntimeFailed(f"ended during '{doing}' with exit code {code}{tail}")


def _spawn(environment: Mapping[str, str], cpus: Iterable[int], log: Path) -> "subprocess.Popen[bytes]":
    """Start the interpreter under its final mask: a child inherits the mask of the thread that forks it."""
    try:
        with log.open("wb") as stream, inherited(cpus):
            return subprocess.Popen(
                [sys.executable, "-m", "whet.optimize.trial_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**environ(), **environment},
                start_new_session=True,  # Ctrl-C is for the parent alone
            )
    except OSError as error:
        raise OutputError(f"cannot start a trial: {error.strerror or error}; check memory, processes, space") from error


def _tail(log: Path, most: int = 200) -> str:
    """Return the last line a dying process wrote, for the reason."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f": {lines[-1][:most]}" if lines else ""


def quit_all(trials: Iterable[Trial]) -> None:
    """End every trial."""
    for trial in trials:
        trial.close()
