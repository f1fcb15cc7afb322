"""Admission under overload, simulated: the batcher's own decisions against drawn compute times. No clock, no noise.

Twice the requests that two lanes can compute, Poisson, each with a deadline of five mean service times. Compute times
are lognormal around 10 ms with a spread, and a share of them are spikes of five times as much. Shown: answers in time
over capacity, p99 of what was accepted over the deadline, and the share of refusals that came late, after waiting.

    .venv/bin/python benchmarks/admission.py [--quick] [--json FILE]
"""

import heapq
import math
import random
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from harness import Row, benchmark
from whet.engine.batcher import Batch, Batcher, Limits
from whet.engine.request import SETTLED, Request
from whet.errors import WhetError

SERVICE_S, LANES, LOAD, TIMES, SPIKE = 0.010, 2, 2.0, 5.0, 5.0
CASES = ((0.05, 0.0), (0.2, 0.0), (0.2, 0.01), (0.5, 0.02))


@dataclass
class World:
    """Events in order of time, the batcher under test, and what became of requests."""

    spread: float
    spikes: float
    seed: int = 0
    late: int = 0
    at_once: int = 0
    answers: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.batcher = Batcher(Limits((1,), LANES, 1, 256))
        for _ in range(5):
            self.batcher.costs.observe(1, SERVICE_S)
        self.mean_s = SERVICE_S * math.exp(self.spread**2 / 2) * (1 + self.spikes * (SPIKE - 1))
        self.events: list[tuple[float, int, tuple[Batch, float] | None]] = []
        self.order, self.running, self.ahead = count(), 0, list[Batch]()

    def run(self, seconds: float) -> None:
        self.arrive(0.0)
        while self.events[0][0] < seconds:
            now, _, ended = heapq.heappop(self.events)
            self.late += len(self.batcher.expire(now))
            if ended is None:
                self.arrive(now)
                self.offer(now)
            else:
                self.end(now, *ended)
            self.start(now)

    def arrive(self, now: float) -> None:
        when = now + self.rng.expovariate(LOAD * LANES / self.mean_s)
        heapq.heappush(self.events, (when, next(self.order), None))

    def offer(self, now: float) -> None:
        request = Request({}, lambda _: None, deadline=now + TIMES * self.mean_s)
        request.rows = 1
        try:
            self.batcher.offer(request, now)
        except WhetError:
            self.at_once += 1

    def start(self, now: float) -> None:
        while (batch := self.batcher.take(now)) is not None:
            self.ahead.append(batch)
        self.late += len(self.batcher.dropped)
        self.batcher.dropped = []
        while self.ahead and self.running < LANES:
            seconds = SERVICE_S * self.rng.lognormvariate(0, self.spread)
            seconds *= SPIKE if self.rng.random() < self.spikes else 1
            self.running += 1
            heapq.heappush(self.events, (now + seconds, next(self.order), (self.ahead.pop(0), seconds)))

    def end(self, now: float, batch: Batch, seconds: float) -> None:
        self.running -= 1
        for piece in self.batcher.done(batch, now, seconds):
            self.batcher.answered(piece)
            self.batcher.delivered(piece.request, now)
            piece.request.state = SETTLED
            self.answers.append((now - piece.request.arrived) / (TIMES * self.mean_s))


def main() -> None:
    bench = benchmark("admission", __doc__)
    seconds, seeds = (30.0, 5) if bench.quick else (60.0, 20)
    for spread, spikes in CASES:
        case = f"spread {spread:.0%}, {spikes:.0%} spikes of {SPIKE:g}x"
        found = []
        for seed in range(seeds):
            world = World(spread, spikes, seed)
            world.run(seconds)
            answers = np.array(world.answers)
            capacity = LANES / world.mean_s * seconds
            refused = max(world.late + world.at_once, 1)
            found.append(((answers <= 1).sum() / capacity, np.percentile(answers, 99), world.late / refused))
        for metric, values, unit in zip(
            ("goodput/capacity", "p99 of accepted/deadline", "refusals that came late"),
            np.array(found).T,
            ("ratio", "ratio", "share"),
            strict=True,
        ):
            half = 1.96 * float(values.std(ddof=1)) / math.sqrt(seeds)
            mean = float(values.mean())
            bench.add(Row(case, metric, mean, mean - half, mean + half, unit))
    bench.close()


if __name__ == "__main__":
    main()
