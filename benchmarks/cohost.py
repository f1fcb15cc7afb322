"""Two co-hosted models on the cores of one worker: together, alone, and beside an idle one.

One server holds ResNet-50 int8 twice, `a` and `b`, each under a plan for the whole machine; another holds it once.
Blocks alternate in random order: both of the pair busy; only `a` of the pair; the one alone. While both are busy,
every thread's state and CPU are sampled from /proc every 10 ms: two computing threads on one CPU at once overlap. The
same is counted of the one alone: two streams of one model meet on a CPU just so, whatever the sharing.

    .venv/bin/python benchmarks/cohost.py [--quick] [--json FILE]
"""

import random
import tempfile
import threading
from pathlib import Path
from typing import Self

import numpy as np

from bundles import net_bundle
from client import Running, drive, picture_requests
from harness import Row, benchmark, ratio
from serving import pictures
from whet.load.launcher import Server

STREAMS, CALLERS, SAMPLE_S = 2, 6, 0.01


class Watch:
    """Samples which threads of a process run where, until closed."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, threading.Event()
        self.samples: list[list[tuple[int, int]]] = []
        self.ticks: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._first = self._read()[1]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.ticks = {tid: ticks - self._first.get(tid, 0) for tid, ticks in self._read()[1].items()}

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.samples.append(self._read()[0])

    def _read(self) -> tuple[list[tuple[int, int]], dict[int, int]]:
        running, ticks = [], {}
        for path in Path(f"/proc/{self._pid}/task").iterdir():
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            ticks[int(path.name)] = int(fields[11]) + int(fields[12])
            if fields[0] == "R":
                running.append((int(path.name), int(fields[36])))
        return running, ticks

    def shares(self) -> tuple[float, float]:
        """Return how many threads compute at the same time on average, and how often two of them share a CPU.

        Threads that compute are those with at least 5 % of the busiest one's time, the loop's (the main one) left out.
        """
        most = max(ticks for tid, ticks in self.ticks.items() if tid != self._pid)
        computing = {tid for tid, ticks in self.ticks.items() if tid != self._pid and ticks >= most / 20}
        cpus = [[cpu for tid, cpu in sample if tid in computing] for sample in self.samples]
        overlap = [len(set(each)) < len(each) for each in cpus if each]
        return float(np.mean([len(each) for each in cpus])), float(np.mean(overlap))


def main() -> None:
    bench = benchmark("cohost", __doc__)
    blocks, seconds = (3, 1.5) if bench.quick else (15, 2.0)
    case = "resnet50 int8 twice on 2 cores"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundles = [str(net_bundle("resnet50", folder / each, each, streams=STREAMS, threads=1)) for each in "ab"]
        with Server(bundles) as pair, Server(bundles[:1]) as alone:
            samples = pictures(16)
            ask = {each: picture_requests(samples, each) for each in "ab"}
            seen: list[tuple[float, float]] = []
            control: list[tuple[float, float]] = []

            def both() -> float:
                with Watch(pair.announced["workers"][0]) as watch:
                    other = Running(pair.http, ask["b"], "closed", CALLERS, seconds)
                    mine = drive(pair.http, ask["a"], "closed", CALLERS, seconds)
                    theirs = other.result()
                seen.append(watch.shares())
                parts.append(mine.per_s / (mine.per_s + theirs.per_s))
                return mine.per_s + theirs.per_s

            def lone() -> float:
                with Watch(alone.announced["workers"][0]) as watch:
                    done = drive(alone.http, ask["a"], "closed", CALLERS, seconds)
                control.append(watch.shares())
                return done.per_s

            parts: list[float] = []
            sides = {
                "both": both,
                "beside": lambda: drive(pair.http, ask["a"], "closed", CALLERS, seconds).per_s,
                "alone": lone,
            }
            for side in sides.values():
                side()
            for warmed in (seen, control, parts):
                warmed.clear()
            rng, taken = random.Random(0), []
            for _ in range(blocks):
                order = rng.sample(list(sides), 3)
                values = {each: sides[each]() for each in order}
                taken.append(values)
            for metric, side in (("both busy, together/alone", "both"), ("other idle, busy one/alone", "beside")):
                value, low, high = ratio([(values[side], values["alone"]) for values in taken])
                bench.add(Row(case, metric, value, low, high, "ratio", 0.95))
            bench.add(Row(case, "alone", float(np.median([values["alone"] for values in taken])), None, None, "1/s"))
            bench.add(Row(case, "first one's part of both", float(np.median(parts)), None, None, "share"))
            computing, overlap = np.mean(seen, axis=0)
            bench.add(Row(case, "threads that compute at once", float(computing), None, None, "threads"))
            bench.add(Row(case, "two of them on one CPU", float(overlap), None, None, "share", 0.05, higher=False))
            bench.add(Row(case, "the same of one model alone", float(np.mean(control, axis=0)[1]), None, None, "share"))
    bench.close()


if __name__ == "__main__":
    main()
