"""What the supervisor does when asked: by a worker for a client, by a signal, or over the control socket."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from whet.errors import NotFound, UsageError
from whet.host import Host
from whet.models.bundle import PlanRecord
from whet.serve.deployment import READY, UNAVAILABLE, divide
from whet.serve.fleet import totals
from whet.serve.meters import WorkerNumbers, merge
from whet.serve.metrics import render, statistics
from whet.serve.sources import resolve
from whet.serve.supervisor import Supervisor
from whet.settings import ServeSettings, masked

log = logging.getLogger(__name__)


class Commands:
    """The commands, by name. Give :meth:`handle` to whoever listens.

    Attributes:
        supervisor: of the fleet, once there is one.
        known: what revalidating found of bundles that cannot be written.
    """

    def __init__(self, settings: ServeSettings, host: Host) -> None:
        self._settings, self._host = settings, host
        self.supervisor: Supervisor | None = None
        self.known: dict[str, tuple[PlanRecord, ...]] = {}
        self._ordering = asyncio.Lock()
        self._table: dict[str, Callable[..., Awaitable[Any]]] = {
            "index": self.index,
            "statistics": self.statistics,
            "metrics": self.metrics,
            "load": self.load,
            "unload": self.unload,
            "reload": self.reload,
            "restart": self.restart,
            "status": self.status,
        }

    async def handle(self, op: str, args: dict[str, Any]) -> Any:
        """Carry out a command.

        Raises:
            UsageError: no such command, or other arguments than it takes.
        """
        if op not in self._table:
            raise UsageError(f"command '{op[:40]}' is unknown; known are {', '.join(self._table)}")
        try:
            work = self._table[op](**args)
        except TypeError as error:
            raise UsageError(f"command '{op}' does not take these arguments: {error}") from None
        return await work

    async def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Return every model with its state; one that serves in some worker only is READY, and the reason says so."""
        fleet = self._fleet
        answers = await asyncio.gather(*(worker.ask("index") for worker in fleet.workers), return_exceptions=True)
        indexes = [answer for answer in answers if isinstance(answer, list)]
        found: dict[tuple[str, str], list[dict[str, str]]] = {}
        for entry in (entry for index in indexes for entry in index):
            found.setdefault((entry["name"], entry["version"]), []).append(entry)
        merged = [_merge(entries, len(indexes)) for _, entries in sorted(found.items())]
        return [entry for entry in merged if not ready or entry["state"] == READY]

    async def statistics(self, *, name: str = "", version: str = "") -> dict[str, Any]:
        """Return the protocol's statistics over all workers."""
        numbers = merge(await self._numbers())
        chosen = [one for one in numbers if one.name and name in ("", one.name) and version in ("", one.version)]
        return statistics(chosen)

    async def metrics(self) -> str:
        """Return Prometheus text over all workers."""
        return render(await self._numbers(), self._fleet.throttled()).decode()

    async def load(self, *, name: str) -> None:
        """Read the sources again for one model, and serve what they hold."""
        supervisor = self._fleet
        async with self._ordering:
            new = await asyncio.to_thread(resolve, self._settings, self._host, name, self.known)
            others = [one for one in supervisor.wanted.values() if one.name != name]
            await self._change([*others, *new])

    async def unload(self, *, name: str) -> None:
        """Serve a model no longer, until it is loaded again."""
        supervisor = self._fleet
        async with self._ordering:
            others = [one for one in supervisor.wanted.values() if one.name != name]
            if len(others) == len(supervisor.wanted):
                raise NotFound(f"model '{name[:200]}' is not loaded")
            await self._change(others)

    async def reload(self) -> None:
        """Read all sources again, and serve what they hold."""
        supervisor = self._fleet
        async with self._ordering:
            await self._change(await asyncio.to_thread(resolve, self._settings, self._host, None, self.known))
            log.info("reloaded: %s", ", ".join(f"{name} {version}" for name, version in supervisor.wanted))

    async def restart(self) -> None:
        """Replace every worker, one after another."""
        supervisor = self._fleet
        async with self._ordering:
            await supervisor.restart()
            log.info("every worker was replaced")

    async def status(self) -> dict[str, Any]:
        """Return what is served, by whom, under which settings."""
        supervisor = self._fleet
        return {
            "fleet": msgspec.to_builtins(supervisor.fleet),
            "workers": [{"index": one.index, "pid": one.pid, "serving": one.serving} for one in supervisor.workers],
            "models": [msgspec.to_builtins(one) for one in supervisor.wanted.values()],
            "settings": masked(self._settings),
        }

    @property
    def _fleet(self) -> Supervisor:
        if self.supervisor is None:
            raise UsageError("the server is starting; ask again in a moment")
        return self.supervisor

    async def _change(self, deployments: Any) -> None:
        names = {one.name for one in deployments}
        weights = {name: weight for name, weight in self._settings.cpu_weights.items() if name in names}
        await self._fleet.change(divide(deployments, self._fleet.stage.compute_cores, weights))

    async def _numbers(self) -> list[WorkerNumbers]:
        supervisor = self._fleet
        await asyncio.gather(*(worker.refresh() for worker in supervisor.workers), return_exceptions=True)
        return totals([worker.numbers for worker in supervisor.workers], supervisor.gone)


def _merge(entries: list[dict[str, str]], workers: int) -> dict[str, str]:
    """Return one entry for all workers: the best state, and what is missing."""
    ready = [entry for entry in entries if entry["state"] == READY]
    best = dict((ready or [entry for entry in entries if entry["state"] != UNAVAILABLE] or entries)[0])
    if ready and len(ready) < workers:
        best["reason"] = f"in {len(ready)} of {workers} workers"
    return best
