"""Workers under a quota keep to the CPUs others use least, and move when that changes."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whet.host import WorkerPlace
from whet.serve import seats
from whet.serve.seats import Seats

ALLOWED = tuple(sorted(os.sched_getaffinity(0)))[:2]
THREADS = "import threading, time; [threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(2)]"


def places(count, roam=ALLOWED):
    return [WorkerPlace((roam[index],), (0,), ((roam[index],),), (), roam) for index in range(count)]


@pytest.fixture
def others(monkeypatch):
    """Share of each CPU's time that others use, as the test says."""
    shares = dict.fromkeys(ALLOWED, 0.0)
    began = time.monotonic()
    worked = dict.fromkeys(ALLOWED, 0.0)
    last = [began]

    def read_busy():
        now = time.monotonic()
        for cpu in worked:
            worked[cpu] += shares[cpu] * (now - last[0])
        last[0] = now
        return dict(worked)

    monkeypatch.setattr(seats, "read_busy", read_busy)
    monkeypatch.setattr(seats, "FIRST_LOOK_S", 0.02)
    monkeypatch.setattr(seats, "LOOK_S", (0.03, 0.05))
    return shares


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", THREADS]) as child:
        while len(threads(child.pid)) < 3:
            time.sleep(0.01)
        yield child
        child.kill()


def threads(pid):
    return [path.name for path in Path(f"/proc/{pid}/task").iterdir()]


def masks(pid):
    return {frozenset(os.sched_getaffinity(int(tid))) for tid in threads(pid)}


@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
def test_a_worker_starts_where_others_use_least_and_every_thread_of_it_moves_with_them(others, process):
    async def story():
        first, second = ALLOWED
        others[first] = 0.8
        made = Seats(places(1), 1.0)
        assert (await made.place(0)).cpus == (second,)
        seats.move(process.pid, (second,))
        made.started(0, process.pid)
        following = asyncio.create_task(made.follow())
        await asyncio.sleep(0.15)
        assert masks(process.pid) == {frozenset({second})}
        others.update({first: 0.0, second: 0.9})
        async with asyncio.timeout(10):
            while masks(process.pid) != {frozenset({first})}:  # noqa: ASYNC110  (another process is looked at)
                await asyncio.sleep(0.02)
        following.cancel()

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two CPUs")
def test_workers_of_one_server_never_share_a_cpu(others):
    async def story():
        others[ALLOWED[0]] = 1.0
        made = Seats(places(2), 2.0)
        chosen = [(await made.place(index)).cpus for index in range(2)]
        assert sorted(chosen) == [ALLOWED[:1], ALLOWED[1:]]
        assert (await made.place(1)).cpus == chosen[1]  # its successor takes what it leaves

    asyncio.run(story())


def test_with_nothing_left_to_choose_the_placement_holds(others):
    async def story():
        one = places(1, ALLOWED[:1] * 2)
        made = Seats([*one, *one], 2.0)
        assert [(await made.place(index)).cpus for index in range(2)] == [ALLOWED[:1]] * 2

    asyncio.run(story())


def test_a_process_that_has_ended_cannot_be_moved():
    seats.move(2**22 + 1, ALLOWED)
