"""Versions swapped under constant load: load version n + 1, switch to it, unload version n.

Requests come at a constant rate of half the capacity; a repository call loads each new version, which is a different
artifact (another image mean), so nothing compiled before can be reused. Two cases: versions whose weights are cold
(compiled at the swap), and going back and forth between two versions that are in the cache of compiled models. p99
counts requests that were in flight while a load call was, against those of the 5 s before the first swap.

    .venv/bin/python benchmarks/swap.py [--quick] [--json FILE] [--only WORD ...]
"""

import http.client
import shutil
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from bundles import MEAN, net_bundle
from client import Running, drive, latency_ms, p99, picture_requests
from harness import Benchmark, Row, benchmark
from serving import pictures
from whet.load.launcher import Server

BEFORE_S, PAUSE_S = 5.0, 1.0


def load(url: str) -> None:
    """Ask for the newest version of `net`, and return once every worker has switched."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    connection.request("POST", "/v2/repository/models/net/load", "{}")
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"swap: load failed with {answer.status}: {answer.read(500).decode()}")
    connection.close()


def run(bench: Benchmark, net: str, *, warm: bool) -> None:
    swaps = 3 if bench.quick else 20
    case = f"{net} int8 {swaps} swaps, {'warm' if warm else 'cold'} cache"
    if not bench.wants(case):
        return
    with tempfile.TemporaryDirectory() as name:
        repository = Path(name) / "repository"
        made = [
            net_bundle(net, Path(name) / f"v{index}", mean=(MEAN[0] + index, *MEAN[1:]), streams=2, threads=1)
            for index in range(2 if warm else swaps + 1)
        ]
        place(repository, 1, made[0])
        with Server([str(repository), "--repository-control", "--cache-dir", f"{name}/cache"]) as server:
            requests = picture_requests(pictures(16))
            capacity = drive(server.http, requests, "closed", 6, 2.0).per_s
            if warm:  # both into the cache
                for version in (2, 3):
                    place(repository, version, made[version % 2 - 1])
                    load(server.http)
            first = 4 if warm else 2
            patience = BEFORE_S + swaps * (PAUSE_S + (1.5 if warm else 2.5))
            running = Running(server.http, requests, "constant", capacity / 2, patience)
            time.sleep(BEFORE_S)
            windows = []
            for version in range(first, first + swaps):
                place(repository, version, made[version % 2 - 1 if warm else version - 1])
                start = time.monotonic()
                load(server.http)
                windows.append((start, time.monotonic()))
                time.sleep(PAUSE_S)
            records = running.result().records
    report(bench, case, records, windows)


def place(repository: Path, version: int, bundle: Path) -> None:
    """Put a bundle into the repository as a numbered version, by renaming, as an operator would."""
    (repository / "net").mkdir(parents=True, exist_ok=True)
    beside = repository / "net" / f".{version}"
    shutil.copytree(bundle, beside)
    beside.rename(repository / "net" / str(version))


def report(bench: Benchmark, case: str, records: np.ndarray, windows: list[tuple[float, float]]) -> None:
    swapping = np.zeros(len(records), bool)
    for start, end in windows:
        swapping |= (records["intended"] < end) & (records["done"] > start)
    begun = records["intended"].min()
    before = (records["intended"] > begun + 0.5) & (records["done"] < windows[0][0])
    outside = ~swapping & (records["intended"] < windows[-1][1])
    quiet, during = p99(latency_ms(records[before])), p99(latency_ms(records[swapping]))
    bench.add(Row(case, "failed requests", float((records["status"] != 200).sum()), None, None, "requests", 0.0,
                  higher=False))  # fmt: skip
    bench.add(Row(case, "p99 during/before", during / quiet, None, None, "ratio", 2.0, higher=False))
    bench.add(Row(case, "p99 before", quiet, None, None, "ms"))
    bench.add(Row(case, "p99 between swaps", p99(latency_ms(records[outside])), None, None, "ms"))
    bench.add(Row(case, "p99 during swaps", during, None, None, "ms"))
    bench.add(Row(case, "requests during swaps", float(swapping.sum()), None, None, "requests"))
    bench.add(Row(case, "a swap", float(np.median([end - start for start, end in windows])), None, None, "s"))


def main() -> None:
    bench = benchmark("swap", __doc__)
    for warm in (True, False):
        run(bench, "resnet50", warm=warm)
    bench.close()


if __name__ == "__main__":
    main()
