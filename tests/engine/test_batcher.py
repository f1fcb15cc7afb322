"""The batcher's single decisions, told one by one."""

import random
from math import inf

import pytest

from whet.engine.batcher import PROBE_AFTER, Batcher, Limits
from whet.engine.costs import DOUBT_AFTER, MOST, ServiceTimes, Shortfall
from whet.engine.request import Request
from whet.engine.waiting import PASSED_OVER, SWEEP_AFTER
from whet.errors import DeadlineExceeded, QueueFull, TooLarge


def ask(rows=1, deadline=None, priority=0, shapes=None):
    request = Request({}, lambda _: None, rows=rows, deadline=deadline, priority=priority)
    request.shapes = shapes
    return request


def measured(**seconds):
    costs = ServiceTimes()
    for size, value in seconds.items():
        for _ in range(50):
            costs.observe(int(size.removeprefix("b")), value)
    return costs


def offered(batcher, *requests, now=0.0):
    for request in requests:
        batcher.offer(request, now)
    return requests


def rows_of(batch):
    return [piece.rows for piece in batch.pieces]


def test_an_idle_lane_takes_what_waits_and_pads_to_the_next_size():
    batcher = Batcher(Limits(batch_sizes=(1, 4), lanes=1))
    offered(batcher, ask(), ask(), ask())
    batch = batcher.take(0.0)
    assert (batch.rows, batch.size) == (3, 4)


def test_only_full_batches_are_prepared_ahead_of_a_busy_lane():
    batcher = Batcher(Limits(batch_sizes=(1, 2), lanes=1, ahead=1))
    offered(batcher, ask())
    assert batcher.take(0.0).rows == 1
    offered(batcher, ask())
    assert batcher.take(0.0) is None, "a part-filled batch stays open"
    offered(batcher, ask())
    assert batcher.take(0.0).rows == 2
    offered(batcher, ask(), ask())
    assert batcher.take(0.0) is None, "one is enough"


def test_padding_that_costs_more_than_it_saves_is_not_taken():
    dear = Batcher(Limits(batch_sizes=(4, 8)), measured(b4=0.004, b8=0.008))
    offered(dear, *[ask() for _ in range(5)])
    assert dear.take(0.0).rows == 4, "5 rows at 8 ms are dearer a row than 4 at 4 ms"
    cheap = Batcher(Limits(batch_sizes=(4, 8)), measured(b4=0.004, b8=0.0041))
    offered(cheap, *[ask() for _ in range(5)])
    assert cheap.take(0.0).rows == 5


def test_the_window_waits_for_more_but_not_past_a_deadline():
    batcher = Batcher(Limits(batch_sizes=(1, 4), window_s=0.010), measured(b1=0.002, b4=0.002))
    offered(batcher, ask())
    assert batcher.take(0.005) is None
    assert batcher.wake_at() == pytest.approx(0.010)
    assert batcher.take(0.010).rows == 1
    hasty = Batcher(Limits(batch_sizes=(1, 4), window_s=0.010), measured(b1=0.002, b4=0.002))
    offered(hasty, ask(deadline=0.009))
    assert hasty.wake_at() == pytest.approx(0.005, abs=2e-4), "deadline less 2 ms of work and 2 ms of slack"
    assert hasty.take(0.004) is None
    assert hasty.take(0.005).rows == 1


def test_a_full_batch_does_not_wait_for_the_window():
    batcher = Batcher(Limits(batch_sizes=(1, 2), window_s=1.0))
    offered(batcher, ask(), ask())
    assert batcher.take(0.0).rows == 2


def test_a_large_request_is_cut_into_full_batches_and_its_rest_shares():
    batcher = Batcher(Limits(batch_sizes=(1, 4), lanes=3))
    offered(batcher, ask(rows=9), ask(rows=2))
    assert [rows_of(batcher.take(0.0)) for _ in range(3)] == [[4], [4], [1, 2]]


def test_a_request_that_does_not_fit_beside_the_others_waits_whole():
    batcher = Batcher(Limits(batch_sizes=(1, 4), lanes=2))
    offered(batcher, ask(rows=3), ask(rows=2), ask(rows=1))
    assert rows_of(batcher.take(0.0)) == [3], "the one row behind must not overtake"
    assert rows_of(batcher.take(0.0)) == [2, 1]


def test_a_waiting_class_is_passed_over_only_so_often():
    batcher = Batcher(Limits(batch_sizes=(1,), lanes=1, ahead=0, queue_bound=999))
    offered(batcher, ask(priority=2), *[ask() for _ in range(3 * PASSED_OVER)])
    order = []
    for _ in range(PASSED_OVER + 2):
        batch = batcher.take(0.0)
        order.append(batch.pieces[0].request.priority)
        batcher.done(batch, 0.0, 0.001)
    assert order == [0] * PASSED_OVER + [2] + [0]


def test_a_batch_is_topped_up_from_later_classes():
    batcher = Batcher(Limits(batch_sizes=(1, 4)))
    offered(batcher, ask(priority=1), ask(priority=0), ask(priority=9))
    assert [piece.request.priority for piece in batcher.take(0.0).pieces] == [0, 1, 3]


def test_a_full_queue_says_when_to_come_again():
    batcher = Batcher(Limits(batch_sizes=(1, 4), queue_bound=8), measured(b1=0.1, b4=0.4))
    offered(batcher, ask(rows=8))
    with pytest.raises(QueueFull, match="8 of 8 rows wait") as refused:
        batcher.offer(ask(), 0.0)
    assert refused.value.retry_after_s == pytest.approx(0.8, rel=0.05)
    with pytest.raises(TooLarge, match="bound of 8"):
        batcher.offer(ask(rows=9), 0.0)


def test_a_full_queue_lets_go_of_the_expired_first():
    batcher = Batcher(Limits(queue_bound=2))
    late = offered(batcher, ask(deadline=1.0), ask())[0]
    batcher.offer(ask(), now=2.0)
    assert batcher.dropped == [late]


def test_a_deadline_that_measured_times_cannot_meet_is_refused_at_once():
    batcher = Batcher(Limits(lanes=1), measured(b1=0.100))
    with pytest.raises(DeadlineExceeded, match="cannot be met"):
        batcher.offer(ask(deadline=0.050), 0.0)
    batcher.offer(ask(deadline=0.150), 0.0)
    with pytest.raises(DeadlineExceeded):  # the same deadline, behind somebody
        batcher.offer(ask(deadline=0.150), 0.0)
    with pytest.raises(DeadlineExceeded, match="passed"):
        batcher.offer(ask(deadline=-1.0), 0.0)


def test_the_wait_counts_what_is_in_flight_and_who_is_ahead_by_class():
    batcher = Batcher(Limits(lanes=1, ahead=0), measured(b1=0.100))
    offered(batcher, ask())
    batch = batcher.take(0.0)
    own = batcher.costs.likely(1)
    assert batcher.estimate(1, 0, 0.050) == pytest.approx(own + 0.050, rel=0.01)
    offered(batcher, ask(priority=1), ask(priority=1))
    assert batcher.estimate(1, 0, 0.050) == pytest.approx(own + 0.050, rel=0.01)
    assert batcher.estimate(1, 1, 0.050) == pytest.approx(own + 0.250, rel=0.01)
    batcher.done(batch, 0.1, None)


def test_two_lanes_share_the_wait():
    batcher = Batcher(Limits(lanes=2, ahead=0), measured(b1=0.100))
    offered(batcher, ask(), ask())
    assert batcher.take(0.0), batcher.take(0.0)
    offered(batcher, ask(), ask())
    assert batcher.estimate(1, 0, 0.0) == pytest.approx(batcher.costs.likely(1) + 0.2, rel=0.05)


def test_a_request_that_became_hopeless_is_dropped_not_computed():
    batcher = Batcher(Limits(lanes=1, ahead=0), measured(b1=0.010))
    first = ask()
    hopeless, fine = ask(deadline=0.030), ask()
    offered(batcher, first, hopeless, fine)
    batch = batcher.take(0.0)
    batcher.done(batch, 0.025, 0.010)
    assert batcher.take(0.025).pieces[0].request is fine, "5 ms are left, 10 are needed"
    assert batcher.dropped == [hopeless]


def test_a_deadline_that_passes_unnoticed_is_still_not_computed():
    batcher = Batcher(Limits())
    (late,) = offered(batcher, ask(deadline=1.0))
    assert batcher.take(1.0) is None
    assert batcher.dropped == [late]


def test_expiry_finds_the_next_deadline():
    batcher = Batcher(Limits(lanes=1, ahead=0))
    first, second, third = offered(batcher, ask(deadline=1.0), ask(deadline=3.0), ask(deadline=2.0))
    assert batcher.wake_at() == 1.0
    assert batcher.expire(0.9) == []
    assert batcher.expire(1.0) == [first]
    assert batcher.wake_at() == 2.0
    assert batcher.expire(5.0) == [second, third]
    assert batcher.wake_at() == inf


def test_one_slow_batch_does_not_refuse_for_ever():
    batcher = Batcher(Limits(lanes=1), measured(b1=5.0))
    admitted = None
    for refused in range(PROBE_AFTER + 1):
        try:
            batcher.offer(request := ask(deadline=0.1), 0.0)
        except DeadlineExceeded:
            continue
        admitted = refused, request
    assert admitted is not None
    assert admitted[0] == PROBE_AFTER
    batch = batcher.take(0.0)
    assert batch.pieces[0].request is admitted[1], "the probe is computed although the estimate says no"
    batcher.done(batch, 0.001, 0.001)
    batcher.offer(ask(deadline=0.2), 0.1)


def test_the_shortfall_settles_where_one_answer_in_a_hundred_lies_past_it():
    shortfall, dice = Shortfall(), random.Random(0)
    late = [dice.expovariate(1 / 0.002) for _ in range(40_000)]
    past = 0
    for index, seconds in enumerate(late):
        past += index >= 10_000 and seconds > shortfall.seconds
        shortfall.observe(seconds, 0.005)
    assert 0.005 < past / 30_000 < 0.02


def test_the_shortfall_is_never_negative_and_bounded():
    shortfall = Shortfall()
    shortfall.observe(-1.0, 0.010)
    assert shortfall.seconds == 0.0
    for _ in range(10_000):
        shortfall.observe(1e9, 0.010)
    assert shortfall.seconds == pytest.approx(MOST * 0.010)


def test_answers_that_came_late_make_promises_longer_but_never_close_an_idle_engine():
    batcher = Batcher(Limits(lanes=1, ahead=0), measured(b1=0.010))
    for turn in range(200):  # the loop takes 30 ms that no compute time knows of
        now = turn * 1.0
        offered(batcher, ask(), now=now)
        (second,) = offered(batcher, ask(deadline=now + 10.0), now=now)
        assert second.promised > now
        for _ in range(2):
            batch = batcher.take(now)
            batcher.done(batch, now + 0.010, 0.010)
            batcher.answered(batch.pieces[0])
        batcher.delivered(second, second.promised + 0.030)
    assert batcher.shortfalls[0].seconds == pytest.approx(0.030, abs=0.001)
    offered(batcher, ask(deadline=1000.015), now=1000.0)
    with pytest.raises(DeadlineExceeded):
        batcher.offer(ask(deadline=1000.040), 1000.0)
    assert batcher.take(1000.0), "nothing was in the way of the first: what was learnt under load is no reason"


def test_a_class_that_is_overtaken_does_not_close_the_door_to_those_who_overtake():
    batcher = Batcher(Limits(lanes=1, ahead=0), measured(b1=0.010))
    for _ in range(1000):
        overtaken = ask(priority=2)
        overtaken.promised = 1.0
        batcher.delivered(overtaken, 2.0)
    offered(batcher, ask())
    batcher.take(0.0)
    with pytest.raises(DeadlineExceeded):
        batcher.offer(ask(deadline=0.050, priority=2), 0.0)
    offered(batcher, ask(deadline=0.050, priority=1), ask(deadline=0.060, priority=0), ask(deadline=9.0, priority=7))


def test_a_shortfall_nobody_can_disprove_any_more_is_doubted():
    batcher = Batcher(Limits(lanes=1, ahead=0), measured(b1=0.010))
    batcher.shortfalls[0].seconds = 0.080
    offered(batcher, ask())
    assert batcher.take(0.0), "the engine stays busy, so that nobody is let in to measure anew"
    for _ in range(2 * DOUBT_AFTER - 1):  # 80 ms, 40 ms, 20 ms: with 20 ms to wait and compute it fits in the end
        with pytest.raises(DeadlineExceeded):
            batcher.offer(ask(deadline=0.050), 0.0)
    offered(batcher, ask(deadline=0.050))


def test_a_probe_forgets_the_shortfall():
    batcher = Batcher(Limits(lanes=1), measured(b1=5.0))
    batcher.shortfalls[0].seconds = 1.0
    for _ in range(PROBE_AFTER):
        with pytest.raises(DeadlineExceeded):
            batcher.offer(ask(deadline=0.1), 0.0)
    offered(batcher, ask(deadline=0.1))
    batcher.done(batcher.take(0.0), 0.001, 0.001)
    assert batcher.shortfalls[0].seconds == 0.0


def test_leavers_are_not_computed_and_cannot_fill_memory():
    batcher = Batcher(Limits(queue_bound=8))
    for _ in range(10 * SWEEP_AFTER):
        (request,) = offered(batcher, ask())
        assert batcher.withdraw(request)
    assert batcher.queue.rows == 0
    assert len(batcher.queue) <= SWEEP_AFTER + 1
    assert batcher.take(0.0) is None


def test_rows_of_a_caller_who_left_are_not_wanted_back():
    batcher = Batcher(Limits(batch_sizes=(2,)))
    gone, stays = offered(batcher, ask(), ask())
    batch = batcher.take(0.0)
    assert not batcher.withdraw(gone)
    assert [piece.request for piece in batcher.done(batch, 0.0, 0.001)] == [stays]


def test_shapes_that_differ_do_not_share_a_batch():
    batcher = Batcher(Limits(batch_sizes=(1, 4), lanes=3))
    offered(batcher, ask(shapes=(3,)), ask(shapes=(3,)), ask(shapes=(5,)), ask(shapes=(3,)))
    assert [batcher.take(0.0).rows for _ in range(3)] == [2, 1, 1]


def test_estimates_follow_the_measurements():
    costs = ServiceTimes()
    assert costs.likely(8) == 0.0, "nothing measured, nobody refused"
    costs.observe(4, 0.040)
    assert costs.typical(8) == pytest.approx(0.080)
    for _ in range(100):
        costs.observe(4, 0.010)
    assert costs.typical(4) == pytest.approx(0.010, rel=0.01)
    assert costs.likely(4) == pytest.approx(0.010, rel=0.05)
    for _ in range(50):
        costs.observe(4, 0.005)
        costs.observe(4, 0.015)
    assert costs.likely(4) > 0.017, "a spread widens what is likely"
