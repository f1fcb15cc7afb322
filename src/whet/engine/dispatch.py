"""When a prepared batch may run: at once on lanes of one's own, or as the worker's core gate allows."""

from collections.abc import Callable
from typing import Protocol

from whet.engine.batcher import Batcher
from whet.engine.gate import CoreGate
from whet.engine.lanes import Lanes, Place
from whet.engine.tokens import Member
from whet.plan import Plan

Next = Callable[[], Place | None]
"""Returns the next place with its batch copied in, or None if nothing should start now."""


class Dispatch(Protocol):
    """Starts places on lanes. Everything happens on the loop's thread."""

    def pump(self, prepare: Next) -> None:
        """Start whatever may start, and prepare one batch ahead."""
        ...

    def collected(self, places: list[Place]) -> None:
        """Take note that ``places`` have ended; the engine has taken their batches back from the batcher."""
        ...

    def close(self) -> None:
        """Give up what is shared with others. Nothing is in flight."""
        ...


class Own:
    """Lanes of one's own: every place starts at once; the one beyond the lanes waits in the lanes' own queue.

    Args:
        lanes: as many as the plan's streams.
        gate: of the worker, which is told that these cores are taken, or None where the model is alone.
        name: of the model, for the gate's shares.
        plan: of the engine.
    """

    def __init__(self, lanes: Lanes, gate: CoreGate | None, name: str, plan: Plan) -> None:
        self._lanes = lanes
        self._gate = gate
        self._member = None if gate is None else gate.join(name, plan, self)

    def pump(self, prepare: Next) -> None:
        """See :class:`Dispatch`."""
        while (place := prepare()) is not None:
            self._lanes.start(place)

    def collected(self, places: list[Place]) -> None:
        """See :class:`Dispatch`."""

    def wake(self) -> None:
        """See :class:`whet.engine.gate.Guest`; never called: its cores are its own."""

    def recall(self) -> None:
        """See :class:`whet.engine.gate.Guest`; never called."""

    def close(self) -> None:
        """See :class:`Dispatch`."""
        if self._gate is not None and self._member is not None:
            self._gate.leave(self._member)


class Gated:
    """Cores shared with other engines: a place starts with a token of the gate, and keeps it while it runs.

    One full batch is prepared ahead; while the gate allows it is held at the lanes and inherits the token of whichever
    place ends first, without waiting for the loop.

    Args:
        gate: of the worker.
        who: the model's name, and its part of the cores relative to the other engines'.
        plan: of the engine: one-thread streams.
        work: the lanes, as many as streams, and the batcher, which is told how many it may count on.
        pump: called when the gate has a core to offer.
    """

    def __init__(
        self,
        gate: CoreGate,
        who: tuple[str, float],
        plan: Plan,
        work: tuple[Lanes, Batcher],
        pump: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._lanes, self._batcher = work
        self._ready: Place | None = None
        self._holding = False
        self._running = 0
        self._pump = pump
        self._member: Member = gate.join(who[0], plan, self, who[1])
        self._batcher.lanes = 1

    def pump(self, prepare: Next) -> None:
        """See :class:`Dispatch`."""
        gate, member, batcher = self._gate, self._member, self._batcher
        while self._wants():
            if not gate.ask(member):
                self._prepare_ahead(prepare)
                return
            batcher.lanes = self._running + 1
            place = self._unhold() or prepare()
            if place is None:
                gate.turn(member, more=False)
                batcher.lanes = max(self._running, 1)
                return
            self._running += 1
            self._lanes.start(place)
        gate.content(member)

    def collected(self, places: list[Place]) -> None:
        """See :class:`Dispatch`."""
        for place in places:
            if place.heir is not None:
                self._holding = False
                continue
            self._running -= 1
            self._gate.turn(self._member, more=self._wants())
        self._batcher.lanes = max(self._running, 1)

    def wake(self) -> None:
        """See :class:`whet.engine.gate.Guest`."""
        self._pump()

    def recall(self) -> None:
        """See :class:`whet.engine.gate.Guest`."""
        if self._holding:
            self._ready = self._unhold()

    def close(self) -> None:
        """See :class:`Dispatch`."""
        self._gate.leave(self._member)

    def _wants(self) -> bool:
        return self._batcher.queue.rows > 0 or self._ready is not None or self._holding

    def _prepare_ahead(self, prepare: Next) -> None:
        """Keep one batch ready for the core that comes free next."""
        if self._ready is None and not self._holding and self._running:
            self._batcher.lanes = self._running
            self._ready = prepare()
        if self._ready is not None and self._gate.may_keep(self._member):
            self._lanes.hold(self._ready)
            self._ready, self._holding = None, True

    def _unhold(self) -> Place | None:
        """Return the batch that was prepared ahead, unless a lane has come for it."""
        place, self._ready = self._ready, None
        if place is None and self._holding:
            place = self._lanes.release()
            self._holding = place is None  # a lane took it: its predecessor's end will say so
        return place
