"""Several engines on the cores of one worker."""

import asyncio
import functools
import time

import engine_nets as nets
import numpy as np
import pytest

from whet.engine import open_engine
from whet.engine.fake import FakeSlot
from whet.engine.gate import CoreGate
from whet.errors import PlanRefused
from whet.plan import Plan


class Watch:
    """Counts how many runs are going on at the same time, in all and of each model."""

    def __init__(self, monkeypatch):
        import threading

        self.now, self.most, self.by_model, self.runs = 0, 0, {}, {}
        self.lock = threading.Lock()
        self.on = False
        original = FakeSlot.run

        def run(slot):
            session = slot._session
            with self.lock:
                self.now += self.on
                self.most = max(self.most, self.now)
                mine = self.by_model.setdefault(session, [0, 0])
                mine[0] += 1
                mine[1] = max(mine) if self.on else 0
                self.runs[session] = self.runs.get(session, 0) + self.on
            try:
                original(slot)
            finally:
                with self.lock:
                    self.now -= self.on
                    mine[0] -= 1

        monkeypatch.setattr(FakeSlot, "run", run)

    def most_of(self, engine):
        return self.by_model[engine._ready.session][1]


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


def on_loop(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


async def model(gate, name, *, weight=1.0, cost_us=4000, **knobs):
    artifact = nets.fake()
    plan = Plan(artifact=artifact.sha256, runtime="fake", options=(("base_us", str(cost_us)),), **knobs)
    return await open_engine(artifact, plan, gate=gate, name=name, weight=weight)


async def keep_busy(engine, seconds, callers=6):
    """Ask as fast as answers come, from ``callers`` at once; return how many were answered."""
    end = time.monotonic() + seconds
    answered = 0

    async def caller(seed):
        nonlocal answered
        x = {"x": np.full((1, 4), seed + 1, np.float32)}
        while time.monotonic() < end:
            answer = await engine.infer(x)
            assert answer.outputs["y"][0, 0] == seed + 1
            answered += 1

    await asyncio.gather(*[caller(seed) for seed in range(callers)])
    return answered


@on_loop
async def test_busy_models_never_use_more_cores_than_there_are_and_share_them_evenly(watch):
    gate = CoreGate(3)
    engines = [await model(gate, name) for name in "abc"]
    watch.on = True
    counts = await asyncio.gather(*[keep_busy(engine, 0.5) for engine in engines])
    assert watch.most <= 3
    assert min(counts) > 0.7 * max(counts)
    assert gate.shares() == {"a": 1.0, "b": 1.0, "c": 1.0}
    for engine in engines:
        await engine.close()


@on_loop
async def test_an_idle_models_share_is_lent_and_comes_back(watch):
    gate = CoreGate(2)
    busy, idle = await model(gate, "busy"), await model(gate, "idle")
    assert busy.plan.streams == 2, "compiled for all it may borrow"
    watch.on = True
    await keep_busy(busy, 0.2)
    assert watch.most_of(busy) == 2, "the idle one's core was not used"
    alone = asyncio.ensure_future(keep_busy(busy, 0.4))
    await asyncio.sleep(0.1)
    waits = [(await idle.infer({"x": np.ones((1, 4), np.float32)})).timing.queue_ns / 1e6 for _ in range(10)]
    await alone
    assert watch.most <= 2
    assert sorted(waits)[5] < 3 * 4, "the loan ends with the batch that runs, or at most the one prepared"
    await busy.close()
    await idle.close()


@on_loop
async def test_a_lone_model_keeps_every_core_busy(watch):
    gate = CoreGate(2)
    engine = await model(gate, "alone")
    watch.on = True
    await keep_busy(engine, 0.3)
    assert watch.most == 2
    assert engine.stats().lane_busy_ns > 0.5 * 2 * 0.3e9
    await engine.close()


@on_loop
async def test_weights_divide_the_cores(watch):
    gate = CoreGate(4)
    heavy, light = await model(gate, "heavy", weight=3), await model(gate, "light", weight=1)
    watch.on = True
    many, few = await asyncio.gather(keep_busy(heavy, 0.5, 12), keep_busy(light, 0.5, 12))
    assert watch.most <= 4
    assert 2 < many / few < 4.5
    await heavy.close()
    await light.close()


@on_loop
async def test_more_models_than_cores_take_turns(watch):
    gate = CoreGate(1)
    engines = [await model(gate, name) for name in "abc"]
    watch.on = True
    counts = await asyncio.gather(*[keep_busy(engine, 0.5) for engine in engines])
    assert watch.most == 1
    assert min(counts) > 0.6 * max(counts)
    for engine in engines:
        await engine.close()


@on_loop
async def test_models_come_and_go_under_load(watch):
    gate = CoreGate(2)
    stays = await model(gate, "stays", cost_us=1000)
    watch.on = True
    load = asyncio.ensure_future(keep_busy(stays, 1.0))
    for turn in range(4):
        guest = await model(None if turn == 9 else gate, f"guest {turn}", cost_us=1000)
        await keep_busy(guest, 0.1)
        assert await guest.drain(1)
        await guest.close()
    assert await load > 100
    assert set(gate.shares()) == {"stays"}
    await stays.close()
    assert gate.shares() == {}


@on_loop
async def test_batches_form_while_cores_are_scarce(watch):
    gate = CoreGate(2)
    engines = [await model(gate, name, batch_sizes=(1, 4)) for name in "ab"]
    watch.on = True
    await asyncio.gather(*[keep_busy(engine, 0.3, 12) for engine in engines])
    assert watch.most <= 2
    for engine in engines:
        batches = engine.stats().batches
        assert max(batches, key=lambda rows: rows * batches[rows]) == 4
        await engine.close()


@on_loop
async def test_cancelled_and_expired_requests_do_not_hold_a_core_back(watch):
    gate = CoreGate(1)
    a, b = await model(gate, "a", cost_us=2000), await model(gate, "b", cost_us=2000)
    watch.on = True
    load = asyncio.ensure_future(keep_busy(a, 0.5))
    x = {"x": np.ones((1, 4), np.float32)}
    for _ in range(20):
        task = asyncio.ensure_future(b.infer(x))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        late = b.infer(x, deadline=time.monotonic() + 0.0025)
        await asyncio.gather(late, return_exceptions=True)
    assert await load > 80
    assert await keep_busy(b, 0.1, 1) > 5
    await a.close()
    await b.close()


@on_loop
async def test_a_wide_plan_keeps_its_cores(watch):
    gate = CoreGate(4)
    wide = await model(gate, "wide", threads=3)
    narrow = await model(gate, "narrow")
    assert wide.plan.streams == 1
    assert gate.shares() == {"wide": 3.0, "narrow": 1.0}
    watch.on = True
    await asyncio.gather(keep_busy(wide, 0.2), keep_busy(narrow, 0.2))
    assert (watch.most_of(wide), watch.most_of(narrow)) == (1, 1)
    with pytest.raises(PlanRefused, match="cores"):
        await model(gate, "too wide", threads=4)
    await wide.close()
    await narrow.close()
    assert gate.shares() == {}
