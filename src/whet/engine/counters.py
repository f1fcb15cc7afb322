"""The engine's counters: plain integers that the hot path adds to, and the frozen snapshot others read."""

from bisect import bisect_left

from whet.engine.batcher import Batch, Batcher
from whet.engine.request import EDGES_NS, EngineStats, Timing


class Counters:
    """What happened since the engine opened. Written on the loop's thread only."""

    def __init__(self) -> None:
        self.accepted = 0
        self.answered = 0
        self.failed = 0
        self.refused: dict[str, int] = {}
        self.batches: dict[int, int] = {}
        self.padded_rows = 0
        self.lane_busy_ns = 0
        self._queue_ns = 0
        self._compute_ns = 0
        self._queue_histogram = [0] * (len(EDGES_NS) + 1)
        self._compute_histogram = [0] * (len(EDGES_NS) + 1)

    def refuse(self, slug: str) -> None:
        """Count a refusal by its reason."""
        self.refused[slug] = self.refused.get(slug, 0) + 1

    def computed(self, batch: Batch, busy_ns: int) -> None:
        """Count a batch that was computed."""
        self.batches[batch.rows] = self.batches.get(batch.rows, 0) + 1
        self.padded_rows += batch.size - batch.rows
        self.lane_busy_ns += busy_ns

    def answer(self, timing: Timing) -> None:
        """Count an answered request."""
        self.answered += 1
        self._queue_ns += timing.queue_ns
        self._compute_ns += timing.compute_ns
        self._queue_histogram[bisect_left(EDGES_NS, timing.queue_ns)] += 1
        self._compute_histogram[bisect_left(EDGES_NS, timing.compute_ns)] += 1

    def snapshot(self, batcher: Batcher, lanes: int) -> EngineStats:
        """Return the counters as they stand."""
        return EngineStats(
            accepted=self.accepted,
            answered=self.answered,
            failed=self.failed,
            refused=dict(self.refused),
            batches=dict(sorted(self.batches.items())),
            padded_rows=self.padded_rows,
            queued=batcher.queue.rows,
            in_flight=batcher.in_flight,
            lanes=lanes,
            lane_busy_ns=self.lane_busy_ns,
            service_ms={size: seconds * 1e3 for size, seconds in batcher.costs.table().items()},
            queue_ns_sum=self._queue_ns,
            compute_ns_sum=self._compute_ns,
            queue_histogram=tuple(self._queue_histogram),
            compute_histogram=tuple(self._compute_histogram),
        )
