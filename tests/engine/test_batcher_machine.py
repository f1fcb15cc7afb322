"""The batcher against everything a day of traffic can bring, drawn at random and in any order."""

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from whet.engine.batcher import Batcher, Limits
from whet.engine.request import SETTLED, WAITING, Request
from whet.engine.waiting import PASSED_OVER, PRIORITIES
from whet.errors import DeadlineExceeded, QueueFull, TooLarge

SIZES = st.sampled_from([(1,), (4,), (1, 4), (2, 5, 8), (1, 2, 4, 8)])


class Traffic(RuleBasedStateMachine):
    """Plays the shell: offers, takes, finishes, cancels and expires, and keeps books of its own."""

    flying = Bundle("flying")

    @initialize(
        sizes=SIZES, lanes=st.integers(1, 3), ahead=st.integers(0, 1), bound=st.integers(8, 24), window=st.booleans()
    )
    def open(self, sizes, lanes, ahead, bound, window):
        self.now = 100.0
        self.limits = Limits(sizes, lanes, ahead, bound, 0.01 if window else 0.0)
        self.batcher = Batcher(self.limits)
        self.admitted: list[Request] = []
        self.done_rows: dict[int, set[int]] = {}
        self.outcomes: dict[int, list[str]] = {}
        self.taken_rows: dict[int, list[int]] = {}
        self.in_flight = 0
        self.passed = [0] * PRIORITIES

    def settle(self, request, outcome):
        self.outcomes[id(request)].append(outcome)

    def waiting(self):
        return [r for r in self.admitted if r.state == WAITING]

    def answer_dropped(self):
        for request in self.batcher.dropped:
            assert request.deadline is not None, "only a deadline drops a request"
            self.settle(request, "late")
        self.batcher.dropped.clear()

    @rule(
        rows=st.integers(1, 12),
        level=st.integers(-1, PRIORITIES + 1),
        patience=st.none() | st.floats(-0.001, 0.2),
        shape=st.sampled_from([None, None, None, (3,), (5,)]),
    )
    def offer(self, rows, level, patience, shape):
        request = Request({}, lambda _: None, rows=rows, priority=level)
        request.shapes = shape
        request.deadline = None if patience is None else self.now + patience
        before = self.batcher.queue.rows
        try:
            self.batcher.offer(request, self.now)
        except TooLarge:
            assert rows > self.limits.queue_bound
        except QueueFull:
            assert self.batcher.queue.rows + rows > self.limits.queue_bound
        except DeadlineExceeded:
            assert request.deadline is not None
        else:
            self.admitted.append(request)
            self.outcomes[id(request)] = []
            self.done_rows[id(request)] = set()
            self.taken_rows[id(request)] = []
            assert self.batcher.queue.rows <= before + rows
        self.answer_dropped()

    @rule(target=flying)
    def take(self):
        waiting = self.waiting()
        heads = {level: next((r for r in waiting if r.priority == level), None) for level in range(PRIORITIES)}
        batch = self.batcher.take(self.now)
        dropped = {id(r) for r in self.batcher.dropped}
        self.answer_dropped()
        if batch is None:
            self.check_idleness(waiting, dropped)
            return multiple()
        self.in_flight += 1
        assert self.in_flight <= self.limits.lanes + self.limits.ahead
        assert batch.size in self.limits.batch_sizes
        assert 0 < batch.rows <= batch.size
        assert sum(piece.rows for piece in batch.pieces) == batch.rows
        offset = 0
        for piece in batch.pieces:
            request = piece.request
            assert piece.offset == offset
            offset += piece.rows
            assert not self.outcomes[id(request)], "computed after it was answered"
            assert request.deadline is None or request.deadline > self.now, "computed past its deadline"
            assert request.shapes == batch.pieces[0].request.shapes
            if request.rows <= self.limits.batch_sizes[-1]:
                assert piece.rows == request.rows, "cut although it fits"
            self.taken_rows[id(request)] += range(piece.start, piece.start + piece.rows)
        self.check_order(batch, waiting, dropped)
        self.check_priority(batch, heads, dropped)
        return batch

    def check_idleness(self, waiting, dropped):
        """Work-conserving: a lane is left idle only by an empty queue or by the window."""
        left = [r for r in waiting if id(r) not in dropped]
        if left and self.in_flight < self.limits.lanes:
            oldest = min(r.arrived for r in left)
            assert self.limits.window_s, "a lane idles although something waits"
            assert self.now < oldest + self.limits.window_s, "a lane waits past the window"
            assert self.batcher.queue.rows < self.limits.batch_sizes[-1], "a lane waits although a batch is full"
            assert self.batcher.wake_at() < inf, "nobody would wake up at the window's end"

    def check_order(self, batch, waiting, dropped):
        """First come, first served within a class: what was taken is the oldest of its class."""
        for level in range(PRIORITIES):
            served = [p.request for p in batch.pieces if p.request.priority == level]
            queue = [r for r in waiting if r.priority == level and id(r) not in dropped]
            assert served == queue[: len(served)]
            assert served == sorted(served, key=lambda r: r.arrived)

    def check_priority(self, batch, heads, dropped):
        """The first class heads the batch, unless another was passed over as often as it may be."""
        if any(id(r) in dropped for r in heads.values() if r is not None):
            return
        first = batch.pieces[0].request.priority
        best = min(level for level, head in heads.items() if head is not None)
        served = {piece.request.priority for piece in batch.pieces}
        assert first == best or self.passed[first] >= PASSED_OVER
        for level, head in heads.items():
            self.passed[level] = 0 if head is None or level in served else self.passed[level] + 1
            assert self.passed[level] <= PASSED_OVER + PRIORITIES, "starved"

    @rule(batch=consumes(flying), seconds=st.floats(0.0001, 0.05), fails=st.sampled_from([False, False, False, True]))
    def finish(self, batch, seconds, fails):
        pieces = self.batcher.done(batch, self.now, None if fails else seconds)
        self.in_flight -= 1
        assert {id(p.request) for p in pieces} == {
            id(p.request) for p in batch.pieces if not self.outcomes[id(p.request)]
        }
        for piece in pieces:
            request = piece.request
            if request.state == SETTLED:
                continue
            if fails:
                self.batcher.withdraw(request)
                self.settle(request, "failed")
                continue
            rows = set(range(piece.start, piece.start + piece.rows))
            assert not rows & self.done_rows[id(request)], "a row answered twice"
            self.done_rows[id(request)] |= rows
            if self.batcher.answered(piece):
                assert self.done_rows[id(request)] == set(range(request.rows))
                request.state = SETTLED
                self.settle(request, "answered")

    @precondition(lambda self: self.admitted)
    @rule(data=st.data())
    def leave(self, data):
        request = data.draw(st.sampled_from(self.admitted))
        if not self.outcomes[id(request)]:
            waited = request.state == WAITING
            assert self.batcher.withdraw(request) == waited
            self.settle(request, "left")

    @rule(seconds=st.floats(0.0001, 0.05), timer_rings=st.booleans())
    def tick(self, seconds, timer_rings):
        self.now += seconds
        if not timer_rings:
            return
        for request in self.batcher.expire(self.now):
            assert request.deadline <= self.now
            self.settle(request, "late")
        assert all(r.deadline is None or r.deadline > self.now for r in self.waiting())

    @invariant()
    def the_books_agree(self):
        if not hasattr(self, "batcher"):
            return
        queue = self.batcher.queue
        waiting = self.waiting()
        assert queue.rows == sum(r.rows - r.taken for r in waiting) <= self.limits.queue_bound
        for level in range(PRIORITIES):
            assert queue.by_level[level] == sum(r.rows - r.taken for r in waiting if r.priority == level)
        assert self.batcher.in_flight == self.in_flight
        assert queue.tightest <= min((r.deadline for r in waiting if r.deadline is not None), default=inf)
        for request in self.admitted:
            assert len(self.outcomes[id(request)]) <= 1, "answered twice"
            assert (request.state == SETTLED) == bool(self.outcomes[id(request)])
            taken = self.taken_rows[id(request)]
            assert taken == list(range(len(taken))), "rows taken twice or out of order"

    def teardown(self):
        """Nobody is forgotten: with time and lanes enough, everyone who was admitted gets one outcome."""
        if not hasattr(self, "batcher"):
            return
        for _ in range(1000):
            self.now += 0.02
            for request in self.batcher.expire(self.now):
                self.settle(request, "late")
            batches = []
            while (batch := self.batcher.take(self.now)) is not None:
                batches.append(batch)
                self.in_flight += 1
            self.answer_dropped()
            for batch in [*batches, *list(self.batcher._flying)]:
                if batch in self.batcher._flying:
                    for piece in batch.pieces:
                        self.taken_rows[id(piece.request)] = []
                    self.finish_quietly(batch)
            if not self.batcher.queue.rows and not self.batcher.in_flight:
                break
        assert all(len(outcome) == 1 for outcome in self.outcomes.values()), "a request was lost"
        assert len(self.batcher.queue) <= 64 + 1 + len(self.admitted)

    def finish_quietly(self, batch):
        for piece in self.batcher.done(batch, self.now, 0.001):
            if self.batcher.answered(piece):
                piece.request.state = SETTLED
                self.settle(piece.request, "answered")
        self.in_flight -= 1


Traffic.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTraffic = pytest.mark.timeout(300)(Traffic.TestCase)
