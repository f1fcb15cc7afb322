"""Lanes: the threads that run sessions. They compute without the GIL and do nothing else.

A lane takes a prepared slot from a queue, runs it, and puts it into a mailbox; the first one into an empty mailbox
wakes the loop, so a burst of results costs one wake-up. One more slot than lanes is kept prepared, so that a lane that
finishes goes on at once while the loop is still busy with what came before.

A slot that is *held* has no core of its own yet: the next lane of this pool to finish runs it on the core it has (see
``gate.py``). Cores thus pass from batch to batch without waiting for the loop.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from whet.engine.base import Slot
from whet.engine.batcher import Batch


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


class Lanes:
    """``width`` threads that run places; started when constructed, ended by ``close``.

    Args:
        width: threads; at most this many places run at the same time.
        wake: called from a lane when the mailbox was empty; must be thread-safe and return at once.
        name: shown in the threads' names.
    """

    def __init__(self, width: int, wake: Callable[[], object], name: str = "") -> None:
        self.width = width
        self._wake = wake
        self._ready: queue.SimpleQueue[Place | None] = queue.SimpleQueue()
        self._held: deque[Place] = deque()
        self._mailbox: deque[Place] = deque()
        self._woken = False
        self._threads = [
            threading.Thread(target=self._work, name=f"whet-lane-{name}-{index}", daemon=True) for index in range(width)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, place: Place) -> None:
        """Run ``place`` on the next lane that is free."""
        self._ready.put(place)

    def hold(self, place: Place) -> None:
        """Keep ``place`` for the next lane that finishes; if none is running, nobody will come for it."""
        self._held.append(place)

    def release(self) -> Place | None:
        """Return a held place that no lane has come for, or None."""
        try:
            return self._held.popleft()
        except IndexError:
            return None

    def finished(self) -> list[Place]:
        """Return the places that have run since the last call, in the order in which they ended."""
        self._woken = False  # before the mailbox is emptied: a place that comes later wakes the loop again
        mailbox, done = self._mailbox, []
        while mailbox:
            done.append(mailbox.popleft())
        return done

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the threads; return False if one is stuck in a run (it is left behind: threads cannot be killed)."""
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
        self._mailbox.append(place)
        if not self._woken:
            self._woken = True
            self._wake()
        return heir
