"""The models of one worker: name x version, and how one takes another's place.

A version is constructed and warmed before it is switched to; the one it replaces is drained and closed after. If the
new one fails, the old one never stopped serving::

    (absent) --load--> LOADING --> READY --unload--> UNLOADING --> UNAVAILABLE
                          |          ^ |
                          |          +-+ load of another plan or artifact: the state stays READY all along
                          +--> UNAVAILABLE, with the reason
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from whet.engine.engine import Engine
from whet.errors import NotFound, NotReady
from whet.models.artifact import Artifact, load_artifact
from whet.serve.codes import known
from whet.serve.deployment import LOADING, READY, UNAVAILABLE, UNLOADING, Deployment, version_order
from whet.serve.meters import Meter, ModelNumbers
from whet.serve.protocol import Signature

log = logging.getLogger(__name__)


Open = Callable[[Artifact, Deployment], Awaitable[Engine]]
"""Compiles and warms an artifact as deployed."""


@dataclass(slots=True, eq=False)
class Model:
    """A version that is open.

    Attributes:
        deployment: what was asked for.
        artifact: what runs.
        engine: runs it.
        signature: what it takes and gives.
        meter: counts its requests; outlives it.
    """

    deployment: Deployment
    artifact: Artifact
    engine: Engine
    signature: Signature
    meter: Meter

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.deployment.name

    @property
    def version(self) -> str:
        """Version of the model."""
        return self.deployment.version


@dataclass(slots=True)
class _Entry:
    state: str
    meter: Meter
    reason: str = ""
    model: Model | None = None


class Repository:
    """Which models this worker serves. All on the loop's thread."""

    def __init__(self, opener: Open, drain_s: float) -> None:
        self._open, self._drain_s = opener, drain_s
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._serving: dict[tuple[str, str], Model] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def find(self, name: str, version: str = "") -> Model:
        """Return the model that serves; without a version the highest that does.

        Raises:
            NotFound: no such model or version.
            NotReady: it is known, and does not serve now.
        """
        model = self._serving.get((name, version))
        if model is not None:
            return model
        states = [entry for key, entry in self._entries.items() if key[0] == name and version in ("", key[1])]
        said = f"model '{name[:200]}'" + (f" version '{version[:200]}'" if version else "")
        if not states:
            raise NotFound(f"{said} is unknown; the repository index lists what there is")
        state = states[-1]
        raise NotReady(f"{said} is {state.state.lower()}{': ' + state.reason if state.reason else ''}; try again later")

    @property
    def serves(self) -> bool:
        """Some model is served now."""
        return bool(self._serving)

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model that serve, ascending."""
        return sorted((key[1] for key in self._serving if key[0] == name and key[1]), key=version_order)

    def index(self) -> list[dict[str, str]]:
        """Return name, version, state and reason of everything this worker knows."""
        return [
            {"name": name, "version": version, "state": entry.state, "reason": entry.reason}
            for (name, version), entry in sorted(self._entries.items(), key=lambda one: one[0])
        ]

    def numbers(self) -> list[ModelNumbers]:
        """Return everything counted, per model."""
        return [
            entry.meter.snapshot(entry.model.engine.stats() if entry.model else None)
            for entry in self._entries.values()
        ]

    async def load(self, deployment: Deployment) -> None:
        """Serve ``deployment``, in place of what has its name and version now.

        Raises:
            WhetError: it cannot be opened; what served before still does.
        """
        name, version = deployment.name, deployment.version
        async with self._locks.setdefault(name, asyncio.Lock()):
            entry = self._entries.get((name, version))
            if entry is None:
                entry = self._entries[name, version] = _Entry(LOADING, Meter(name, version))
            old = entry.model
            if old is not None and old.deployment.runs_as(deployment):
                return
            entry.state = READY if old else LOADING
            entry.reason = ""
            try:
                model = await self._construct(deployment, entry.meter)
            except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
                failure = known(error)
                entry.state = READY if old else UNAVAILABLE
                entry.reason = f"loading failed: {failure}"
                raise failure from None
            entry.model, entry.state = model, READY
            self._switch()
            log.info("model %s version %s ready: %s (%s)", name, version, deployment.plan, deployment.why)
            if old is not None:
                await self._retire(old)

    async def unload(self, name: str, versions: Iterable[str] | None = None) -> None:
        """Stop serving a model, or some versions of it; what is in flight is answered.

        Raises:
            NotFound: nothing of that name is served.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            wanted = None if versions is None else set(versions)
            leaving = [
                entry
                for key, entry in self._entries.items()
                if key[0] == name and entry.model is not None and (wanted is None or key[1] in wanted)
            ]
            if not leaving:
                raise NotFound(f"model '{name[:200]}' is not loaded")
            retired = []
            for entry in leaving:
                assert entry.model is not None
                retired.append((entry, entry.model))
                entry.state, entry.model, entry.reason = UNLOADING, None, ""
            self._switch()
            await asyncio.gather(*(self._retire(model) for _, model in retired))
            for entry, _ in retired:
                entry.state, entry.reason = UNAVAILABLE, "unloaded"

    async def close(self) -> None:
        """Drain and close everything."""
        models = [entry.model for entry in self._entries.values() if entry.model is not None]
        for entry in self._entries.values():
            entry.state, entry.model = UNAVAILABLE, None
        self._switch()
        await asyncio.gather(*(self._retire(model) for model in models))

    async def _construct(self, deployment: Deployment, meter: Meter) -> Model:
        artifact = load_artifact(Path(deployment.artifact))
        engine = await self._open(artifact, deployment)
        return Model(deployment, artifact, engine, Signature(engine.inputs, engine.outputs), meter)

    def _switch(self) -> None:
        """Make what :meth:`find` sees follow the entries, in one step."""
        serving = {key: entry.model for key, entry in self._entries.items() if entry.model is not None}
        for name, version in sorted(serving, key=lambda key: version_order(key[1])):
            serving[name, ""] = serving[name, version]
        self._serving = serving

    async def _retire(self, model: Model) -> None:
        try:
            if not await model.engine.drain(self._drain_s):
                log.warning("model %s version %s: requests were left when it closed", model.name, model.version)
            model.meter.absorb(model.engine.stats())
            await model.engine.close()
        except Exception as error:  # noqa: BLE001  (known() logs what is not of the tree)
            log.warning("closing model %s version %s: %s", model.name, model.version, known(error))
