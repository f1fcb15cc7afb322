"""Lanes: where batches are computed, without the GIL and beside the loop.

A prepared slot is started on a lane, or waits for the next that comes free; when it has run it goes into a mailbox,
and the first one into an empty mailbox wakes the loop, so a burst of results costs one wake-up. One more slot than
lanes is kept prepared, so that a lane that finishes goes on at once while the loop is still busy with what came before.

A slot that is *held* has no core of its own yet: the next lane of this pool to finish runs it on the core it has (see
``gate.py``). Cores thus pass from batch to batch without waiting for the loop.

There are two kinds. :class:`ThreadLanes` are threads of ours that call the runtime. :class:`RuntimeLanes` are the
runtime's own threads, for slots that are :class:`whet.engine.base.SelfRunning`: no thread has to be woken between the
loop and the one that computes. ``docs/decisions/0013-openvino-threads.md`` has what that is worth.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol, cast

from whet.engine.base import SelfRunning, Slot
from whet.engine.batcher import Batch

WATCH_S = 0.1
"""How often to ``watch``, seconds: how long a failure may stay unnoticed where the runtime does not tell of it."""
CLOSE_POLL_S = 0.005


class Place:
    """A slot, the batch in it and how it went. Belongs to the loop, except between ``start`` and ``finished``.

    Attributes:
        slot: the session's slot.
        batch: what it computes, or None while free.
        began: when the run began, seconds of ``time.monotonic()``.
        ended: when it ended.
        error: what it raised, or None.
        heir: the held place that runs on this one's core next, or None.
    """

    __slots__ = ("batch", "began", "ended", "error", "heir", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.batch: Batch | None = None
        self.began = 0.0
        self.ended = 0.0
        self.error: BaseException | None = None
        self.heir: Place | None = None


class Lanes(Protocol):
    """``width`` lanes.

    Attributes:
        width: at most this many places run at the same time.
        watched: :meth:`watch` has to be called now and then while places run.
    """

    width: int
    watched: bool

    def start(self, place: Place) -> None:
        """Run ``place`` on the next lane that is free."""
        ...

    def hold(self, place: Place) -> None:
        """Keep ``place`` for the next lane that finishes; if none is running, nobody will come for it."""
        ...

    def release(self) -> Place | None:
        """Return a held place that no lane has come for, or None."""
        ...

    def finished(self) -> list[Place]:
        """Return the places that have run since the last call, in the order in which they ended."""
        ...

    def watch(self) -> None:
        """Look for runs that failed without a word."""
        ...

    def close(self, timeout_s: float = 5.0) -> bool:
        """Let what runs end, and end; return False if a run is stuck (it is left behind: it cannot be killed)."""
        ...


def lanes_for(places: Sequence[Place], width: int, wake: Callable[[], object], name: str = "") -> Lanes:
    """Return lanes of the kind that the ``places`` of a session can use.

    Args:
        places: whose slots are of one kind.
        width: lanes.
        wake: called from a lane when the mailbox was empty; must be thread-safe, return at once and not raise.
        name: shown in the names of threads of ours.
    """
    if all(isinstance(place.slot, SelfRunning) for place in places):
        return RuntimeLanes(width, wake)
    return ThreadLanes(width, wake, name)


class _Mailbox:
    """What every kind of lanes does alike: results to the loop, and the places that wait for a core."""

    def __init__(self, width: int, wake: Callable[[], object]) -> None:
        self.width = width
        self._wake = wake
        self._held: deque[Place] = deque()
        self._done: deque[Place] = deque()
        self._woken = False

    def hold(self, place: Place) -> None:
        """See :class:`Lanes`."""
        self._held.append(place)

    def release(self) -> Place | None:
        """See :class:`Lanes`."""
        try:
            return self._held.popleft()
        except IndexError:
            return None

    def finished(self) -> list[Place]:
        """See :class:`Lanes`."""
        self._woken = False  # before the mailbox is emptied: a place that comes later wakes the loop again
        mailbox, done = self._done, []
        while mailbox:
            done.append(mailbox.popleft())
        return done

    def _tell(self) -> None:
        """Wake the loop, which may have taken from the mailbox already what it is woken for."""
        if not self._woken:
            self._woken = True
            self._wake()


class ThreadLanes(_Mailbox):
    """Threads that run places; started when constructed. See :func:`lanes_for`."""

    watched = False

    def __init__(self, width: int, wake: Callable[[], object], name: str = "") -> None:
        super().__init__(width, wake)
        self._ready: queue.SimpleQueue[Place | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"whet-lane-{name}-{index}", daemon=True) for index in range(width)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, place: Place) -> None:
        """See :class:`Lanes`."""
        self._ready.put(place)

    def watch(self) -> None:
        """See :class:`Lanes`; a thread of ours gets the exception."""

    def close(self, timeout_s: float = 5.0) -> bool:
        """See :class:`Lanes`."""
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        get = self._ready.get
        while (place := get()) is not None:
            current: Place | None = place
            while current is not None:
                current = self._run(current)

    def _run(self, place: Place) -> Place | None:
        place.error = None
        place.began = monotonic()
        try:
            place.slot.run()
        except BaseException as error:  # noqa: BLE001  (whatever a library raises is the request's failure, not ours)
            place.error = error
        place.ended = monotonic()
        heir = place.heir = self.release()
        self._done.append(place)
        self._tell()
        return heir


class RuntimeLanes(_Mailbox):
    """Threads of the runtime, on which what waits is started by what ends. See :func:`lanes_for`.

    Never more than ``width`` places are started in the runtime: what waits, waits here, so that a place's time is the
    time it was computed and not the time it waited.
    """

    watched = True

    def __init__(self, width: int, wake: Callable[[], object]) -> None:
        super().__init__(width, wake)
        self._lock = threading.Lock()
        self._running: set[Place] = set()
        self._waiting: deque[Place] = deque()
        self._known: set[Place] = set()

    def start(self, place: Place) -> None:
        """See :class:`Lanes`."""
        self._known.add(place)
        with self._lock:
            if len(self._running) >= self.width:
                self._waiting.append(place)
                return
            self._running.add(place)
        self._launch(place)

    def hold(self, place: Place) -> None:
        """See :class:`Lanes`."""
        self._known.add(place)
        super().hold(place)

    def watch(self) -> None:
        """See :class:`Lanes`."""
        for place in tuple(self._running):
            try:
                _self_running(place).over()
            except BaseException as error:  # noqa: BLE001  (whatever a library raises is the request's failure)
                self._end(place, error)

    def close(self, timeout_s: float = 5.0) -> bool:
        """See :class:`Lanes`."""
        until = monotonic() + timeout_s
        while self._busy():
            if monotonic() > until:
                return False
            self.watch()
            time.sleep(CLOSE_POLL_S)
        return True

    def _busy(self) -> bool:
        """Return whether anything runs, or the runtime's thread has not quite let go of what ran."""
        return bool(self._running) or not all(map(_is_over, self._known))

    def _launch(self, place: Place) -> None:
        place.error = place.heir = None
        place.began = monotonic()
        try:
            _self_running(place).start(lambda: self._end(place, None))
        except BaseException as error:  # noqa: BLE001  (whatever a library raises is the request's failure, not ours)
            self._end(place, error)

    def _end(self, place: Place, error: BaseException | None) -> None:
        """Take note that ``place`` has run, give its lane to what waits, and tell the loop."""
        ended = monotonic()
        with self._lock:
            if place not in self._running:  # the watch and the runtime may both say so
                return
            self._running.remove(place)
            heir = place.heir = self.release()
            follower = heir or (self._waiting.popleft() if self._waiting else None)
            if follower is not None:
                self._running.add(follower)
        place.ended, place.error = ended, error
        self._done.append(place)
        if follower is not None:
            self._launch(follower)
        self._tell()


def _self_running(place: Place) -> SelfRunning:
    return cast("SelfRunning", place.slot)  # ``lanes_for`` has looked; looking again at every run would cost too much


def _is_over(place: Place) -> bool:
    try:
        return _self_running(place).over()
    except BaseException:  # noqa: BLE001  (a run that failed is over)
        return True
