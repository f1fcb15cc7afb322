"""The engine: takes requests, gives answers. A thin shell that holds the clock, the loop and the lanes.

The decisions are :mod:`whet.engine.batcher`'s, the copies :mod:`whet.engine.intake`'s, the threads
:mod:`whet.engine.lanes`'s. One request, in order: ``submit`` checks it and offers it to the batcher; ``_pump`` takes
batches and copies their rows straight from the transport's buffer into a slot; a lane computes; ``_collect`` (one
wake-up a burst) copies the answers out, starts what waits, and only then delivers.

The same engine serves, is measured in a trial and runs inside a video pipeline.
"""

import asyncio
import logging
from math import inf
from time import monotonic

from whet.engine.batcher import Batch, Batcher, Piece
from whet.engine.counters import Counters
from whet.engine.dispatch import Dispatch, Gated, Own
from whet.engine.gate import CoreGate
from whet.engine.incident import failure
from whet.engine.intake import Intake, collect, fill, join
from whet.engine.lanes import WATCH_S, Lanes, Place, lanes_for
from whet.engine.ready import Ready
from whet.engine.request import NS, SETTLED, Answer, EngineStats, Request, Timing
from whet.errors import DeadlineExceeded, NotReady, PlanRefused, RuntimeFailed, WhetError
from whet.plan import Effective, Plan
from whet.tensors import Array, Tensors, TensorSpec

__all__ = ["Answer", "Engine", "EngineStats", "Request", "Timing"]

log = logging.getLogger("whet.engine")

Result = tuple[Batch, list[Piece], dict[str, Array] | WhetError, tuple[float, float]]
"""A batch, its pieces that still want an answer, the answer or the failure, and when it began and ended."""

TIMER_S = 0.001
"""Finest grain of the timer for windows and deadlines, seconds; also the finest the loop has."""


class Engine:
    """A model, compiled and warm, behind a queue. Every method runs on the thread of the loop it was opened in.

    Made by :func:`whet.engine.open_engine`.

    Attributes:
        artifact: the model.
        plan: how it runs (with the streams that a core gate widened it to).
        name: shown in logs and threads.
        effective: what the runtime says it does.
        inputs: what a request carries.
        outputs: what an answer carries.
    """

    def __init__(self, ready: Ready, *, name: str = "", gate: CoreGate | None = None, weight: float = 1.0) -> None:
        self.artifact = ready.artifact
        self.plan: Plan = ready.plan
        self.name = name or ready.artifact.sha256[:12]
        self.effective: Effective = ready.session.effective
        self.inputs: tuple[TensorSpec, ...] = ready.artifact.service_inputs
        self.outputs: tuple[TensorSpec, ...] = ready.outputs
        self._ready = ready
        self._batched = ready.artifact.batched
        self._intake = Intake(self.inputs, batched=self._batched)
        self._batcher = Batcher(ready.limits, ready.costs)
        self._counters = Counters()
        self._free: list[Place] = list(ready.places)
        self._loop = asyncio.get_running_loop()
        self._lanes: Lanes = lanes_for(ready.places, ready.limits.lanes, self._wake, self.name)
        self._dispatch = self._admission(gate, weight)
        self._deadline_s = None if self.plan.deadline_ms is None else self.plan.deadline_ms / 1e3
        self._gathers = self.plan.max_batch > 1 and self._batched
        self._scheduled = False
        self._unsettled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._watch: asyncio.TimerHandle | None = None
        self._draining = False
        self._idle: asyncio.Future[None] | None = None

    def submit(self, request: Request) -> None:
        """Check ``request`` and queue it; ``request.done`` is called later, exactly once, on this thread.

        Raises:
            TensorError: an input does not fit the model.
            QueueFull: the queue is at its bound.
            DeadlineExceeded: the deadline has passed or cannot be met.
            NotReady: the engine is draining or closed.
        """
        now = monotonic()
        try:
            if self._draining:
                raise NotReady(f"model '{self.name}' is being unloaded; ask again in a moment")
            request.rows = self._intake.rows(request.inputs)
            if not self._intake.fixed:
                request.shapes = self._intake.key(request.inputs)
            if request.deadline is None and self._deadline_s is not None:
                request.deadline = now + self._deadline_s
            self._batcher.offer(request, now)
        except WhetError as error:
            request.state = SETTLED  # so that a transport may cancel it all the same
            self._counters.refuse(error.slug)
            if self._batcher.dropped:
                self._answer_dropped()
            raise
        self._counters.accepted += 1
        self._unsettled += 1
        if not self._gathers:
            self._pump()
        elif not self._scheduled:  # whatever else arrives in this turn of the loop shares the batch
            self._scheduled = True
            self._loop.call_soon(self._pump)

    async def infer(self, inputs: Tensors, *, deadline: float | None = None, priority: int = 0) -> Answer:
        """Submit and wait for the answer; cancelling the task cancels the request.

        Args:
            inputs: arrays with the batch axis in front, where the model has one.
            deadline: absolute, seconds of ``time.monotonic()``.
            priority: 0 is served first.

        Raises:
            WhetError: as :meth:`submit`, and RuntimeFailed if the runtime failed.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()

        def done(answer: Answer | WhetError) -> None:
            if future.done():
                return
            if isinstance(answer, WhetError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        request = Request(inputs, done, deadline=deadline, priority=priority)
        self.submit(request)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancel(request)
            raise

    def cancel(self, request: Request) -> None:
        """Forget a request whose caller left: not computed if it has not started, and ``done`` is never called."""
        if request.state == SETTLED or not request.arrived:
            return
        if self._batcher.withdraw(request):
            self._counters.refuse("cancelled")
        self._settled(1)
        if not self._scheduled:  # the gate may think that this engine still wants a core
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def stats(self) -> EngineStats:
        """Return a snapshot of the counters; cheap."""
        return self._counters.snapshot(self._batcher, self._lanes.width)

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those accepted; return whether all of them were answered in time."""
        self._draining = True
        if not self._unsettled:
            return True
        self._idle = self._idle or self._loop.create_future()
        await asyncio.wait([self._idle], timeout=timeout_s)
        return not self._unsettled

    async def close(self) -> None:
        """Refuse what waits, let what computes end, and free the model. Idempotent."""
        if self._ready.closed:
            return
        self._ready.closed = True
        self._draining = True
        while (request := self._batcher.evict()) is not None:
            self._settle(request, NotReady(f"model '{self.name}' was unloaded before the request was computed"))
        for timer in (self._timer, self._watch):
            if timer is not None:
                timer.cancel()
        if await asyncio.to_thread(self._lanes.close):
            self._collect()
            self._end(NotReady(f"model '{self.name}' was unloaded before the request was computed"))
            self._dispatch.close()
            self._free.clear()
            self._ready.free()
        else:  # freeing a model that is still computing would take the process down
            log.error("model '%s' is stuck in its runtime; its memory stays taken until the process ends", self.name)
            self._end(RuntimeFailed(f"model '{self.name}' did not end its run and was unloaded"))

    def _end(self, error: WhetError) -> None:
        """Answer what was prepared and will never be computed."""
        for batch in self._batcher.flying:
            self._fail(batch.pieces, error)

    def _admission(self, gate: CoreGate | None, weight: float) -> Dispatch:
        try:
            if gate is None or self.plan.threads > 1:
                return Own(self._lanes, gate, self.name, self.plan)
            return Gated(gate, (self.name, weight), self.plan, (self._lanes, self._batcher), self._pump)
        except PlanRefused:
            self._lanes.close()
            raise

    def _wake(self) -> None:
        """Called by a lane."""
        try:
            self._loop.call_soon_threadsafe(self._collect)
        except RuntimeError:  # the loop was closed under a running batch: nobody waits for the answer any more
            log.debug("loop of '%s' is gone", self.name)

    def _pump(self) -> None:
        """Start what may start, answer what was refused meanwhile, and set the timer."""
        self._scheduled = False
        self._dispatch.pump(self._prepare)
        batcher = self._batcher
        if self._watch is None and self._lanes.watched and batcher.in_flight:
            self._watch = self._loop.call_later(WATCH_S, self._look)
        if batcher.dropped:
            self._answer_dropped()
        if batcher.queue.rows and batcher.wake_at() < self._timer_at:
            self._arm()

    def _prepare(self) -> Place | None:
        """Return a place with the next batch copied in, or None."""
        if not self._free:
            return None
        while (batch := self._batcher.take(monotonic())) is not None:
            place = self._free.pop()
            try:
                self._load(place, batch)
            except Exception as error:  # noqa: BLE001  (a model's own preprocessing may raise anything)
                self._free.append(place)
                pieces = self._batcher.done(batch, monotonic(), None)
                self._fail(pieces, failure(error, f"preparing a batch of '{self.name}'"))
                continue
            place.batch = batch
            return place
        return None

    def _load(self, place: Place, batch: Batch) -> None:
        before = self._ready.before
        inputs = [piece.request.inputs if before is None else before(piece.request.inputs) for piece in batch.pieces]
        arrays = place.slot.prepare(self._intake.shapes(batch, inputs[0]))
        fill(arrays, batch, inputs, batched=self._batched)

    def _collect(self) -> None:
        """Take finished batches from the lanes: copy answers out, start what waits, then deliver."""
        places = self._lanes.finished()
        results = [self._take_back(place) for place in places]
        self._dispatch.collected(places)
        self._pump()
        for batch, pieces, outputs, span in results:
            if isinstance(outputs, WhetError):
                self._fail(pieces, outputs)
            else:
                self._deliver(batch, pieces, outputs, span)

    def _take_back(self, place: Place) -> tuple[Batch, list[Piece], dict[str, Array] | WhetError, tuple[float, float]]:
        batch, error, span = place.batch, place.error, (place.began, place.ended)
        assert batch is not None, "a place came back without its batch; this is a bug"
        outputs: dict[str, Array] | WhetError
        if error is None:
            try:
                outputs = collect(place.slot.outputs(), batch, batched=self._batched)
            except Exception as raised:  # noqa: BLE001  (reading outputs is the library's code too)
                error = raised
        if error is not None:
            outputs = failure(error, f"computing a batch of '{self.name}'")
        pieces = self._batcher.done(batch, monotonic(), None if error else span[1] - span[0])
        self._counters.computed(batch, int((span[1] - span[0]) * NS))
        place.batch = None
        self._free.append(place)
        return batch, pieces, outputs, span

    def _deliver(self, batch: Batch, pieces: list[Piece], outputs: dict[str, Array], span: tuple[float, float]) -> None:
        after = self._ready.after
        if after is not None:
            try:
                outputs = after(outputs)
            except Exception as error:  # noqa: BLE001  (wrong postprocessing must not stop the loop)
                self._fail(pieces, failure(error, f"postprocessing a batch of '{self.name}'"))
                return
        began, padded, compute_ns = span[0], batch.size - batch.rows, int((span[1] - span[0]) * NS)
        alone, waited = len(batch.pieces) == 1, max(monotonic() - span[1], 0.0)
        for piece in pieces:
            request = piece.request
            if request.state == SETTLED:  # refused or left while this batch was being computed
                continue
            first, last = piece.offset, piece.offset + piece.rows
            own = outputs if alone else {name: array[first:last] for name, array in outputs.items()}
            queued = int((began - request.arrived) * NS)
            answer = Answer(own, Timing(queued, compute_ns, request.decode_ns, 0, batch.rows, padded))
            whole = self._batcher.answered(piece)
            if piece.rows != request.rows:
                request.parts = request.parts or []
                request.parts.append((piece.start, answer))
                if not whole:
                    continue
                answer = join(request.parts)
            self._counters.answer(answer.timing)
            self._settle(request, answer)
            # What a request waits in its socket cannot be seen; it is what an answer waits for the loop, about.
            self._batcher.delivered(request, monotonic() + waited)

    def _fail(self, pieces: list[Piece], error: WhetError) -> None:
        for piece in pieces:
            request = piece.request
            if request.state != SETTLED:
                self._batcher.withdraw(request)
                self._counters.failed += 1
                self._settle(request, error)

    def _answer_dropped(self) -> None:
        dropped, self._batcher.dropped = self._batcher.dropped, []
        self._refuse_late(dropped)

    def _refuse_late(self, requests: list[Request]) -> None:
        for request in requests:
            self._counters.refuse(DeadlineExceeded.slug)
            waited = (monotonic() - request.arrived) * 1e3
            self._settle(
                request,
                DeadlineExceeded(
                    f"deadline could not be met after {waited:.1f} ms in the queue; allow more time or send less load"
                ),
            )

    def _settle(self, request: Request, answer: Answer | WhetError) -> None:
        request.state = SETTLED
        self._settled(1)
        try:
            request.done(answer)
        except Exception:  # one caller's callback must not cost the others their answers
            log.exception("a caller of '%s' failed to take its answer", self.name)

    def _settled(self, requests: int) -> None:
        self._unsettled -= requests
        if not self._unsettled and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _arm(self) -> None:
        """Set the timer for the end of a window or the next deadline."""
        if self._timer is not None:
            self._timer.cancel()
        now = monotonic()
        self._timer_at = max(self._batcher.wake_at(), now + TIMER_S)
        self._timer = self._loop.call_later(self._timer_at - now, self._on_timer)

    def _look(self) -> None:
        """Now and then while batches compute, look for those that failed without a word."""
        self._watch = None
        self._lanes.watch()
        if self._batcher.in_flight:
            self._watch = self._loop.call_later(WATCH_S, self._look)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, inf
        self._refuse_late(self._batcher.expire(monotonic()))
        self._pump()
