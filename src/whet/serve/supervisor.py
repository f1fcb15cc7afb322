"""The supervisor: starts workers, watches them, and carries commands to all of them. Runs no model itself.

One slot a worker. A slot's task keeps a worker alive: it starts one, has it load what is wanted, lets it take
requests, and when it dies starts another after a wait that doubles until a worker has been healthy for a while.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

import whet
from whet.errors import NotReady, RuntimeFailed, WhetError
from whet.host import WorkerPlace, read_counters
from whet.serve.codes import from_wire
from whet.serve.control import Handle
from whet.serve.deployment import Configuration, Deployment
from whet.serve.fleet import Key, Standing, assess, departed
from whet.serve.meters import ModelNumbers
from whet.serve.metrics import Fleet
from whet.serve.process import WorkerProcess, spawn
from whet.serve.seats import Seats
from whet.settings import ServeSettings

log = logging.getLogger(__name__)
CHECK_S = 5.0
"""How often workers are asked for their numbers."""
KILL_AFTER_S = 5.0
"""How much longer than its drain time a worker may take to end."""
HOPELESS = 3
"""Workers that may die one after another before any was ready."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What workers are started with.

    Attributes:
        settings: of the server.
        places: one for each worker.
        sockets: listening, of HTTP and, if it is served, of gRPC.
        env: whole environment of a worker.
        compute_cores: cores that compute in one worker.
    """

    settings: ServeSettings
    places: tuple[WorkerPlace, ...]
    sockets: tuple[socket.socket, ...]
    env: Mapping[str, str]
    compute_cores: int
    seats: Seats | None = None


@dataclass(slots=True, eq=False)
class _Slot:
    index: int
    worker: WorkerProcess | None = None
    keeper: asyncio.Task[None] | None = None


class Supervisor:
    """The fleet of workers. All on the loop's thread.

    Attributes:
        stage: what workers are started with.
        wanted: what they should serve, by name and version.
        fleet: what is known of all of them.
        gone: what workers that are gone had counted.
        changing: held while a worker loads or unloads.
    """

    def __init__(self, stage: Stage, wanted: Iterable[Deployment], handle: Handle) -> None:
        self.stage = stage
        self.wanted: dict[Key, Deployment] = {(one.name, one.version): one for one in wanted}
        self.fleet = Fleet(whet=whet.__version__)
        self.gone: list[ModelNumbers] = []
        self.changing = asyncio.Lock()
        self._handle = handle
        self._slots = [_Slot(index) for index in range(len(stage.places))]
        self._chores: list[asyncio.Task[None]] = []

    @property
    def workers(self) -> list[WorkerProcess]:
        """Workers that live."""
        return [slot.worker for slot in self._slots if slot.worker is not None]

    async def start(self) -> None:
        """Start every worker and return when the fleet is ready.

        Raises:
            WhetError: a model cannot be served, or workers die before they are ready; everything is stopped.
        """
        ready = [asyncio.get_running_loop().create_future() for _ in self._slots]
        for slot, first in zip(self._slots, ready, strict=True):
            slot.keeper = asyncio.create_task(self._keep(slot, first))
        try:
            await asyncio.gather(*ready)
        except BaseException:
            await self.stop(0.0)
            raise
        self._chores.append(asyncio.create_task(self._check()))
        if self.stage.seats is not None:
            self._chores.append(asyncio.create_task(self.stage.seats.follow()))

    async def stop(self, drain_s: float) -> bool:
        """End every worker; return whether each ended by itself.

        Args:
            drain_s: how long they may finish what is in flight; 0 ends them now.
        """
        for sock in self.stage.sockets:
            sock.close()
        for chore in self._chores:
            chore.cancel()
        for slot in self._slots:
            if slot.keeper is not None:
                slot.keeper.cancel()
        if not drain_s:
            self.kill()
        codes = await asyncio.gather(*(worker.drain(drain_s + KILL_AFTER_S) for worker in self.workers))
        return not any(codes)

    def kill(self) -> None:
        """End every worker now."""
        for worker in self.workers:
            worker.kill()

    async def change(self, wanted: Iterable[Deployment]) -> None:
        """Have every worker serve ``wanted`` instead. On failure every worker serves what it served before.

        Raises:
            WhetError: the first failure of any worker.
        """
        async with self.changing:
            new = {(one.name, one.version): one for one in wanted}
            old = self.wanted
            outcomes = await asyncio.gather(*(self._change_one(worker, new, old) for worker in self.workers))
            failures = [failure for outcome in outcomes for failure in outcome]
            if failures:
                await asyncio.gather(*(self._change_one(worker, old, new) for worker in self.workers))
                raise from_wire(failures[0])
            self.wanted = new
        self.assess()

    async def restart(self) -> None:
        """Replace every worker, one after another; each successor is ready before its predecessor drains.

        Raises:
            WhetError: a successor does not become ready; the workers before it are new, the others as they were.
        """
        for slot in self._slots:
            old = slot.worker
            if old is None:
                raise NotReady(f"worker {slot.index} is being started again already; try again later")
            new = await self._spawn(slot.index)
            try:
                await self._configure(new)
                async with self.changing:
                    failures = await self._apply(new, self.wanted, {})
                if failures:
                    raise from_wire(failures[0])
            except WhetError:
                new.kill()
                raise
            if slot.keeper is not None:
                slot.keeper.cancel()
            # A gRPC port that is not shared is the old one's until that drains: the new one tries until it has it.
            draining = asyncio.create_task(old.drain(self._drain_s))
            slot.worker = new
            await self._open(new)
            slot.keeper = asyncio.create_task(self._keep(slot, None))
            await draining
            self._bury(old)

    def assess(self) -> None:
        """Find out where the fleet stands, and tell every worker if that has changed."""
        standings = [slot.worker.standing if slot.worker else Standing() for slot in self._slots]
        fleet = assess(self.wanted.keys(), standings, self.fleet)
        if fleet != self.fleet:
            log.debug("fleet: %s", fleet)
            self.fleet = fleet
        for worker in self.workers:
            worker.tell("fleet", **msgspec.to_builtins(self.fleet))

    def throttled(self) -> Fleet:
        """Return the fleet with the control group's throttling counters as they are now."""
        worst = read_counters().worst
        if worst is None:
            return self.fleet
        return msgspec.structs.replace(
            self.fleet, throttled_ns=worst.throttled_ns, throttled=worst.throttled, periods=worst.periods
        )

    @property
    def _drain_s(self) -> float:
        return self.stage.settings.drain_ms / 1e3 + KILL_AFTER_S

    async def _keep(self, slot: _Slot, first: asyncio.Future[None] | None) -> None:
        """Keep a worker in ``slot``; ``first`` is settled when it serves for the first time."""
        settings = self.stage.settings
        loop = asyncio.get_running_loop()
        wait_ms, deaths = settings.restart_backoff_ms, 0
        while True:
            began = loop.time()
            try:
                await self._live(slot, first)
            except WhetError as error:
                if first is not None and not first.done():
                    first.set_exception(error)
                    return
                log.error("worker %d: %s", slot.index, error)  # noqa: TRY400  (no trace: it is an error of the tree)
            deaths += 1
            if first is not None and not first.done() and deaths >= HOPELESS:
                said = f"worker {slot.index} died {deaths} times before it was ready; its last words are in the log"
                first.set_exception(RuntimeFailed(said))
                return
            if loop.time() - began >= settings.healthy_after_ms / 1e3:
                wait_ms = settings.restart_backoff_ms
            self.fleet = msgspec.structs.replace(self.fleet, restarts=self.fleet.restarts + 1)
            log.warning("worker %d starts again in %d ms", slot.index, wait_ms)
            await asyncio.sleep(wait_ms / 1e3)
            wait_ms = min(2 * wait_ms, settings.restart_backoff_max_ms)

    async def _live(self, slot: _Slot, first: asyncio.Future[None] | None) -> None:
        """Take a worker from its start to its end; one that is in the slot already only needs to be waited for."""
        worker = slot.worker
        if worker is None:
            worker = slot.worker = await self._spawn(slot.index)
            with contextlib.suppress(NotReady):  # it died on the way, as the code below finds out
                await self._bring_up(worker, early=first is not None and not first.done())
                if first is not None and not first.done():
                    first.set_result(None)
        code = await worker.gone()
        slot.worker = None
        self._bury(worker)
        said = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        log.error("worker %d (pid %d) %s", worker.index, worker.pid, said)
        self.assess()

    async def _bring_up(self, worker: WorkerProcess, *, early: bool) -> None:
        """Have a worker load what is wanted and take requests; ``early``, it answers "not ready" while it loads.

        Raises:
            NotReady: it died meanwhile.
            WhetError: a model cannot be loaded, and no worker ever did.
        """
        await self._configure(worker)
        if early:
            await self._open(worker)
        async with self.changing:
            failures = await self._apply(worker, self.wanted, {})
        if failures and not self.fleet.ready_once:
            worker.kill()
            raise from_wire(failures[0])
        if not early:
            await self._open(worker)
        self.assess()

    async def _spawn(self, index: int) -> WorkerProcess:
        stage, seats = self.stage, self.stage.seats
        place = stage.places[index] if seats is None else await seats.place(index)
        how = (stage.sockets, stage.env, self._handle)
        worker = await spawn(index, place, *how, seated=seats is not None)
        if seats is not None:
            seats.started(index, worker.pid)
        return worker

    async def _configure(self, worker: WorkerProcess) -> None:
        stage = self.stage
        configuration = Configuration(worker.index, stage.settings, reconnect=len(stage.places) > 1)
        await worker.ask("configure", **msgspec.to_builtins(configuration))
        worker.tell("fleet", **msgspec.to_builtins(self.fleet))

    async def _open(self, worker: WorkerProcess) -> None:
        await worker.ask("open")
        worker.serving = True
        self.assess()

    async def _apply(
        self, worker: WorkerProcess, new: Mapping[Key, Deployment], old: Mapping[Key, Deployment]
    ) -> list[dict[str, Any]]:
        """Have one worker serve ``new`` instead of ``old``; return its failures.

        Raises:
            NotReady: the worker died meanwhile.
        """
        unload = [key for key in old if key not in new]
        failures: list[dict[str, Any]] = await worker.ask(
            "apply", deployments=[msgspec.to_builtins(one) for one in new.values()], unload=unload
        )
        failed = {(failure["name"], failure["version"]) for failure in failures}
        worker.models |= new.keys() - failed
        if not failures:
            worker.models -= set(unload)
        return failures

    async def _change_one(
        self, worker: WorkerProcess, new: Mapping[Key, Deployment], old: Mapping[Key, Deployment]
    ) -> list[dict[str, Any]]:
        try:
            return await self._apply(worker, new, old)
        except NotReady:
            return []  # it is gone: its successor loads what is wanted by then

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await asyncio.gather(*(worker.check() for worker in self.workers))

    def _bury(self, worker: WorkerProcess) -> None:
        self.gone += departed(worker.numbers)
