"""A worker process: one event loop that decodes, offers and encodes, and the lanes of its engines.

Started by the supervisor with its CPU mask, memory policy and environment already in force; it inherits the listening
HTTP socket and one end of a control connection, and does as it is told over that. Run as ``python -m
whet.serve.worker``; not meant for people.
"""

import argparse
import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import uvloop

from whet.engine import open_engine
from whet.engine.engine import Engine
from whet.engine.environment import unmet
from whet.engine.gate import CoreGate
from whet.errors import PlanRefused, RuntimeFailed, Unsupported, WhetError
from whet.host import memory, room_for, set_affinity
from whet.host.masks import hold_masks
from whet.models.artifact import Artifact
from whet.serve import control, logs
from whet.serve.codes import known, to_wire
from whet.serve.deployment import Configuration, Deployment
from whet.serve.exchange import Limits
from whet.serve.h2.server import GrpcServer
from whet.serve.http import HttpServer
from whet.serve.meters import WorkerNumbers
from whet.serve.metrics import Fleet
from whet.serve.ports import BACKLOG
from whet.serve.repository import Repository
from whet.serve.rest import Rest
from whet.serve.rpc import Rpc
from whet.serve.server import SocketServer
from whet.serve.service import Service
from whet.settings import ServeSettings, cache_folder, environ

log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_M_MMAP_THRESHOLD = -3
MAPPED_BYTES = 1 << 20
"""Allocations from this size on are mapped each by itself; pictures of usual size stay below."""


class Link:
    """The worker's end of the control connection, as the service sees it."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.channel: control.Channel | None = None

    async def ask(self, op: str, /, **args: Any) -> Any:
        """Ask the supervisor."""
        assert self.channel is not None
        return await self.channel.ask(op, **args)


class Worker:
    """One worker's parts, and the commands of its supervisor."""

    def __init__(self, sockets: Sequence[socket.socket], configuration: Configuration, link: Link) -> None:
        loop = asyncio.get_running_loop()
        settings = configuration.settings
        self._loop, self._settings, self._configuration = loop, settings, configuration
        self._cache = cache_folder(settings.cache_dir) / "compiled"
        self._gates: dict[int, CoreGate] = {}
        self._repository = Repository(self._open_engine, settings.drain_ms / 1e3)
        self._service = Service(self._repository, settings, link)
        self._link = link
        age_s = settings.grpc_connection_age_ms / 1e3 if configuration.reconnect else None
        self._servers: tuple[SocketServer, ...] = (
            HttpServer(Rest(self._service, loop), limits_of(settings), loop),
            GrpcServer(Rpc(self._service, loop), limits_of(settings), loop, age_s),
        )
        self._sockets = sockets
        self._listeners: list[asyncio.Server] = []
        self._drained: asyncio.Task[bool] | None = None
        self.over = asyncio.Event()

    async def handle(self, op: str, args: dict[str, Any]) -> Any:
        """Carry out a command of the supervisor."""
        if op == "apply":
            return await self._apply(msgspec.convert(args["deployments"], list[Deployment]), args["unload"])
        if op == "open":
            return await self._open()
        if op == "numbers":
            return msgspec.to_builtins(self._numbers())
        if op == "index":
            return self._repository.index()
        if op == "fleet":
            self._link.fleet = msgspec.convert(args, Fleet)
            return None
        if op == "drain":
            return await self.drain()
        raise WhetError(f"worker: command '{op}' is unknown; this is a bug")

    def drain(self) -> asyncio.Task[bool]:
        """Stop taking requests, answer those in flight, close the models; then :attr:`over` is set."""
        self._drained = self._drained or self._loop.create_task(self._drain())
        return self._drained

    async def _open(self) -> None:
        """Begin to take requests on every port."""
        for server, sock in zip(self._servers, self._sockets, strict=False):  # without gRPC there is one socket
            sock.setblocking(False)
            self._listeners.append(await self._loop.create_server(server.protocol, sock=sock.dup(), backlog=BACKLOG))

    async def _apply(self, deployments: list[Deployment], unload: list[tuple[str, str]]) -> list[dict[str, Any]]:
        """Load what is new or changed, then unload what is not wanted; return the errors, by model."""
        outcomes = await asyncio.gather(*(self._load(one) for one in deployments))
        failures = [failure for failure in outcomes if failure is not None]
        if not failures:
            for name, version in unload:
                with contextlib.suppress(WhetError):
                    await self._repository.unload(name, [version])
        # What lives now lives long: the collector need not walk it again and again.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return failures

    async def _load(self, deployment: Deployment) -> dict[str, Any] | None:
        try:
            await self._repository.load(deployment)
        except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
            failure = known(error)
            log.error("model %s version %s: %s", deployment.name, deployment.version, failure)  # noqa: TRY400  (no trace)
            return {"name": deployment.name, "version": deployment.version, **to_wire(failure)}
        return None

    async def _open_engine(self, artifact: Artifact, deployment: Deployment) -> Engine:
        for lack in unmet(deployment.plan, environ()):
            log.warning("model %s: the environment of its plan does not hold: %s", deployment.name, lack)
        gate = None
        if deployment.gate_cores:
            gate = self._gates.setdefault(deployment.gate_cores, CoreGate(deployment.gate_cores))
        how: dict[str, Any] = {"gate": gate, "name": deployment.name, "weight": deployment.weight}
        how |= {"cache_dir": self._cache, "beside": self._repository.serves}
        try:
            return await open_engine(artifact, deployment.plan, **how)
        except (PlanRefused, RuntimeFailed, Unsupported) as error:
            if not deployment.fallback:
                raise
            log.warning("model %s: %s; trying %s", deployment.name, error, deployment.fallback)
        return await open_engine(artifact, deployment.plan.with_(runtime=deployment.fallback), **how)

    def _numbers(self) -> WorkerNumbers:
        used = resource.getrusage(resource.RUSAGE_SELF)
        resident = memory()
        return WorkerNumbers(
            index=self._configuration.index,
            pid=os.getpid(),
            rss_bytes=resident.rss,
            pss_bytes=resident.pss,
            uss_bytes=resident.uss,
            cpu_s=used.ru_utime + used.ru_stime,
            connections=len(self._servers[0].connections),
            models=[*self._repository.numbers(), self._service.nobody.snapshot(None)],
        )

    async def _drain(self) -> bool:
        timeout_s = self._settings.drain_ms / 1e3
        if self._listeners:
            for listener in self._listeners:
                listener.close()
            for server, sock in zip(self._servers, self._sockets, strict=False):
                await self._take_backlog(server, sock)
        clean = await asyncio.gather(*(server.drain(timeout_s) for server in self._servers))
        await self._repository.close()
        self._loop.call_later(0.05, self.over.set)  # the answer to this command leaves first
        return all(clean)

    async def _take_backlog(self, server: SocketServer, listening: socket.socket) -> None:
        """Take the connections that wait in the kernel's queue: they would be reset when the last worker closes."""
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listening.accept()
                sock.setblocking(False)
                await self._loop.connect_accepted_socket(server.protocol, sock)
        listening.close()


def limits_of(settings: ServeSettings) -> Limits:
    """Return the bounds of HTTP from the settings; each transport may have half of the files there is room for."""
    fit = (room_for(2 * settings.max_connections) + 1) // 2
    if fit < settings.max_connections:
        log.warning(
            "room for %d connections, not %d: raise the hard limit on open files (ulimit -Hn)",
            fit,
            settings.max_connections,
        )
    return Limits(
        body_bytes=settings.max_body_bytes,
        header_bytes=settings.max_header_bytes,
        connections=fit,
        header_s=settings.header_timeout_ms / 1e3,
        body_s=settings.body_timeout_ms / 1e3,
        idle_s=settings.idle_timeout_ms / 1e3,
    )


def _die_with(parent: int) -> None:
    """Make the kernel end this process when its supervisor ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _sit_still(roam: Sequence[int]) -> None:
    """Leave the CPU mask to the supervisor, or spread out where a runtime could not be kept from undoing its moves."""
    note = hold_masks()
    if note is not None:
        log.warning("%s; the scheduler chooses the CPUs", note)
        set_affinity(roam)


def _return_memory() -> None:
    """Fix the size from which glibc maps memory of its own for an allocation, and gives it back when it is freed.

    Left alone, that size grows with the largest body ever freed (mallopt(3)), and every thread then keeps the peak of
    its requests for ever.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)


async def _serve(sockets: Sequence[socket.socket], control_socket: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    link, configured = Link(), loop.create_future()

    async def handle(op: str, args: dict[str, Any]) -> Any:
        if op == "configure":
            configuration = msgspec.convert(args, Configuration)
            settings = configuration.settings
            logs.configure(f"worker {configuration.index}", settings.log_level, settings.log_format)
            sys.setswitchinterval(settings.switch_interval_us / 1e6)
            configured.set_result(Worker(sockets, configuration, link))
            return None
        worker: Worker = await configured
        return await worker.handle(op, args)

    link.channel = await control.over(control_socket, handle)
    connection = loop.create_task(link.channel.run())
    try:
        await asyncio.wait([configured, connection], return_when=asyncio.FIRST_COMPLETED)
        if not configured.done():
            return
        worker = configured.result()
        loop.add_signal_handler(signal.SIGTERM, worker.drain)
        connection.add_done_callback(lambda _: worker.drain())  # without a supervisor there is nothing to serve for
        await worker.over.wait()
    finally:
        link.channel.close()
        await asyncio.wait([connection])


def main() -> None:
    """Run a worker on inherited descriptors until it has drained."""
    parser = argparse.ArgumentParser(prog="whet.serve.worker")
    for name in ("control-fd", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, nargs="+", required=True, help="of HTTP, then of gRPC if it is served")
    parser.add_argument("--roam", type=int, nargs="+", help="hold CPU masks; CPUs to spread over where that cannot be")
    args = parser.parse_args()
    _die_with(args.parent)
    if args.roam:
        _sit_still(args.roam)
    _return_memory()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to the group; the supervisor decides
    for fd in (*args.listen_fd, args.control_fd):
        os.set_inheritable(fd, False)  # else children of a runtime would hold the ports
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sockets = [socket.socket(fileno=fd) for fd in args.listen_fd]
        runner.run(_serve(sockets, socket.socket(fileno=args.control_fd)))
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0)  # a lane that hangs, or a runtime's own destructors, must not undo an end that was reached


if __name__ == "__main__":
    main()
