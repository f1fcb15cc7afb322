"""A quota of one CPU on two: what the server makes of it, against the best plan set by hand.

Every server runs in a control group of its own with a quota of 1 CPU (100 ms periods) and may use both CPUs. The
server under test is started inside its group, from a bundle tuned for two cores, and has to see for itself. The plans
set by hand are started outside, so that nothing narrows them, and moved in once ready: 1x1, 1x1 kept on one CPU, 1x2,
2x1, and 1x1 with batches of 4. Load is Poisson over HTTP at a ladder of rates, shares of the capacity the server under
test reaches with closed-loop callers; ladders alternate between servers in random order. Latency-bounded queries/s: the
rate at which p99 crosses five times the service time, interpolated between rungs. p99 and throttling are compared at
the rung that is 80 % of the capacity.

    .venv/bin/python benchmarks/quota.py [--quick] [--json FILE]

Needs root and a writable `cpu` control group (v1 or v2).
"""

import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bundles import net_bundle
from client import drive, latency_ms, p99, picture_requests
from harness import Benchmark, Row, benchmark
from serving import pictures
from whet.host.cgroups import levels
from whet.host.files import Tree
from whet.load.launcher import Server

NET, PERIOD_US, TIMES = "resnet50", 100_000, 5
RUNGS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
COMPARED = RUNGS.index(0.8)
BY_HAND = {
    "1x1": {"streams": 1, "threads": 1},
    "1x1 on one CPU": {"streams": 1, "threads": 1},
    "1x2": {"streams": 1, "threads": 2},
    "2x1": {"streams": 2, "threads": 1},
    "1x1 batch 4": {"streams": 1, "threads": 1, "batch_sizes": (1, 4)},
}


class Group:
    """A control group with a quota of one CPU."""

    def __init__(self, name: str) -> None:
        own = levels(Tree(Path("/")), "cpu")
        if os.geteuid() != 0 or not own:
            sys.exit("quota: needs root and a cpu control group; run it as root where cgroups are mounted")
        self.path = Path("/", own[0].path, f"whet-quota-{os.getpid()}-{name}")
        try:
            self.path.mkdir()
            if own[0].version == 1:
                (self.path / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self.path / "cpu.cfs_quota_us").write_text(str(PERIOD_US))
            else:
                (self.path / "cpu.max").write_text(f"{PERIOD_US} {PERIOD_US}")
        except OSError as error:
            sys.exit(f"quota: the cpu control group {self.path.parent} cannot be written ({error.strerror})")

    def add(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def throttled(self) -> tuple[int, int]:
        """Return periods and throttled periods so far."""
        lines = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(lines["nr_periods"]), int(lines["nr_throttled"])

    def close(self) -> None:
        for _ in range(100):
            with contextlib.suppress(OSError):
                self.path.rmdir()
            if not self.path.exists():
                return
            time.sleep(0.05)


@dataclass
class Contender:
    """One server under the quota and what it did.

    Attributes:
        rungs: latencies in milliseconds (refused requests as infinity) at each rung, pooled.
        periods: and throttled periods, at each rung.
    """

    name: str
    server: Server
    group: Group
    rungs: list[list[float]] = field(default_factory=lambda: [[] for _ in RUNGS])
    periods: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in RUNGS])

    def p99s(self) -> np.ndarray:
        return np.array([p99(np.array(values)) for values in self.rungs])

    def bounded(self, bound_ms: float) -> float:
        """Share of the capacity at which p99 crosses the bound, straight between the logarithms of the rungs' p99."""
        values = np.minimum(self.p99s(), 1e5)
        past = np.flatnonzero(values > bound_ms)
        if not len(past):
            return RUNGS[-1]
        first = int(past[0])
        if not first:
            return RUNGS[0] * bound_ms / float(values[0])
        low, high = np.log(values[first - 1]), np.log(values[first])
        part = (np.log(bound_ms) - low) / (high - low)
        return float(RUNGS[first - 1] + part * (RUNGS[first] - RUNGS[first - 1]))


@contextlib.contextmanager
def contenders(folder: Path) -> Iterator[list[Contender]]:
    """Start the server under test inside its group, and the others outside, to be moved in."""
    with contextlib.ExitStack() as stack:
        made = []
        for index, (name, knobs) in enumerate({"whet": BY_HAND["2x1"], **BY_HAND}.items()):
            group = Group(str(index))
            stack.callback(group.close)
            bundle = net_bundle(NET, folder / str(index), "net", **knobs)
            cpus = {min(os.sched_getaffinity(0))} if name.endswith("one CPU") else None
            inside = ("/bin/sh", "-c", f'echo $$ > {group.path}/cgroup.procs; exec "$@"', "sh")
            command = (*(inside if name == "whet" else ()), sys.executable, "-m", "whet", "serve")
            server = stack.enter_context(Server([str(bundle)], cpus=cpus, command=command))
            if name != "whet":
                for pid in (server.pid, *server.announced["workers"]):
                    group.add(pid)
            made.append(Contender(name, server, group))
        yield made


def climb(each: Contender, requests: list[bytes], capacity: float, seconds: float, seed: int) -> None:
    """Take one contender up the ladder."""
    for rung, share in enumerate(RUNGS):
        before = each.group.throttled()
        counted = drive(each.server.http, requests, "poisson", share * capacity, seconds, seed=seed)
        after = each.group.throttled()
        late = np.where(counted.records["status"] == 200, latency_ms(counted.records), np.inf)
        each.rungs[rung] += late.tolist()
        for index in range(2):
            each.periods[rung][index] += after[index] - before[index]
        time.sleep(0.3)  # the quota of the periods before must not be owed


def report(bench: Benchmark, found: list[Contender], capacity: float, bound_ms: float) -> None:
    case = f"{NET} int8, quota of 1 CPU on {len(os.sched_getaffinity(0))}"
    ours, hands = found[0], found[1:]
    bench.add(Row(case, "capacity (closed loop)", capacity, None, None, "1/s"))
    bench.add(Row(case, "bound on p99", bound_ms, None, None, "ms"))
    best = max(hands, key=lambda each: each.bounded(bound_ms))
    for each in found:
        periods, throttled = each.periods[COMPARED]
        said = f"{case}: {each.name}"
        bench.add(Row(said, "latency-bounded rate", each.bounded(bound_ms) * capacity, None, None, "1/s"))
        bench.add(Row(said, "p99 at 80 % of capacity", float(each.p99s()[COMPARED]), None, None, "ms"))
        bench.add(Row(said, "throttled periods", throttled / max(periods, 1), None, None, "share"))
    value = ours.bounded(bound_ms) / best.bounded(bound_ms)
    bench.add(Row(case, f"rate/best by hand ({best.name})", value, *boot(ours, best, bound_ms), "ratio", 0.95))
    calmest = min(float(each.p99s()[COMPARED]) for each in hands)
    value = float(ours.p99s()[COMPARED]) / float(best.p99s()[COMPARED])
    bench.add(Row(case, "p99/that plan's", value, None, None, "ratio", 1.2, higher=False))
    bench.add(Row(case, "p99/lowest of any plan", float(ours.p99s()[COMPARED]) / calmest, None, None, "ratio"))
    periods, throttled = ours.periods[COMPARED]
    bench.add(Row(case, "throttled periods", throttled / max(periods, 1), None, None, "share", 0.15, higher=False))


def boot(ours: Contender, best: Contender, bound_ms: float) -> tuple[float, float]:
    """Bootstrap the ratio of bounded rates over requests."""
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        ratio = []
        for each in (ours, best):
            drawn = [rng.choice(values, len(values)).tolist() for values in each.rungs]
            ratio.append(Contender("", each.server, each.group, drawn).bounded(bound_ms))
        found.append(ratio[0] / ratio[1])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    bench = benchmark("quota", __doc__)
    rounds, seconds = (1, 1.0) if bench.quick else (2, 3.0)
    requests = picture_requests(pictures(16))
    with tempfile.TemporaryDirectory() as name, contenders(Path(name)) as found:
        for each in found:
            drive(each.server.http, requests, "closed", 4, 1.0)
        capacity = float(np.median([drive(found[0].server.http, requests, "closed", 4, 2.0).per_s for _ in range(3)]))
        bound_ms = TIMES * 1e3 / capacity
        rng = random.Random(0)
        for seed in range(rounds):
            for each in rng.sample(found, len(found)):
                climb(each, requests, capacity, seconds, seed)
        report(bench, found, capacity, bound_ms)
    bench.close()


if __name__ == "__main__":
    main()
