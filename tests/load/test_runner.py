"""The runner: what it counts, from when, and that it hides nothing."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import NotReady, QueueFull, UsageError
from whet.load.alarm import Alarm
from whet.load.arrivals import trace
from whet.load.result import RunResult
from whet.load.runner import Scenario, run


class Sleeper:
    """Answers after a while; at most ``places`` at the same time, as a server would."""

    in_process = False

    def __init__(self, seconds=0.0, places=1000, rows=1):
        self.seconds, self.rows = seconds, rows
        self.room = asyncio.Semaphore(places)
        self.seen, self.now, self.most = [], 0, 0
        self.stall_at = self.stall_s = None

    async def __call__(self, index):
        self.seen.append(index)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with self.room:
                stall = self.stall_s if len(self.seen) == self.stall_at else 0
                await asyncio.sleep(self.seconds + (stall or 0))
        finally:
            self.now -= 1
        return self.rows


def drive(target, samples=1, **scenario):
    return asyncio.run(run(target, Scenario(**scenario), samples))


def test_a_single_stream_has_one_request_in_flight():
    target = Sleeper(0.002)
    result = drive(target, kind="single-stream", duration_s=0.3, warmup_s=0.05)
    assert target.most == 1
    assert result.latency.percentile(50) >= 2
    assert np.array_equal(result.intended_s[1:] >= result.done_s[:-1], np.ones(len(target.seen) - 1))


def test_closed_callers_keep_so_many_in_flight_and_count_rows():
    target = Sleeper(0.01, rows=4)
    result = drive(target, kind="closed", callers=7, duration_s=0.3, warmup_s=0.05)
    assert target.most == 7
    assert result.throughput_per_s == pytest.approx(4 * int(result.ok.sum()) / 0.3, rel=0.25)


def test_the_open_loop_keeps_its_rate_whatever_the_target_does():
    target = Sleeper(0.2)  # far slower than arrivals: a closed loop would send 5 a second
    result = drive(target, kind="server", qps=200.0, duration_s=1.0, warmup_s=0.0, seed=3)
    assert 150 <= len(result.intended_s) <= 250
    assert target.most > 20


def test_open_loop_latency_counts_the_wait_behind_a_stall():
    """A server that does one thing at a time stalls for 300 ms: everyone who should have started then, waited."""
    target = Sleeper(0.001, places=1)
    target.stall_at, target.stall_s = 20, 0.3
    result = drive(target, kind="server", qps=100.0, duration_s=1.0, warmup_s=0.0)
    waited = (result.latency.values > 20).mean()
    assert waited > 0.15  # about 30 of 100 requests fell into the stall; a closed loop would show one


def test_requests_held_back_by_the_client_still_count_from_their_intended_start():
    target = Sleeper(0.05)
    result = drive(target, kind="server", qps=200.0, duration_s=0.5, warmup_s=0.0, max_outstanding=1)
    assert target.most == 1
    # Uncorrected: a healthy server. Corrected: a queue that only grows.
    assert result.latency.percentile(90) > 4 * result.service.percentile(90)
    assert result.late.percentile(90) > 400


def test_an_alarm_rings_closer_to_its_time_than_the_loops_own_timers():
    async def lateness():
        alarm, late = Alarm(), {"alarm": [], "loop": []}
        for index in range(60):
            due = time.monotonic() + 0.0033 + index * 1e-5
            await alarm.until(due)
            late["alarm"].append(time.monotonic() - due)
            due = time.monotonic() + 0.0033 + index * 1e-5
            await asyncio.sleep(due - time.monotonic())
            late["loop"].append(time.monotonic() - due)
        alarm.close()
        return late

    late = asyncio.run(lateness())
    assert min(late["alarm"]) >= 0
    assert np.median(late["alarm"]) < np.median(late["loop"])


def test_any_arrival_process_can_drive_an_open_loop():
    scenario = Scenario(kind="server", qps=1.0, duration_s=0.5, warmup_s=0.0)
    result = asyncio.run(run(Sleeper(), scenario, starts=trace([0.0, 0.01, 0.01, 0.2, 0.6])))
    assert result.intended_s.tolist() == [0.0, 0.01, 0.01, 0.2]  # the last lies past the end
    assert (result.sent_s >= result.intended_s).all()


def test_the_warm_up_is_driven_but_not_counted():
    target = Sleeper(0.005)
    result = drive(target, kind="closed", duration_s=0.2, warmup_s=0.2)
    assert len(target.seen) > int(result.counted.sum())
    assert len(result.latency) == int(result.counted.sum())


class Failing(Sleeper):
    async def __call__(self, index):
        await super().__call__(index)
        if len(self.seen) % 2:
            raise QueueFull("the queue holds 256 samples, its bound; retry later")
        if len(self.seen) % 4 == 0:
            raise NotReady("the model is loading")
        return 1


def test_failures_are_data():
    result = drive(Failing(), kind="closed", max_requests=40, warmup_s=0.0)
    assert result.errors == {"queue-full": 20, "not-ready": 10}
    assert result.failed == 30
    assert len(result.latency) == 10
    document = result.to_json()
    assert document["requests"] == {"sent": 40, "answered": 10, "failed": 30}
    assert result.violations(1e9).value == 0.75


def test_a_caller_that_is_refused_at_once_does_not_spin():
    result = drive(Failing(), kind="closed", duration_s=0.2, warmup_s=0.0)
    assert len(result.intended_s) < 100


class Broken(Sleeper):
    async def __call__(self, index):
        raise ZeroDivisionError


def test_a_bug_in_a_target_is_not_recorded_as_a_failure():
    with pytest.raises(ExceptionGroup) as caught:
        drive(Broken(), kind="closed", duration_s=0.1)
    assert caught.group_contains(ZeroDivisionError)


def test_samples_are_drawn_by_the_seed():
    def seen(seed):
        target = Sleeper()
        drive(target, samples=10, kind="closed", max_requests=200, warmup_s=0.0, seed=seed)
        return target.seen

    assert seen(1) == seen(1) != seen(2)
    assert set(seen(1)) == set(range(10))


def test_min_queries_extends_the_run_and_max_requests_ends_it():
    target = Sleeper(0.005)
    result = drive(target, kind="closed", duration_s=0.01, warmup_s=0.0, min_queries=30)
    assert int(result.counted.sum()) == 30
    started = time.monotonic()
    result = drive(Sleeper(0.001), kind="offline", callers=4, duration_s=60, warmup_s=0.0, max_requests=50)
    assert time.monotonic() - started < 5
    assert len(result.intended_s) == 50
    assert result.throughput_per_s == pytest.approx(50 / result.done_s.max())


def test_the_client_tells_its_own_cpu_unless_it_computes_itself():
    class Burner(Sleeper):
        async def __call__(self, index):
            end = time.process_time() + 0.002
            while time.process_time() < end:
                pass
            await asyncio.sleep(0)
            return 1

    result = drive(Burner(), kind="closed", duration_s=0.3, warmup_s=0.0)
    assert result.client_cpu_share > 0.02
    Burner.in_process = True
    assert drive(Burner(), kind="closed", duration_s=0.05).to_json()["client_cpu_share"] is None


def made(intended, sent, done, rows, **options):
    known = {
        "kind": "server", "open_loop": True, "offered_per_s": 10.0, "callers": None, "warmup_s": 1.0,
        "window_end_s": 3.0, "errors": {}, "wall_s": 4.0, "client_cpu_s": 1.0,
    }  # fmt: skip
    arrays = {"intended_s": intended, "sent_s": sent, "done_s": done}
    numbers = {name: np.array(values, float) for name, values in arrays.items()}
    return RunResult(**numbers, rows=np.array(rows), **{**known, **options})


def test_statistics_follow_from_the_times():
    result = made([0.5, 1.0, 1.5, 2.5], [0.5, 1.2, 1.5, 2.5], [1.1, 1.4, 1.6, 3.5], [1, 2, 0, 4], errors={"x": 1})
    assert result.latency.values.tolist() == pytest.approx([400, 1000])  # the failure and the warm-up are not in it
    assert result.service.values.tolist() == pytest.approx([200, 1000])
    assert result.late.values.tolist() == pytest.approx([0, 0, 200])
    # Answers within the window (1, 3]: the warm-up's request that ended in it, and the second; the last came too late.
    assert result.throughput_per_s == pytest.approx(3 / 2)
    assert result.client_cpu_share == 0.25
    assert result.violations(500).value == pytest.approx(2 / 3)


def test_the_document_says_what_is_missing():
    result = made([1.0, 1.5], [1.0, 1.5], [1.1, 1.6], [1, 1])
    document = result.to_json()
    assert document["latency_ms"]["p99"] is None
    assert document["latency_ms"]["needs"]["p99"] == 662
    assert document["throughput_per_s"] == {"value": 1.0, "low": None, "high": None}
    empty = made([], [], [], [], warmup_s=0.0, window_end_s=0.0).to_json()
    assert empty["throughput_per_s"] is None
    assert empty["latency_ms"]["count"] == 0


def test_the_document_has_intervals_where_there_are_samples():
    times = np.arange(2000) / 1000 + 1
    rng = np.random.default_rng(0)
    done = times + rng.exponential(0.01, 2000)
    document = made(times, times, done, np.ones(2000, int)).to_json()
    p99 = document["latency_ms"]["p99"]
    assert p99["low"] < p99["value"] < p99["high"]
    assert 35 < p99["value"] < 60  # the truth is 46.05
    throughput = document["throughput_per_s"]
    assert throughput["low"] <= throughput["value"] <= throughput["high"]
    assert sum(document["latency_ms"]["histogram"]["counts"]) == 2000
    assert made(times, times, done, np.ones(2000, int), kind="offline").to_json()["latency_ms"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "server"}, "needs a positive rate"),
        ({"kind": "closed", "qps": 5.0}, "takes no rate"),
        ({"kind": "single-stream", "callers": 2}, "one caller"),
        ({"kind": "sever", "qps": 5.0}, "unknown"),
        ({"kind": "closed", "callers": 0}, "callers is 0"),
        ({"duration_s": 0}, "positive duration"),
        ({"warmup_s": -1}, "positive duration"),
    ],
)
def test_contradictions_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        Scenario(**options)


def test_a_run_without_samples_is_refused():
    with pytest.raises(UsageError, match="at least 1 sample"):
        drive(Sleeper(), samples=0)


def lanes_in_lockstep(lanes, batch, batch_s, callers, warmup_s, window_s, skew_s):
    """Return the record of a closed loop over lanes that each take whole batches for a fixed time, oldest first."""
    waiting, free = [0.0] * callers, [skew_s * lane for lane in range(lanes)]
    intended, done = [], []
    while waiting:
        waiting.sort()
        lane = free.index(min(free))
        taken, waiting = waiting[:batch], waiting[batch:]
        free[lane] = max(free[lane], taken[-1]) + batch_s
        intended += taken
        done += [free[lane]] * len(taken)
        if free[lane] < warmup_s + window_s:
            waiting += [free[lane]] * len(taken)
    order = np.argsort(intended, kind="stable")
    intended, done = np.array(intended)[order], np.array(done)[order]
    return RunResult(
        "closed", False, None, callers, warmup_s, warmup_s + window_s, intended, intended, done,
        np.ones(len(done), np.int64), {}, float(done.max()), None,
    )  # fmt: skip


@given(
    st.integers(1, 3),
    st.sampled_from([1, 4, 16]),
    st.floats(0.01, 0.2),
    st.floats(0.3, 0.9),
    st.floats(0.0, 0.9),
)
def test_a_closed_loops_rate_depends_neither_on_the_windows_end_nor_on_lanes_that_end_together(
    lanes, batch, batch_s, window_s, skew
):
    run = lanes_in_lockstep(lanes, batch, batch_s, 2 * lanes * batch, 0.05, window_s, skew * batch_s / lanes)
    assert run.steady_per_s == pytest.approx(lanes * batch / batch_s, rel=0.15)


def test_two_lanes_that_end_together_in_a_short_window_are_not_taken_for_fast():
    run = lanes_in_lockstep(2, 16, 0.16, 64, 0.05, 0.36, 0.001)
    assert run.steady_per_s == pytest.approx(200, rel=0.02)


def test_an_open_loop_and_one_with_failures_have_no_steady_rate():
    run = lanes_in_lockstep(1, 1, 0.01, 2, 0.05, 0.3, 0.0)
    assert replace(run, errors={"queue-full": 1}).steady_per_s is None
    assert replace(run, callers=None).steady_per_s is None
