"""The engine on the fake runtime: what a caller sees."""

import asyncio
import functools
import subprocess
import sys
import threading
import time

import engine_nets as nets
import numpy as np
import pytest

from whet.engine import available_runtimes, load_runtime, open_engine
from whet.engine.engine import Request
from whet.engine.fake import fake_answer
from whet.engine.request import EDGES_NS
from whet.errors import (
    DeadlineExceeded,
    NotReady,
    PlanRefused,
    QueueFull,
    RuntimeFailed,
    TensorError,
    TooLarge,
)
from whet.plan import Plan
from whet.tensors import TensorSpec


def on_loop(test):
    """Run an ``async def`` test on a loop of its own."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


def options(**more):
    return tuple(sorted((name, str(value)) for name, value in more.items()))


async def engine_of(artifact=None, *, fake=(), **knobs):
    artifact = artifact or nets.fake()
    return await open_engine(
        artifact, Plan(artifact=artifact.sha256, runtime="fake", options=options(**dict(fake)), **knobs)
    )


def draw(rows=1, seed=0, wide=4):
    return {"x": np.random.default_rng(seed).uniform(1, 2, (rows, wide)).astype(np.float32)}


@on_loop
async def test_every_caller_gets_the_answer_to_his_own_question():
    engine = await engine_of(streams=2, batch_sizes=(1, 2, 4), queue_bound=2000, fake={"base_us": 300, "row_us": 50})
    questions = [draw(1 + seed % 11, seed) for seed in range(200)]
    answers = await asyncio.gather(*[engine.infer(question) for question in questions])
    for question, answer in zip(questions, answers, strict=True):
        assert np.array_equal(answer.outputs["y"], fake_answer(question, engine.outputs)["y"])
    stats = engine.stats()
    assert (stats.accepted, stats.answered, stats.failed) == (200, 200, 0)
    assert sum(stats.queue_histogram) == sum(stats.compute_histogram) == 200
    assert len(stats.queue_histogram) == len(EDGES_NS) + 1
    assert sum(rows * count for rows, count in stats.batches.items()) == sum(len(q["x"]) for q in questions)
    assert max(stats.batches) == 4
    assert (stats.queued, stats.in_flight, stats.lanes) == (0, 0, 2)
    assert set(stats.service_ms) == {1, 2, 4}
    await engine.close()


@on_loop
async def test_timing_tells_queue_and_compute_apart():
    engine = await engine_of(fake={"base_us": 20_000})
    first, second = await asyncio.gather(engine.infer(draw()), engine.infer(draw()))
    assert first.timing.compute_ns >= 20_000_000
    assert second.timing.compute_ns >= 20_000_000
    assert second.timing.queue_ns >= 20_000_000 > first.timing.queue_ns
    assert engine.stats().lane_busy_ns >= 40_000_000
    await engine.close()


@on_loop
async def test_requests_of_one_turn_of_the_loop_share_a_batch():
    engine = await engine_of(batch_sizes=(1, 8), fake={"base_us": 5000})  # a call costs more than its rows
    answers = await asyncio.gather(*[engine.infer(draw(seed=seed)) for seed in range(5)])
    assert {answer.timing.batch for answer in answers} == {5}
    assert {answer.timing.padded for answer in answers} == {3}
    assert engine.stats().padded_rows == 3
    await engine.close()


@on_loop
async def test_a_window_waits_for_company_and_no_longer():
    engine = await engine_of(batch_sizes=(1, 8), batch_window_ms=200)
    began = time.monotonic()
    early = asyncio.ensure_future(engine.infer(draw()))
    await asyncio.sleep(0.005)
    late = asyncio.ensure_future(engine.infer(draw(seed=1)))
    answers = [await early, await late]
    assert {answer.timing.batch for answer in answers} == {2}
    assert time.monotonic() - began >= 0.200
    await engine.close()


@on_loop
async def test_inputs_that_do_not_fit_are_refused_and_counted():
    engine = await engine_of()
    for wrong in ({}, {"z": draw()["x"]}, {"x": draw()["x"].astype(np.float64)}, {"x": np.zeros((1, 5), np.float32)}):
        with pytest.raises(TensorError):
            await engine.infer(wrong)
    with pytest.raises(TensorError, match="at least one"):
        await engine.infer({"x": np.zeros((0, 4), np.float32)})
    assert engine.stats().refused == {"bad-tensor": 5}
    assert engine.stats().accepted == 0
    await engine.close()


@on_loop
async def test_views_of_a_socket_buffer_are_read_in_place():
    engine = await engine_of()
    x = np.frombuffer(np.arange(1, 5, dtype=np.float32).tobytes(), np.float32).reshape(1, 4)
    assert not x.flags.writeable
    assert (await engine.infer({"x": x})).outputs["y"].tolist() == [[1, 2, 3, 4]]
    strided = np.arange(1, 9, dtype=np.float32).reshape(1, 8)[:, ::2]
    assert (await engine.infer({"x": strided})).outputs["y"].tolist() == [[1, 3, 5, 7]]
    await engine.close()


@on_loop
async def test_an_answer_is_the_callers_to_keep():
    engine = await engine_of()
    kept = (await engine.infer(draw())).outputs["y"]
    copy = kept.copy()
    for seed in range(5):
        await engine.infer(draw(seed=seed + 1))
    assert np.array_equal(kept, copy)
    await engine.close()


@on_loop
async def test_a_full_queue_refuses_now():
    engine = await engine_of(queue_bound=4, fake={"base_us": 50_000})
    running = [asyncio.ensure_future(engine.infer(draw())) for _ in range(6)]  # one runs, one is prepared, four wait
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(QueueFull) as refused:
        await engine.infer(draw())
    assert time.monotonic() - began < 0.040, "it was parked"
    assert refused.value.retry_after_s > 0.05
    with pytest.raises(TooLarge):
        await engine.infer(draw(5))
    await asyncio.gather(*running)
    assert engine.stats().refused == {"queue-full": 1, "too-large": 1}
    await engine.close()


@on_loop
async def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_one_that_passes_when_it_passes():
    engine = await engine_of(fake={"base_us": 500_000}, queue_bound=64)
    with pytest.raises(DeadlineExceeded, match="cannot be met"):
        await engine.infer(draw(), deadline=time.monotonic() + 0.010)
    for _ in range(100):
        engine._batcher.costs.observe(1, 0.001)  # it believes itself faster than it is
    busy = [asyncio.ensure_future(engine.infer(draw())) for _ in range(2)]
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="in the queue"):
        await engine.infer(draw(), deadline=began + 0.030)
    assert time.monotonic() - began >= 0.029
    assert not busy[0].done(), "told when it passes, not when a lane looks"
    await asyncio.gather(*busy)
    assert engine.stats().refused == {"deadline-exceeded": 2}
    assert sum(engine.stats().batches.values()) == 2, "never computed"
    await engine.close()


@on_loop
async def test_the_plan_gives_a_deadline_to_those_who_bring_none():
    engine = await engine_of(fake={"base_us": 50_000}, deadline_ms=20)
    with pytest.raises(DeadlineExceeded):
        await engine.infer(draw())
    assert (await engine.infer(draw(), deadline=time.monotonic() + 5)).outputs
    await engine.close()


@on_loop
async def test_a_caller_who_left_is_not_computed_and_never_called():
    engine = await engine_of(fake={"base_us": 20_000})
    called = []
    others = [asyncio.ensure_future(engine.infer(draw())) for _ in range(2)]
    await asyncio.sleep(0)
    waiting = Request(draw(), called.append)
    engine.submit(waiting)
    engine.cancel(waiting)
    engine.cancel(waiting)
    task = asyncio.ensure_future(engine.infer(draw()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    running = Request(draw(), called.append)
    await asyncio.gather(*others)
    engine.submit(running)
    await asyncio.sleep(0.005)
    engine.cancel(running)
    assert await engine.drain(5)
    await asyncio.sleep(0.04)
    assert called == []
    assert engine.stats().refused == {"cancelled": 2}
    assert sum(engine.stats().batches.values()) == 3, "two that were wanted, one that had begun"
    await engine.close()


@on_loop
async def test_urgent_requests_overtake():
    engine = await engine_of(fake={"base_us": 5_000})
    order = []
    first = [asyncio.ensure_future(engine.infer(draw())) for _ in range(2)]
    await asyncio.sleep(0)

    async def ask(name, priority):
        await engine.infer(draw(), priority=priority)
        order.append(name)

    await asyncio.gather(ask("slow 1", 2), ask("slow 2", 2), ask("fast 1", 0), ask("fast 2", 0), *first)
    assert order == ["fast 1", "fast 2", "slow 1", "slow 2"]
    await engine.close()


@on_loop
async def test_a_failed_run_fails_its_requests_and_no_others(caplog):
    engine = await engine_of(fake={"fault": "fail", "fault_every": 3})
    for seed in range(9):
        if seed % 3 == 2:
            with pytest.raises(RuntimeFailed) as failed:
                await engine.infer(draw(seed=seed))
            assert "must not reach" not in str(failed.value)
        else:
            answer = await engine.infer(draw(seed=seed))
            assert answer.outputs["y"][0, 0] == draw(seed=seed)["x"][0, 0]
    assert engine.stats().failed == 3
    assert "must not reach a client" in caplog.text
    await engine.close()


@on_loop
async def test_answers_are_counted_against_questions():
    engine = await engine_of(fake={"fault": "rows"}, batch_sizes=(4,))
    with pytest.raises(RuntimeFailed, match="3 rows for a batch of 4"):
        await engine.infer(draw(2))
    await engine.close()


@on_loop
async def test_a_split_request_that_fails_in_part_fails_once():
    engine = await engine_of(fake={"fault": "fail", "fault_every": 2}, batch_sizes=(2,), streams=2)
    with pytest.raises(RuntimeFailed):
        await engine.infer(draw(9))
    assert await engine.drain(5)
    assert engine.stats().failed == 1
    await engine.close()


@on_loop
async def test_an_unbatched_model_takes_one_request_a_run():
    artifact = nets.fake([TensorSpec("x", "FP32", (2, 3))], [TensorSpec("y", "FP32", (2, 3))], batched=False)
    engine = await engine_of(artifact, batch_sizes=(1, 8), streams=2)
    questions = [np.random.default_rng(seed).uniform(1, 2, (2, 3)).astype(np.float32) for seed in range(20)]
    answers = await asyncio.gather(*[engine.infer({"x": x}) for x in questions])
    assert all(np.array_equal(a.outputs["y"], x) for a, x in zip(answers, questions, strict=True))
    assert engine.stats().batches == {1: 20}
    await engine.close()


@on_loop
async def test_variable_axes_share_a_batch_only_with_their_like():
    artifact = nets.fake([TensorSpec("x", "FP32", (-1, -1))], [TensorSpec("y", "FP32", (-1, -1))])
    engine = await engine_of(artifact, batch_sizes=(1, 8), fake={"base_us": 5_000})  # a call is what costs
    lengths = [3, 3, 5, 5, 5, 3]
    answers = await asyncio.gather(*[engine.infer(draw(seed=i, wide=n)) for i, n in enumerate(lengths)])
    assert [answer.timing.batch for answer in answers] == [2, 2, 3, 3, 3, 1]
    for index, (answer, length) in enumerate(zip(answers, lengths, strict=True)):
        assert answer.outputs["y"][0, 0] == draw(seed=index, wide=length)["x"][0, 0]
    await engine.close()


@on_loop
async def test_draining_answers_what_was_accepted_and_refuses_the_rest():
    engine = await engine_of(fake={"base_us": 10_000})
    accepted = [asyncio.ensure_future(engine.infer(draw())) for _ in range(5)]
    await asyncio.sleep(0)
    assert not await engine.drain(0.001)
    with pytest.raises(NotReady):
        await engine.infer(draw())
    assert await engine.drain(5)
    assert len(await asyncio.gather(*accepted)) == 5
    await engine.close()
    await engine.close()


@on_loop
async def test_closing_tells_those_who_wait():
    before = set(threading.enumerate())
    engine = await engine_of(fake={"base_us": 20_000})
    callers = [asyncio.ensure_future(engine.infer(draw())) for _ in range(5)]
    await asyncio.sleep(0.001)
    await engine.close()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(outcome, NotReady) for outcome in outcomes] == [False, False, True, True, True]
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("whet-lane")]


@on_loop
async def test_a_stuck_run_does_not_hang_the_close(monkeypatch, caplog):
    from whet.engine.lanes import ThreadLanes

    monkeypatch.setattr(ThreadLanes.close, "__defaults__", (0.05,))
    engine = await engine_of(fake={"fault": "hang"})
    stuck = asyncio.ensure_future(engine.infer(draw()))
    await asyncio.sleep(0.01)
    assert not await engine.drain(0.01)
    await engine.close()
    assert "stuck" in caplog.text
    with pytest.raises(RuntimeFailed, match="did not end"):
        await stuck


@on_loop
async def test_a_caller_that_raises_costs_the_others_nothing(caplog):
    engine = await engine_of(batch_sizes=(4,))
    answered = asyncio.get_running_loop().create_future()

    def bad(answer):
        raise ZeroDivisionError

    engine.submit(Request(draw(), bad))
    engine.submit(Request(draw(), answered.set_result))
    assert (await answered).outputs["y"].shape == (1, 4)
    assert "failed to take its answer" in caplog.text
    await engine.close()


@on_loop
async def test_the_lanes_wake_the_loop_once_a_burst():
    engine = await engine_of(streams=2)
    calls = []
    loop = asyncio.get_running_loop()
    original = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *args: (calls.append(args), original(*args))[1]
    futures = [asyncio.ensure_future(engine.infer(draw(seed=seed))) for seed in range(2)]
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251  (the loop is busy while both lanes finish)
    await asyncio.gather(*futures)
    assert len(calls) == 1
    await engine.close()


@on_loop
async def test_a_plan_for_another_artifact_is_refused():
    with pytest.raises(PlanRefused, match="is for artifact"):
        await open_engine(nets.fake(), Plan(artifact="0" * 64, runtime="fake"))


@on_loop
async def test_a_model_that_fails_in_warm_up_is_not_ready(monkeypatch, caplog):
    from whet.engine.fake import FakeSlot

    def fail(slot):
        raise ArithmeticError("no words")

    monkeypatch.setattr(FakeSlot, "run", fail)
    with pytest.raises(RuntimeFailed, match="warm-up with batch 1 failed"):
        await engine_of()


def test_unknown_runtimes_are_named():
    with pytest.raises(PlanRefused, match="'caffe' is unknown"):
        load_runtime("caffe")
    assert {"openvino", "onnxruntime"} <= set(available_runtimes())
    assert "fake" not in available_runtimes()


def test_importing_the_engine_imports_no_runtime_and_no_numpy():
    words = (
        "import sys, whet.engine; whet.engine.available_runtimes();"
        "print([m for m in ('numpy', 'asyncio', 'openvino', 'onnxruntime', 'torch', 'tensorflow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(("fault", "signal"), [("segfault", 11), ("abort", 6)])
def test_native_crashes_are_real(fault, signal):
    words = f"""
import asyncio, sys
sys.path.insert(0, {str(nets.__file__).rpartition("/")[0]!r})
import engine_nets as nets, numpy as np
from whet.engine import open_engine
from whet.plan import Plan
async def main():
    artifact = nets.fake()
    plan = Plan(artifact=artifact.sha256, runtime="fake", options=(("fault", {fault!r}),))
    engine = await open_engine(artifact, plan)
    print("ready", flush=True)
    await engine.infer({{"x": np.ones((1, 4), np.float32)}})
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert ended.stdout == "ready\n"
    assert ended.returncode == -signal
