"""Keeps workers under a quota on the CPUs least busy with others' work; decided by :mod:`whet.host.quietest`.

The choice is made for a worker before it starts, so that its runtime sizes itself by the mask it will have, and looked
at again now and then; :mod:`whet.host.masks` keeps runtimes from undoing it. The times of looking are random, so that
two groups that share a CPU do not both flee to the same other.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from whet.host import WorkerPlace, read_counters
from whet.host.files import format_list
from whet.host.quietest import quietest, read_busy, taken_by_others, widths

log = logging.getLogger(__name__)
FIRST_LOOK_S = 0.2
"""How long CPUs are watched before the first choice."""
LOOK_S = (2.0, 6.0)
"""Bounds of the time between two looks."""


class Seats:
    """CPUs of the workers of one server.

    Args:
        places: of the workers, each with the CPUs it may roam.
        quota: CPUs' worth of time that the control group grants.
    """

    def __init__(self, places: Sequence[WorkerPlace], quota: float) -> None:
        self._places = tuple(places)
        self._widths = widths((len(one.cpus) for one in places), quota)
        self._kept: list[tuple[int, ...]] = [() for _ in places]
        self._pids: dict[int, int] = {}
        self._used: dict[int, float] = {}
        self._seen, self._seen_at = read_busy(), time.monotonic()

    async def place(self, index: int) -> WorkerPlace:
        """Return the place in which worker ``index`` should start."""
        await asyncio.sleep(max(0.0, FIRST_LOOK_S - (time.monotonic() - self._seen_at)))
        self._pids.pop(index, None)
        self._kept[index] = ()
        self._look((index,))
        return replace(self._places[index], cpus=self._kept[index])

    def started(self, index: int, pid: int) -> None:
        """Note the process of worker ``index``."""
        self._pids[index] = pid
        self._used[index] = read_counters(pid).cpu_s or 0.0

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(random.uniform(*LOOK_S))  # noqa: S311  (no secret)
            before = list(self._kept)
            self._look(tuple(self._pids))
            for index, pid in self._pids.items():
                if self._kept[index] != before[index]:
                    log.info(
                        "worker %d moves to CPUs %s: others use less of them", index, format_list(self._kept[index])
                    )
                    move(pid, self._kept[index])

    def _look(self, indices: Sequence[int]) -> None:
        """Choose anew for these workers."""
        seen, now = read_busy(), time.monotonic()
        worked = {cpu: busy - self._seen.get(cpu, busy) for cpu, busy in seen.items()}
        taken = taken_by_others(worked, self._own(), now - self._seen_at)
        self._seen, self._seen_at = seen, now
        for index in indices:
            elsewhere = {cpu for other, cpus in enumerate(self._kept) if other != index for cpu in cpus}
            free = {cpu: taken.get(cpu, 0.0) for cpu in self._places[index].roam if cpu not in elsewhere}
            salt = os.getpid() + index
            self._kept[index] = quietest(free, self._kept[index], self._widths[index], salt) or self._places[index].cpus

    def _own(self) -> dict[int, float]:
        """Return what our workers used of each CPU since the last look, seconds, as if spread evenly over theirs."""
        own: dict[int, float] = {}
        for index, pid in self._pids.items():
            used = read_counters(pid).cpu_s or 0.0
            more, self._used[index] = max(used - self._used[index], 0.0), used  # less: it has ended
            for cpu in self._kept[index]:
                own[cpu] = own.get(cpu, 0.0) + more / len(self._kept[index])
        return own


def move(pid: int, cpus: Sequence[int]) -> None:
    """Let every thread of a process run on ``cpus``."""
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                os.sched_setaffinity(int(thread.name), cpus)
