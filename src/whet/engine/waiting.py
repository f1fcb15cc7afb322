"""The requests that wait, in classes of priority, first come first served within a class. Pure; decides nothing."""

from collections import deque
from math import inf

from whet.engine.request import SETTLED, STARTED, WAITING, Request

PRIORITIES = 4
"""Classes of priority; a request of a later class counts as of the last."""
PASSED_OVER = 8
"""Batches that may leave without a waiting class before one starts with it."""
SWEEP_AFTER = 64
"""Settled requests that may lie in the queues beyond the number that wait, before they are swept out."""


class Waiting:
    """Queues of requests with counts of rows. A request that leaves is marked and swept later, so leaving is O(1).

    Attributes:
        rows: rows that wait in all.
        by_level: rows that wait in each class.
        tightest: no waiting request has an earlier deadline than this; infinity when none has one.
    """

    __slots__ = ("_dead", "_passed", "_queues", "by_level", "rows", "tightest")

    def __init__(self) -> None:
        self.rows = 0
        self.by_level = [0] * PRIORITIES
        self.tightest = inf
        self._queues: tuple[deque[Request], ...] = tuple(deque() for _ in range(PRIORITIES))
        self._passed = [0] * PRIORITIES
        self._dead = 0

    def __len__(self) -> int:
        """Places in the queues, swept or not."""
        return sum(map(len, self._queues))

    def push(self, request: Request) -> None:
        """Put ``request`` at the end of its class; its ``priority`` becomes the class."""
        level = request.priority
        if not 0 <= level < PRIORITIES:
            level = request.priority = min(max(level, 0), PRIORITIES - 1)
        if request.deadline is not None and request.deadline < self.tightest:
            self.tightest = request.deadline
        self._queues[level].append(request)
        self.by_level[level] += request.rows
        self.rows += request.rows

    def head(self, level: int) -> Request | None:
        """Return the first request of a class that still waits."""
        queue = self._queues[level]
        while queue:
            if queue[0].state == WAITING:
                return queue[0]
            queue.popleft()
            self._dead -= 1
        return None

    def start(self, request: Request, rows: int) -> None:
        """Give ``rows`` of ``request``, the head of its class, to a batch."""
        level = request.priority
        request.taken += rows
        self.by_level[level] -= rows
        self.rows -= rows
        if request.taken == request.rows:
            request.state = STARTED
            self._queues[level].popleft()
        if not self.rows:
            self.tightest = inf

    def drop(self, request: Request) -> None:
        """Settle a waiting request, wherever it stands."""
        rows = request.rows - request.taken
        self.by_level[request.priority] -= rows
        self.rows -= rows
        request.state = SETTLED
        self._dead += 1
        if self._dead > SWEEP_AFTER + self.rows:
            self._sweep()

    def expire(self, now: float) -> list[Request]:
        """Settle and return every waiting request whose deadline is not after ``now``."""
        if now < self.tightest:
            return []
        late: list[Request] = []
        self.tightest = inf
        for queue in self._queues:
            for request in queue:
                if request.state != WAITING or request.deadline is None:
                    continue
                if request.deadline <= now:
                    late.append(request)
                elif request.deadline < self.tightest:
                    self.tightest = request.deadline
        for request in late:
            self.drop(request)
        return late

    def oldest(self) -> float:
        """Return when the longest waiting request arrived, or infinity."""
        heads = (self.head(level) for level in range(PRIORITIES))
        return min((request.arrived for request in heads if request is not None), default=inf)

    def order(self) -> list[int]:
        """Return the classes that wait, in the order in which they fill the next batch."""
        if self.by_level[0] == self.rows:  # the common case: nobody waits but the first class
            return [0]
        levels = [level for level in range(PRIORITIES) if self.by_level[level]]
        for level in levels[1:]:
            if self._passed[level] >= PASSED_OVER:
                return [level, *(other for other in levels if other != level)]
        return levels

    def served(self, levels: set[int]) -> None:
        """Take note of the classes a batch was filled from; the others that wait were passed over."""
        for level in range(PRIORITIES):
            waits = self.by_level[level] and level not in levels
            self._passed[level] = self._passed[level] + 1 if waits else 0

    def _sweep(self) -> None:
        for queue in self._queues:
            alive = [request for request in queue if request.state == WAITING]
            queue.clear()
            queue.extend(alive)
        self._dead = 0
