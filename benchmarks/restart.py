"""How fast a server is there again: from exec to ready, and compiling with what an earlier start left in the cache.

Exec to ready: `whet serve` of ResNet-50 int8, from the start of the process until `/v2/health/ready` says 200 (every
worker has the model, compiled and warmed), with the cache of compiled models left by the start before, and without.
Compile step: a fresh process opens the model through the product's own runtime adapter (checksums of the cache
verified), cold in an empty cache folder and warm in the same one; whether the blob was used is OpenVINO's own word.

    .venv/bin/python benchmarks/restart.py [--quick] [--json FILE] [--only WORD ...]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bundles import net_artifact, net_bundle
from harness import Benchmark, Row, benchmark, ratio
from whet.load.launcher import Server

OPEN = """
import json, sys, time
from pathlib import Path
from whet.engine import load_runtime
from whet.models.artifact import load_artifact
from whet.plan import Plan
artifact = load_artifact(Path(sys.argv[1]))
runtime = load_runtime("openvino")
runtime.core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin, which is no part of compiling
start = time.perf_counter()
session = runtime.open(artifact, Plan(artifact.sha256, streams=2), Path(sys.argv[2]))
seconds = time.perf_counter() - start
print(json.dumps([seconds, session.effective.raw.get("LOADED_FROM_CACHE")]))
"""
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""An installed package has its bytecode; a checkout gets it on the start that is not counted."""


def median(values: list[float]) -> tuple[float, float, float]:
    """Return the median and a bootstrap 95 % interval of it."""
    return ratio([(value, 1.0) for value in values])


def ready_s(bundle: Path, cache: str) -> float:
    """Seconds from exec until the readiness call answers 200, looked at every 5 ms."""
    start = time.perf_counter()
    server = Server([str(bundle), "--cache-dir", cache], poll_s=0.005, env=BYTECODE).start()
    seconds = time.perf_counter() - start
    server.stop()
    return seconds


def to_ready(bench: Benchmark) -> None:
    count = 3 if bench.quick else 15
    case = "resnet50 int8 exec to ready"
    if not bench.wants(case):
        return
    with tempfile.TemporaryDirectory() as name:
        bundle = net_bundle("resnet50", Path(name) / "bundle", streams=2, threads=1)
        ready_s(bundle, f"{name}/uncounted")
        cold = [ready_s(bundle, f"{name}/cold{index}") for index in range(count)]
        ready_s(bundle, f"{name}/cache")
        warm = [ready_s(bundle, f"{name}/cache") for _ in range(count)]
    bench.add(Row(case, "restart (cache kept)", *median(warm), "s", 1.2, higher=False))
    bench.add(Row(case, "first start (empty cache)", *median(cold), "s"))


def compile_step(bench: Benchmark, net: str) -> None:
    count = 2 if bench.quick else 15
    case = f"{net} int8 compile"
    if not bench.wants(case):
        return
    with tempfile.TemporaryDirectory() as name:
        artifact = net_artifact(net, Path(name) / "store")
        pairs, hits = [], []
        for index in range(count):
            cache = f"{name}/cache{index}"
            (cold, first), (warm, second) = (opened(artifact.folder, cache) for _ in range(2))
            pairs.append((warm, cold))
            hits.append(not truth(first) and truth(second))
    bench.add(Row(case, "warm/cold", *ratio(pairs), "ratio", 0.5, higher=False))
    for metric, side in (("warm", 0), ("cold", 1)):
        bench.add(Row(case, metric, float(np.median([pair[side] for pair in pairs])), None, None, "s"))
    bench.add(Row(case, "LOADED_FROM_CACHE no, then yes", float(np.mean(hits)), None, None, "share", 1.0))


def truth(said: str | None) -> bool:
    return str(said).lower() in {"true", "yes", "1"}


def opened(folder: Path, cache: str) -> tuple[float, str | None]:
    done = subprocess.run([sys.executable, "-c", OPEN, str(folder), cache], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"restart: opening failed: {done.stderr.strip()[-400:]}")
    seconds, hit = json.loads(done.stdout.splitlines()[-1])
    return seconds, hit


def main() -> None:
    bench = benchmark("restart", __doc__)
    to_ready(bench)
    for net in ("resnet50", "bert-base"):
        compile_step(bench, net)
    bench.close()


if __name__ == "__main__":
    main()
