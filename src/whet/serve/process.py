"""A worker as its supervisor sees it: how it is started, asked, watched and ended."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from whet.errors import NotReady
from whet.host import WorkerPlace, inherited
from whet.serve import control
from whet.serve.fleet import Key, Standing
from whet.serve.meters import WorkerNumbers

log = logging.getLogger(__name__)
PATIENCE_S = 10.0
"""How long a worker may take to answer a question; three in a row without an answer, and it is stuck."""
STRIKES = 3
_REAP_S = 5.0


class WorkerProcess:
    """One worker process. All on the loop's thread.

    Attributes:
        index: of the worker.
        pid: of the process.
        serving: it takes requests.
        models: what it has loaded.
        numbers: what it had counted when it last said so.
        draining: it was told to end.
    """

    def __init__(self, index: int, popen: subprocess.Popen[bytes], channel: control.Channel) -> None:
        self.index = index
        self.pid = popen.pid
        self.serving = self.draining = False
        self.models: set[Key] = set()
        self.numbers = WorkerNumbers(index, popen.pid)
        self._popen = popen
        self._channel = channel
        self._strikes = 0
        self._over = asyncio.get_running_loop().create_task(self._live())

    @property
    def standing(self) -> Standing:
        """Where it stands."""
        return Standing(self.serving and not self.draining, frozenset(self.models))

    async def ask(self, op: str, /, **args: Any) -> Any:
        """Ask the worker.

        Raises:
            NotReady: it is gone.
            WhetError: what it raised.
        """
        return await self._channel.ask(op, **args)

    def tell(self, op: str, /, **args: Any) -> None:
        """Tell the worker; if it is gone, nothing happens."""
        self._channel.tell(op, **args)

    async def refresh(self) -> None:
        """Bring :attr:`numbers` up to date; they stay as they are when the worker is gone or slow to answer.

        Raises:
            TimeoutError: it did not answer in :data:`PATIENCE_S`.
        """
        with contextlib.suppress(NotReady):  # it is gone, which gone() tells
            async with asyncio.timeout(PATIENCE_S):
                self.numbers = msgspec.convert(await self.ask("numbers"), WorkerNumbers, strict=False)

    async def check(self) -> None:
        """See whether it answers; a worker that is silent again and again is stuck, and is killed."""
        try:
            await self.refresh()
            self._strikes = 0
        except TimeoutError:
            self._strikes += 1
            log.warning("worker %d (pid %d) does not answer, %d times in a row", self.index, self.pid, self._strikes)
            if self._strikes >= STRIKES:
                self.kill()

    async def gone(self) -> int:
        """Wait for its end and return its exit code; negative is the signal that ended it."""
        return await asyncio.shield(self._over)

    async def drain(self, timeout_s: float) -> int:
        """Tell it to finish and end, kill it when it takes longer, and return its exit code."""
        self.draining = True
        self.tell("drain")
        try:
            async with asyncio.timeout(timeout_s):
                return await self.gone()
        except TimeoutError:
            log.warning("worker %d (pid %d) did not drain in %g s and is killed", self.index, self.pid, timeout_s)
            self.kill()
            return await self.gone()

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGKILL)

    async def _live(self) -> int:
        await self._channel.run()  # ends when the process does: it alone holds the other end
        self.serving = False
        try:
            return await asyncio.to_thread(self._popen.wait, _REAP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return await asyncio.to_thread(self._popen.wait)


async def spawn(
    index: int,
    place: WorkerPlace,
    sockets: Sequence[socket.socket],
    env: Mapping[str, str],
    handle: control.Handle,
    *,
    seated: bool = False,
) -> WorkerProcess:
    """Start a worker in its place: mask and memory policy are in force before its interpreter starts.

    Args:
        index: of the worker.
        place: its CPUs and NUMA nodes.
        sockets: listening, of HTTP and, if it is served, of gRPC; the worker inherits them.
        env: its whole environment.
        handle: answers what the worker asks.
        seated: its mask may be moved later, so nobody inside it shall change that.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        listening = [sock.fileno() for sock in sockets]
        command = [sys.executable, "-m", "whet.serve.worker", "--parent", str(os.getpid())]
        command += ["--control-fd", str(theirs.fileno()), "--listen-fd", *map(str, listening)]
        if seated:
            command += ["--roam", *map(str, place.roam)]
        popen, notes = _start(command, place, (*listening, theirs.fileno()), env)
    for note in notes:
        log.warning("worker %d: %s", index, note)
    ours.setblocking(False)
    return WorkerProcess(index, popen, await control.over(ours, handle))


def _start(
    command: list[str], place: WorkerPlace, fds: tuple[int, ...], env: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], list[str]]:
    """Start a process; no other one may start meanwhile, so this does not wait for anything."""
    with inherited(place.cpus, place.nodes) as notes:
        return subprocess.Popen(command, pass_fds=fds, env=dict(env), stdin=subprocess.DEVNULL), notes
