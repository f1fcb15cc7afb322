"""Who is computed next, with whom, and who is refused: a pure function of what was offered and of ``now``.

No clock, no loop, no thread: the engine's shell calls ``offer``, ``take``, ``done`` and ``expire`` with the time in
seconds and carries out what they say.

* **Bounded.** The queue is bounded in rows; one row more is refused.
* **Work-conserving.** A lane with nothing to do takes what waits, up to the largest batch. It waits for more only if
  the plan has a window, never longer than the oldest request's window, and never so long that a waiting deadline is
  lost. Only full batches are prepared ahead of a busy lane; a part-filled one stays open to newcomers.
* **Priorities.** Class 0 first, first come first served within a class; a batch may be topped up from later classes.
  Against starvation, a class that waited while :data:`~whet.engine.waiting.PASSED_OVER` batches left without it heads
  the next one.
* **Deadlines.** A request is refused on arrival when the measured service times say that its deadline cannot be met,
  and later when the deadline passes, or can no longer be met, before its batch starts. After :data:`PROBE_AFTER`
  such refusals in a row an idle engine admits one regardless, to measure anew: a single slow batch cannot refuse
  everybody for ever.
* **Whole.** A request that fits a batch is never cut; a larger one is cut into full batches and a rest that shares.
"""

from dataclasses import dataclass
from math import inf

from whet.engine.costs import ServiceTimes, Shortfall
from whet.engine.request import SETTLED, WAITING, Request
from whet.engine.waiting import PRIORITIES, Waiting
from whet.errors import DeadlineExceeded, QueueFull, TooLarge

PROBE_AFTER = 16
"""Refusals by estimate in a row after which one request is admitted to an idle engine regardless."""
SLACK_S = 0.002
"""How late a wake-up may come, seconds: a window ends this much before a waiting deadline would be lost."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a batcher.

    Attributes:
        batch_sizes: sizes a batch may have, ascending; a batch is padded up to the next one.
        lanes: batches computed at the same time.
        ahead: full batches prepared beyond those.
        queue_bound: rows that may wait.
        window_s: how long an idle lane may wait for more rows, seconds; 0 never waits.
    """

    batch_sizes: tuple[int, ...] = (1,)
    lanes: int = 1
    ahead: int = 1
    queue_bound: int = 256
    window_s: float = 0.0


class Piece:
    """Rows ``start .. start + rows`` of ``request``, computed as rows ``offset ..`` of a batch."""

    __slots__ = ("offset", "request", "rows", "start")

    def __init__(self, request: Request, start: int, rows: int, offset: int) -> None:
        self.request = request
        self.start = start
        self.rows = rows
        self.offset = offset


class Batch:
    """What one lane computes at once: ``rows`` rows of ``pieces``, padded to ``size``."""

    __slots__ = ("expected_end", "pieces", "rows", "size")

    def __init__(self, pieces: list[Piece], rows: int, size: int, expected_end: float) -> None:
        self.pieces = pieces
        self.rows = rows
        self.size = size
        self.expected_end = expected_end


class Batcher:
    """The decisions of one engine. Not thread-safe: everything happens on the loop's thread.

    Attributes:
        limits: its bounds.
        lanes: batches that may be computed at the same time now; at most ``limits.lanes``, fewer while cores are lent.
        costs: the measured service times the decisions rest on.
        shortfalls: by how much answers have come later than those times promise, a class of priority each: whom later
            arrivals overtake, waits longer than could be promised, and that is no reason to refuse those who overtake.
        queue: the requests that wait.
        dropped: requests refused by ``offer`` or ``take``; the caller answers them and clears the list.
    """

    __slots__ = (
        "_flying",
        "_max",
        "_refusals",
        "_size_for",
        "costs",
        "dropped",
        "lanes",
        "limits",
        "queue",
        "shortfalls",
    )

    def __init__(self, limits: Limits, costs: ServiceTimes | None = None) -> None:
        self.limits = limits
        self.lanes = limits.lanes
        self.costs = costs if costs is not None else ServiceTimes()
        self.shortfalls = tuple(Shortfall() for _ in range(PRIORITIES))
        self.queue = Waiting()
        self.dropped: list[Request] = []
        sizes = limits.batch_sizes
        self._max = sizes[-1]
        self._size_for = [0] + [next(size for size in sizes if size >= rows) for rows in range(1, self._max + 1)]
        self._flying: list[Batch] = []
        self._refusals = 0

    @property
    def in_flight(self) -> int:
        """Batches taken and not yet done."""
        return len(self._flying)

    @property
    def flying(self) -> tuple[Batch, ...]:
        """Batches taken and not yet done, in the order in which they were taken."""
        return tuple(self._flying)

    def offer(self, request: Request, now: float) -> None:
        """Admit ``request`` to the queue, or refuse it at once; may add others to :attr:`dropped`.

        Raises:
            TooLarge: it has more rows than the queue may ever hold.
            QueueFull: the queue is at its bound; says when to come again.
            DeadlineExceeded: its deadline has passed, or cannot be met by the measured service times.
        """
        queue = self.queue
        if queue.rows + request.rows > self.limits.queue_bound:
            self.dropped += queue.expire(now)
            self._refuse_full(request.rows)
        if request.deadline is not None:
            self._refuse_late(request, request.deadline - now, now)
        request.arrived = now
        queue.push(request)

    def take(self, now: float) -> Batch | None:
        """Return the batch that should start (or be prepared) now, or None; may add to :attr:`dropped`."""
        limits, queue = self.limits, self.queue
        ahead = len(self._flying) - self.lanes
        if not queue.rows or ahead >= limits.ahead or (ahead >= 0 and queue.rows < self._max):
            return None
        if limits.window_s and not self._ripe(now):
            return None
        pieces: list[Piece] = []
        filled, room = 0, self._room(queue.rows)
        levels = queue.order()
        for level in levels:
            filled = self._fill(pieces, level, (filled, room), now)
        if not pieces:
            return None
        if len(levels) > 1:
            queue.served({piece.request.priority for piece in pieces})
        size = self._size_for[filled]
        batch = Batch(pieces, filled, size, now + self.costs.typical(size))
        self._flying.append(batch)
        return batch

    def done(self, batch: Batch, now: float, seconds: float | None) -> list[Piece]:
        """Take back a computed batch and return the pieces whose requests still want their rows.

        Args:
            batch: what ``take`` returned.
            now: the time, seconds.
            seconds: how long it was computed, or None if it failed (nothing is learnt from failures).
        """
        flying, lanes = self._flying, self.lanes
        position = flying.index(batch)
        del flying[position]
        if position < lanes <= len(flying):  # one that was prepared ahead begins only now
            heir = flying[lanes - 1]
            heir.expected_end = now + self.costs.typical(heir.size)
        if seconds is not None:
            if any(piece.request.probe for piece in batch.pieces):
                self.costs.forget()
                for shortfall in self.shortfalls:
                    shortfall.forget()
            self.costs.observe(batch.size, seconds)
            self._refusals = 0
        return [piece for piece in batch.pieces if piece.request.state != SETTLED]

    def answered(self, piece: Piece) -> bool:
        """Count the rows of ``piece`` as answered; return whether they were the last of their request."""
        request = piece.request
        request.answered += piece.rows
        assert request.answered <= request.rows, "more rows answered than asked; this is a bug"
        return request.answered == request.rows

    def delivered(self, request: Request, now: float) -> None:
        """Learn how far the promise to a request was from the truth: its answer has just been handed over."""
        if request.promised:
            self.shortfalls[request.priority].observe(now - request.promised, self.costs.likely(self._max))

    def withdraw(self, request: Request) -> bool:
        """Settle a request whose caller left or whose other rows failed; return whether any of its rows still waited.

        Rows that are being computed already are computed in vain.
        """
        if request.state == WAITING:
            self.queue.drop(request)
            return True
        request.state = SETTLED
        return False

    def evict(self) -> Request | None:
        """Drop and return a request that waits, or None: for an engine that closes."""
        for level in self.queue.order():
            request = self.queue.head(level)
            if request is not None:
                self.queue.drop(request)
                return request
        return None

    def expire(self, now: float) -> list[Request]:
        """Refuse and return every waiting request whose deadline is not after ``now``."""
        return self.queue.expire(now)

    def wake_at(self) -> float:
        """Return when ``expire`` and ``take`` should next be called if nothing else happens, or infinity."""
        if not self.queue.rows:
            return inf
        if not self.limits.window_s or len(self._flying) >= self.lanes:
            return self.queue.tightest
        return min(self.queue.oldest() + self.limits.window_s, self._latest_start())

    def estimate(self, rows: int, level: int, now: float) -> float:
        """Return how long a request of ``rows`` rows offered now would take to be answered, seconds: wait and compute.

        Wait = what is left of the batches in flight, plus the rows ahead of it in full batches, shared by the lanes.
        Times to come are likely ones, not typical ones: a queue a little shorter costs no throughput while it is not
        empty, but a request admitted in vain is refused late. What the loop takes is not in it (:attr:`shortfalls`).
        """
        lanes, costs, flying = self.lanes, self.costs, self._flying
        full, rest = divmod(rows, self._max)
        own = costs.likely(self._size_for[rest]) if rest else 0.0
        if full:
            own += costs.likely(self._max) * -(-full // lanes)
        if not self.queue.rows and len(flying) < lanes:
            return own
        left = sum([max(batch.expected_end - now, 0.0) for batch in flying[:lanes]])
        left += sum([costs.likely(batch.size) for batch in flying[lanes:]])
        ahead = sum(self.queue.by_level[: max(level, 0) + 1])
        return own + (left + ahead * costs.likely(self._max) / self._max) / lanes

    def _refuse_full(self, rows: int) -> None:
        bound, waiting = self.limits.queue_bound, self.queue.rows
        if rows > bound:
            raise TooLarge(f"request of {rows} rows is past the queue's bound of {bound}; send it in smaller parts")
        if waiting + rows <= bound:
            return
        retry = max(waiting * self.costs.typical(self._max) / self._max / self.lanes, 0.001)
        raise QueueFull(
            f"queue is full: {waiting} of {bound} rows wait; come again in {retry * 1e3:.0f} ms or send less load",
            retry_after_s=retry,
        )

    def _refuse_late(self, request: Request, left: float, now: float) -> None:
        if left <= 0:
            raise DeadlineExceeded(f"deadline passed {-left * 1e3:.1f} ms before the request arrived; allow more time")
        needs = self.estimate(request.rows, request.priority, now)
        if self.queue.rows or len(self._flying) >= self.lanes:
            request.promised = now + needs
            shortfall = self.shortfalls[min(max(request.priority, 0), PRIORITIES - 1)]
            if needs <= left < needs + shortfall.seconds:
                shortfall.decided()
            needs += shortfall.seconds
        if needs <= left:
            return
        if self._refusals >= PROBE_AFTER and not self._flying and not self.queue.rows:
            self._refusals = 0
            request.probe = True
            return
        self._refusals += 1
        raise DeadlineExceeded(
            f"deadline in {left * 1e3:.1f} ms cannot be met: about {needs * 1e3:.1f} ms by measured service times; "
            "allow more time or send less load"
        )

    def _room(self, waiting: int) -> int:
        """Return how many rows to take: all that wait, or fewer where padding would cost more per row than it saves."""
        if waiting >= self._max or self._size_for[waiting] == waiting:
            return self._max
        down = max((size for size in self.limits.batch_sizes if size < waiting), default=0)
        cost = self.costs.typical
        if down and cost(down) * waiting < cost(self._size_for[waiting]) * down:
            return down
        return self._max

    def _fill(self, pieces: list[Piece], level: int, filled_room: tuple[int, int], now: float) -> int:
        """Add pieces of one class until ``room`` rows are filled or the next request does not fit; return the rows."""
        queue = self.queue
        filled, room = filled_room
        while filled < room and (request := queue.head(level)) is not None:
            if request.deadline is not None and self._hopeless(request, request.deadline - now):
                queue.drop(request)
                self._refusals += 1
                self.dropped.append(request)
                continue
            if pieces and pieces[0].request.shapes != request.shapes:
                break
            rows = request.rows - request.taken
            if rows > room - filled:
                if request.rows > self._max:
                    rows = room - filled
                elif pieces:
                    break
            pieces.append(Piece(request, request.taken, rows, filled))
            filled += rows
            queue.start(request, rows)
        return filled

    def _hopeless(self, request: Request, left: float) -> bool:
        if left <= 0:
            return True
        return not request.probe and left < self.costs.typical(self._size_for[min(request.rows, self._max)])

    def _ripe(self, now: float) -> bool:
        """Return whether the window is over: a full batch waits, the oldest waited enough, or a deadline presses."""
        if self.queue.rows >= self._max:
            return True
        return now >= self.queue.oldest() + self.limits.window_s or now >= self._latest_start()

    def _latest_start(self) -> float:
        return self.queue.tightest - self.costs.likely(self._size_for[min(self.queue.rows, self._max)]) - SLACK_S
