"""How much later a lane's answer comes while 3 MB JSON bodies are parsed in the same interpreter.

One caller asks for small answers of a runtime that sleeps 5 ms without the GIL; beside it, another sends 224x224x3
float pictures as JSON, 3 MB each, one after another, to another model of the same worker. Blocks with and without
the JSON alternate in random order. Two readings: what the caller sees, and the lane's own (the answer's compute time:
how late the lane got the GIL back after its sleep).

    .venv/bin/python benchmarks/wakeup.py [--quick] [--json FILE]
"""

import http.client
import json
import multiprocessing
import random
import re
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from bundles import fake_bundle
from client import p99
from harness import Row, benchmark
from whet.load.launcher import Server
from whet.models.artifact import Artifact, seal
from whet.models.bundle import PlanRecord, write_bundle
from whet.plan import Plan, Targets
from whet.tensors import TensorSpec

SLEEP_US, SHAPE = 5000, (1, 224, 224, 3)


def float_bundle(out: Path) -> Path:
    """A model that takes float pictures and answers at once: nearly all of its cost is reading JSON."""
    file = out.parent / ".floats.model"
    file.write_text("fake floats")
    spec = TensorSpec("x", "FP32", (-1, *SHAPE[1:]))
    artifact = Artifact(Path(), file.name, "fake", "", (spec,), (TensorSpec("y", "FP32", (-1, 10)),), batched=True)
    artifact = seal(artifact, [file], out.parent / ".floats.store")
    evidence = out.parent / ".floats.evidence"
    evidence.mkdir()
    plan = Plan(artifact.sha256, runtime="fake")
    write_bundle(out, "floats", [PlanRecord(plan)], {artifact.sha256: artifact}, Targets(), evidence)
    return out


def send_json(netloc: str, go: object, stop: object, sent: object) -> None:
    """Send big JSON bodies while told to."""
    values = np.random.default_rng(0).standard_normal(SHAPE)
    tensor = {"name": "x", "shape": SHAPE, "datatype": "FP32", "data": values.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    connection = http.client.HTTPConnection(netloc)
    while not stop.is_set():
        if not go.wait(0.1):
            continue
        connection.request("POST", "/v2/models/floats/infer", body)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"wakeup: JSON was answered with {answer.status}")
        with sent.get_lock():
            sent.value += 1


def probe(netloc: str, count: int) -> tuple[list[float], list[float]]:
    """Ask ``count`` times; return milliseconds seen, and the lane's milliseconds past its sleep."""
    body = np.ones(SHAPE, np.uint8).tobytes()
    tensor = {"name": "x", "shape": SHAPE, "datatype": "UINT8", "parameters": {"binary_data_size": len(body)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    connection = http.client.HTTPConnection(netloc)
    connection.connect()
    seen, lane = [], []
    for _ in range(count):
        start = time.perf_counter()
        connection.request(
            "POST", "/v2/models/net/infer", head + body, {"Inference-Header-Content-Length": str(len(head))}
        )
        answer = connection.getresponse()
        answer.read()
        seen.append((time.perf_counter() - start) * 1e3)
        timing = answer.headers["Server-Timing"]
        lane.append(float(re.search(r"compute;dur=([\d.]+)", timing)[1]) - SLEEP_US / 1e3)
    connection.close()
    return seen, lane


def main() -> None:
    bench = benchmark("wakeup", __doc__)
    blocks, count = (4, 100) if bench.quick else (15, 200)
    with tempfile.TemporaryDirectory() as name:
        bundles = [
            fake_bundle(Path(name) / "net", options=(("base_us", str(SLEEP_US)),), streams=2),
            float_bundle(Path(name) / "floats"),
        ]
        with Server([str(bundle) for bundle in bundles]) as server:
            netloc = urlsplit(server.http).netloc
            context = multiprocessing.get_context("spawn")
            go, stop, sent = context.Event(), context.Event(), context.Value("i", 0)
            sender = context.Process(target=send_json, args=(netloc, go, stop, sent))
            sender.start()
            try:
                found: dict[bool, tuple[list[list[float]], list[list[float]]]] = {False: ([], []), True: ([], [])}
                rng = random.Random(0)
                for loaded in [each for _ in range(blocks) for each in rng.sample([False, True], 2)]:
                    (go.set if loaded else go.clear)()
                    time.sleep(1.0 if not found[True][0] else 0.3)
                    for kept, taken in zip(found[loaded], probe(netloc, count), strict=True):
                        kept.append(taken)
            finally:
                stop.set()
                sender.join(10)
                sender.kill()
    case = "3 MB JSON bodies beside"
    if not sent.value:
        raise SystemExit("wakeup: no JSON body was parsed")
    for index, metric in enumerate(("caller's", "lane's")):
        quiet, busy = found[False][index], found[True][index]
        added = p99(np.concatenate(busy)) - p99(np.concatenate(quiet))
        low, high = interval(busy, quiet)
        reach = 10.0 if metric == "lane's" else None
        bench.add(Row(case, f"{metric} added p99", added, low, high, "ms", reach, higher=False))
        bench.add(Row(case, f"{metric} added p50", float(np.median(busy) - np.median(quiet)), None, None, "ms"))
    bench.add(Row(case, "JSON bodies parsed", float(sent.value), None, None, "bodies"))
    bench.close()


def interval(busy: list[list[float]], quiet: list[list[float]]) -> tuple[float, float]:
    """Bootstrap over blocks of the difference of pooled 99th percentiles."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        pick = rng.integers(0, len(busy), len(busy))
        found.append(p99(np.concatenate([busy[i] for i in pick])) - p99(np.concatenate([quiet[i] for i in pick])))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
