"""What is answered in time when twice as many requests come as can be computed.

Capacity is what closed-loop callers reach over HTTP with the same client, server and bodies, measured between the
overload blocks. Overload is Poisson arrivals at twice that, each request with a deadline of five times the model's
service time (the protocol's `timeout` parameter). Goodput counts answers within the deadline as the client saw it, from
the intended start; a refusal's time counts from the moment its request was sent. Bodies are 150 KB, 16 distinct ones.

    .venv/bin/python benchmarks/overload.py [--quick] [--json FILE] [--only WORD ...]
"""

import tempfile
from pathlib import Path

import numpy as np

from bundles import net_bundle
from client import Counted, drive, latency_ms, p99, picture_requests
from harness import Benchmark, Row, benchmark, ratio
from serving import pictures
from whet.load.launcher import Server

CASES = (("resnet50", 0.9), ("mobilenetv2", 0.75))
STREAMS, CALLERS, TIMES = 2, 6, 5


def service_ms(url: str, requests: list[bytes]) -> float:
    """Time of one batch while every lane is busy, milliseconds: what the deadline is counted in."""
    busy = drive(url, requests, "closed", CALLERS, 2.0)
    return STREAMS / busy.per_s * 1e3


def run(bench: Benchmark, net: str, reach: float) -> None:
    blocks, seconds = (2, 4.0) if bench.quick else (15, 6.0)
    with tempfile.TemporaryDirectory() as folder:
        bundle = net_bundle(net, Path(folder) / "bundle", streams=STREAMS, threads=1)
        with Server([str(bundle)]) as server:
            samples = pictures(16)
            plain = picture_requests(samples)
            deadline_ms = TIMES * service_ms(server.http, plain)
            urgent = picture_requests(samples, timeout_ms=deadline_ms)
            pairs: list[tuple[float, float]] = []
            over: list[Counted] = []
            for seed in range(blocks):
                before = drive(server.http, plain, "closed", CALLERS, 2.0).per_s
                loaded = drive(server.http, urgent, "poisson", 2 * before, seconds, seed=seed)
                after = drive(server.http, plain, "closed", CALLERS, 2.0).per_s
                in_time = (latency_ms(loaded.ok) <= deadline_ms).sum() / loaded.seconds
                pairs.append((float(in_time), (before + after) / 2))
                over.append(loaded)
    report(bench, f"{net} int8 2x capacity", pairs, over, deadline_ms, reach)


def report(
    bench: Benchmark, case: str, pairs: list[tuple[float, float]], over: list[Counted], deadline_ms: float, reach: float
) -> None:
    records = np.concatenate([one.records for one in over])
    accepted, refused = records[records["status"] == 200], records[np.isin(records["status"], (429, 503, 504))]
    offered = len(records) / sum(one.seconds for one in over)
    value, low, high = ratio(pairs)
    bench.add(Row(case, "goodput/capacity", value, low, high, "ratio", reach))
    bench.add(Row(case, "capacity", float(np.median([b for _, b in pairs])), None, None, "1/s"))
    bench.add(Row(case, "offered", offered, None, None, "1/s"))
    bench.add(Row(case, "deadline", deadline_ms, None, None, "ms"))
    accepted_p99 = p99(latency_ms(accepted)) / deadline_ms
    bench.add(Row(case, "p99 of accepted/deadline", accepted_p99, None, None, "ratio", 1.0, higher=False))
    bench.add(Row(case, "p50 of accepted", float(np.median(latency_ms(accepted))), None, None, "ms"))
    bench.add(Row(case, "refusal p99", p99(latency_ms(refused, "sent")), None, None, "ms", 10.0, higher=False))
    bench.add(Row(case, "refused", len(refused) / len(records), None, None, "share"))
    bench.add(Row(case, "neither answered nor refused", float(len(records) - len(accepted) - len(refused)), None, None,
                  "requests", 0.0, higher=False))  # fmt: skip
    bench.add(Row(case, "client CPU", float(np.mean([one.share for one in over])), None, None, "share"))


def main() -> None:
    bench = benchmark("overload", __doc__)
    for net, reach in CASES:
        if bench.wants(net):
            run(bench, net, reach)
    bench.close()


if __name__ == "__main__":
    main()
