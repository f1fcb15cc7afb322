"""``whet serve``: from settings to a running fleet, and back to an exit code."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

import whet
from whet.engine.environment import environment
from whet.errors import OutputError, PlanRefused, WhetError
from whet.host import Host, Placement, default_workers, place, read_host
from whet.serve import control, logs, ports
from whet.serve.commands import Commands
from whet.serve.deployment import Deployment, divide
from whet.serve.revalidate import revalidate
from whet.serve.seats import Seats
from whet.serve.sources import resolve
from whet.serve.supervisor import Stage, Supervisor
from whet.settings import ServeSettings, environ

log = logging.getLogger(__name__)
_OF_PLANS = {"ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "KMP_BLOCKTIME", "KMP_AFFINITY"}
"""Variables that belong to plans."""
FRONT_FROM = 8
"""Cores from which one is left to a worker's event loop by default."""


def run(settings: ServeSettings) -> int:
    """Serve until told to stop, and return the exit code: 0 after SIGTERM, 130 after SIGINT.

    Raises:
        WhetError: the server cannot start: a port, a source, a plan or a model.
    """
    logs.configure("supervisor", settings.log_level, settings.log_format)
    # Ports come first: a port in use is found out before models are imported for minutes.
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(ports.listening("HTTP", settings.host, settings.http_port))]
        if settings.grpc:
            sockets.append(held.enter_context(ports.listening("gRPC", settings.host, settings.grpc_port)))
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="whet-"))
        control_path = Path(settings.control_socket or f"{folder}/control.sock")
        return asyncio.run(_serve(settings, tuple(sockets), control_path))


async def _serve(settings: ServeSettings, sockets: tuple[socket.socket, ...], control_path: Path) -> int:
    host = read_host()
    commands = Commands(settings, host)
    stopped = _signals(commands)
    preparing = asyncio.ensure_future(_prepare(settings, host, commands))
    await asyncio.wait((preparing, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not preparing.done():
        preparing.cancel()
        await asyncio.wait((preparing,))
        return await stopped
    deployments = await preparing
    placement, cores = _place(settings, host, deployments)
    wanted = divide(deployments, cores, settings.cpu_weights)
    seats = _seats(placement, host.budget.quota, wanted)
    stage = Stage(settings, placement.workers, sockets, _environment(wanted), cores, seats)
    supervisor = commands.supervisor = Supervisor(stage, wanted, commands.handle)
    starting = asyncio.ensure_future(supervisor.start())
    await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return await stopped
    await starting
    return await _until_stopped(settings, commands, supervisor, control_path, stopped)


async def _prepare(settings: ServeSettings, host: Host, commands: Commands) -> list[Deployment]:
    """Return what to serve; plans of other hosts are measured on this one first, where the settings say so."""
    deployments = await asyncio.to_thread(resolve, settings, host)
    if settings.revalidate and await revalidate(settings, deployments, commands.known):
        return await asyncio.to_thread(resolve, settings, host, None, commands.known)
    return deployments


async def _until_stopped(
    settings: ServeSettings,
    commands: Commands,
    supervisor: Supervisor,
    control_path: Path,
    stopped: "asyncio.Future[int]",
) -> int:
    async with _control(control_path, commands):
        _announce(settings, supervisor, control_path)
        code = await stopped
        log.info("stopping: what is in flight has %g s", settings.drain_ms / 1e3)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):  # whoever asks again does not want to wait
            loop.add_signal_handler(number, supervisor.kill)
        clean = await supervisor.stop(settings.drain_ms / 1e3)
        log.info("stopped%s", "" if clean else ", but not everything was answered")
        return code


def _place(settings: ServeSettings, host: Host, deployments: list[Deployment]) -> tuple[Placement, int]:
    """Return where workers run, and how many cores compute in each.

    Raises:
        PlanRefused: more workers, or cores left to the loop, than there are cores.
    """
    usable = min(host.budget.physical, host.budget.cores)
    planned = max(one.plan.workers for one in deployments)
    workers = settings.workers or (planned if planned > 1 else min(default_workers(host), usable))
    front = settings.front_cores if settings.front_cores is not None else int(usable // workers >= FRONT_FROM)
    cores = usable // workers - front
    if cores < 1:
        raise PlanRefused(
            f"{workers} workers with {front} cores each for the loop do not fit {usable} cores ({host.budget.reason}); "
            "lower --workers or --front-cores"
        )
    return place(host, workers, cores, 1, front_cores=front), cores


def _seats(placement: Placement, quota: float | None, wanted: list[Deployment]) -> Seats | None:
    """Return what chooses CPUs where a quota is narrower than the mask; plans that pin choose for themselves."""
    if not placement.shared or quota is None or any(one.plan.pinning for one in wanted):
        return None
    return Seats(placement.workers, quota)


def _environment(deployments: list[Deployment]) -> dict[str, str]:
    """Return the environment of workers: ours, and what the plans ask for; the first of plans that differ wins."""
    env = environ()
    for name in _OF_PLANS & env.keys():  # a plan was measured without it
        log.warning("%s=%s is not passed on to workers: their plans decide", name, env.pop(name))
    asked: dict[str, str] = {}
    for one in deployments:
        for name, value in environment(one.plan).items():
            if asked.setdefault(name, value) != value:
                log.warning("model %s wants %s=%s; workers have %s already", one.name, name, value, asked[name])
    return {**env, **asked}


def _signals(commands: Commands) -> asyncio.Future[int]:
    """Return a future of the exit code that a signal asks for; other signals are carried out as commands."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if not stopped.done():
            stopped.set_result(code)

    loop.add_signal_handler(signal.SIGTERM, stop, 0)
    loop.add_signal_handler(signal.SIGINT, stop, 130)
    for number, work in ((signal.SIGHUP, commands.reload), (signal.SIGUSR1, commands.restart)):
        loop.add_signal_handler(number, _attempt, number.name, work)
    return stopped


def _attempt(name: str, work: Any) -> None:
    """Do what a signal asks; a failure is logged, and what is served stays as it is."""

    async def attempt() -> None:
        try:
            await work()
        except WhetError as error:
            log.error("%s: %s; what is served stays as it is", name, error)  # noqa: TRY400  (no trace)

    _attempts.add(task := asyncio.get_running_loop().create_task(attempt()))
    task.add_done_callback(_attempts.discard)


_attempts: set[asyncio.Task[None]] = set()


@contextlib.asynccontextmanager
async def _control(path: Path, commands: Commands) -> AsyncIterator[None]:
    """Listen on the control socket for as long as the block runs."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await control.Channel(reader, writer, commands.handle).run()

    server = await asyncio.start_unix_server(connected, sock=_unix(path), limit=control.LINE_BYTES)
    try:
        yield
    finally:
        server.close()
        _forget(path)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # left by a server that was killed
        sock.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        sock.close()
        raise OutputError(f"cannot listen on control socket {path}: {error.strerror}; see --control-socket") from error
    return sock


def _announce(settings: ServeSettings, supervisor: Supervisor, control_path: Path) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    http_port, *more = (sock.getsockname()[1] for sock in supervisor.stage.sockets)
    http = f"http://{host}:{http_port}"
    grpc = f"grpc://{host}:{more[0]}" if more else ""
    for one in supervisor.wanted.values():
        log.info("%s/models/%s: %s (%s)", http, one.name, one.plan, one.why)
    log.info("ready: %s%s, %d workers", http, f" and {grpc}" if grpc else "", len(supervisor.workers))
    if not settings.announce:
        return
    document = {
        "whet": whet.__version__,
        "http": http,
        "grpc": grpc,
        "http_port": http_port,
        "grpc_port": more[0] if more else 0,
        "pid": os.getpid(),
        "workers": [worker.pid for worker in supervisor.workers],
        "control": str(control_path),
        "models": [
            {"name": one.name, "version": one.version, "plan": one.plan.id, "words": str(one.plan), "why": one.why}
            for one in supervisor.wanted.values()
        ],
    }
    path = Path(settings.announce)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(msgspec.json.encode(document) + b"\n")
        beside.rename(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; see --announce") from error
