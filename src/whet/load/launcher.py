"""Starts a server of our own as a subprocess, on free ports, and makes sure that it is gone afterwards."""

import asyncio
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from whet.errors import EnvironmentLacks, NotReady, UsageError
from whet.host.apply import inherited
from whet.settings import environ

SERVE = (sys.executable, "-m", "whet", "serve")


class Server:
    """A ``whet serve`` of our own; a context manager, plain or async.

    Args:
        args: of ``whet serve``: what to serve, and flags; ports and ``--announce`` are added.
        cpus: logical CPUs it may run on, set before it starts; all of the caller's when None.
        env: added to the environment.
        ready_s: seconds it may take to become ready.
        stop_s: seconds it may take to drain after SIGTERM; then it is killed.
        poll_s: seconds between looks at whether it is ready.
        command: what to run instead of :data:`SERVE`.

    Attributes:
        http: URL of its HTTP port, once started.
        grpc: URL of its gRPC port, or empty.
        announced: what it said about itself.
    """

    def __init__(
        self,
        args: Sequence[str],
        *,
        cpus: Iterable[int] | None = None,
        env: Mapping[str, str] | None = None,
        ready_s: float = 120.0,
        stop_s: float = 30.0,
        poll_s: float = 0.05,
        command: Sequence[str] = SERVE,
    ) -> None:
        self.args = tuple(args)
        self.ready_s, self.stop_s, self.poll_s = ready_s, stop_s, poll_s
        self.http = self.grpc = ""
        self.announced: dict[str, Any] = {}
        self._command = tuple(command)
        self._cpus = None if cpus is None else frozenset(cpus)
        self._env = {**environ(), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pid(self) -> int:
        """Of the supervisor; raises UsageError before it was started."""
        if self._process is None:
            raise UsageError("the server was not started: use it as a context manager, or call start()")
        return self._process.pid

    def start(self) -> Self:
        """Start it and return when it says that it is ready.

        Raises:
            EnvironmentLacks: it ended; carries the end of what it logged.
            NotReady: it was not ready in time; it was stopped.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="whet-server-")
        folder = Path(self._folder.name)
        announce = folder / "announce.json"
        line = [*self._command, *self.args, "--announce", str(announce), "--http-port", "0", "--grpc-port", "0"]
        try:
            self._process = self._spawn(line, folder / "log")
            self._await(announce)
        except BaseException:
            self.stop(grace_s=0)
            raise
        return self

    def stop(self, grace_s: float | None = None) -> int | None:
        """Ask it to drain and end; kill it and its children if it does not. Returns its exit code; None if not running.

        Args:
            grace_s: seconds before it is killed, instead of ``stop_s``; 0 kills at once.
        """
        process, self._process = self._process, None
        grace = self.stop_s if grace_s is None else grace_s
        try:
            if process is not None and grace > 0 and process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace)
        finally:
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if self._folder is not None:
                self._folder.cleanup()
        return process.returncode if process is not None else None

    def log(self) -> str:
        """Return what it wrote to standard output and error so far."""
        if self._folder is None:
            return ""
        with contextlib.suppress(OSError):
            return (Path(self._folder.name) / "log").read_text(errors="replace")
        return ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _spawn(self, line: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(log.open("wb"))
            if self._cpus is not None:  # a child inherits the mask of the thread that forks it
                notes = stack.enter_context(inherited(self._cpus))
                if notes:
                    raise UsageError(f"the server cannot run where it should: {notes[0]}")
            # A group of its own: one signal then reaches the workers too, and the terminal's Ctrl-C does not.
            return subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=self._env, start_new_session=True
            )

    def _await(self, announce: Path) -> None:
        assert self._process is not None
        end = time.monotonic() + self.ready_s
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise EnvironmentLacks(
                    f"the server ended with exit code {self._process.returncode} before it was ready:\n{self._tail()}"
                )
            if announce.exists() and self._read(announce) and _is_ready(self.http):
                return
            time.sleep(self.poll_s)
        raise NotReady(f"the server was not ready within {self.ready_s:g} s; its log ends:\n{self._tail()}")

    def _read(self, announce: Path) -> bool:
        try:
            self.announced = msgspec.json.decode(announce.read_bytes(), type=dict[str, Any])
        except msgspec.DecodeError:
            return False  # being written
        self.http = str(self.announced.get("http") or "")
        self.grpc = str(self.announced.get("grpc") or "")
        return bool(self.http)

    def _tail(self, lines: int = 20) -> str:
        return "\n".join(self.log().splitlines()[-lines:]) or "(it logged nothing)"


def _is_ready(url: str) -> bool:
    # http.client and not urllib: a proxy of the environment has no business with our own child.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
