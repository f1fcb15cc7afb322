"""The rounds of ``benchmarks/speedup.py``: Whet's plan and its rivals, resident, in interleaved blocks."""

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness import Resident, resident
from speedup_nets import HERE, Net, Work
from whet.engine.environment import environment
from whet.host import read_host
from whet.models.bundle import read_bundle
from whet.optimize.data import open_data, synthetic
from whet.optimize.pool import materialise
from whet.optimize.trial import Bench, Trial
from whet.optimize.trial_words import Block

SAMPLES = 64
LEAST_ROUNDS, MOST_ROUNDS = 5, 24
HINTS = ("OpenVINO LATENCY", "OpenVINO THROUGHPUT")


class Library:
    """A library in its resident process, at the batch and the callers that suit it best."""

    def __init__(self, helper: Resident, configurations: list[tuple[int, int]], seconds: float) -> None:
        self.helper = helper
        rates = {
            (batch, callers): helper.ask(batch=batch, callers=callers, seconds=seconds)["per_s"]
            for batch, callers in configurations
        }
        self.batch, self.callers = max(rates, key=lambda one: rates[one])

    def throughput(self, seconds: float) -> float:
        return float(self.helper.ask(batch=self.batch, callers=self.callers, seconds=seconds)["per_s"])

    def latency(self, seconds: float) -> float:
        return float(self.helper.ask(batch=1, callers=1, seconds=seconds)["p50_ms"])


class Plan:
    """Whet's plan in a resident trial, which is the engine that serves."""

    def __init__(self, trial: Trial, seconds: float) -> None:
        self.trial = trial
        plan = trial.plan
        batch = plan.max_batch
        rates = {}
        for rows in {1, min(8, batch)}:
            callers = 2 * plan.streams * max(1, batch // rows)
            rates[rows, callers] = trial.measure(Block(seconds, callers, rows)).throughput_per_s
        self.batch, self.callers = max(rates, key=lambda one: rates[one])

    def throughput(self, seconds: float) -> float:
        return self.trial.measure(Block(seconds, self.callers, self.batch)).throughput_per_s

    def latency(self, seconds: float) -> float:
        return float(np.median(self.trial.measure(Block(seconds, 1)).latencies_ms))


@contextmanager
def whet_trial(bundle: Path, data: Path | None) -> Iterator[Trial]:
    """Open the bundle's preferred plan as the optimiser measures it, on the same kind of samples."""
    found = read_bundle(bundle)
    plan = found.plans[0].plan
    artifact = found.artifacts[plan.artifact]
    with tempfile.TemporaryDirectory(prefix="speedup-") as name:
        folder = Path(name)
        source = synthetic(artifact, SAMPLES, 0) if data is None else open_data(str(data), artifact)
        materialise(source, range(min(SAMPLES, len(source))), artifact, folder / "pool")
        bench = Bench(read_host().budget.cpus, folder, start_s=180.0)
        trial = Trial(artifact.folder, plan, folder / "pool", bench, environment(plan))
        try:
            trial.wait_ready()
            yield trial
        finally:
            trial.close()


def libraries(net: Net, given: Path, onnx: Path | None) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return what Whet is compared with: name -> (arguments of ``contenders.py``, further environment)."""
    own: dict[str, tuple[list[str], dict[str, str]]]
    if net.own == "PyTorch":
        own = {"PyTorch": (["pytorch", net.name], {}), "torch.compile": (["compiled", net.name], {})}
    else:
        words = ["tensorflow", str(given)]
        own = {"TensorFlow": (words, {}), "TensorFlow without oneDNN": (words, {"TF_ENABLE_ONEDNN_OPTS": "0"})}
    if onnx is not None:
        own["ONNX Runtime"] = (["onnxruntime", str(onnx)], {})
    hints = {"OpenVINO f32": "f32", HINTS[0]: "latency", HINTS[1]: "throughput"}
    return own | {name: (["openvino", str(given), "--hint", hint], {}) for name, hint in hints.items()}


def measure(net: Net, work: Work, given: Path, onnx: Path | None, bundle: Path, data: Path | None) -> dict[str, Any]:
    """Hold the rounds; return every block, and say under which conditions they were taken."""
    probe, whole_s = (0.25, 6.0) if work.quick else (0.5, 80.0)
    document = json.loads((bundle / "evidence" / "result.json").read_text())
    with ExitStack() as stack:
        players: dict[str, Library | Plan] = {}
        for name, (words, more) in libraries(net, given, onnx).items():
            log = stack.enter_context((work.of(net) / f"{words[0]}.log").open("wb"))
            argv = [sys.executable, str(HERE / "contenders.py"), *words]
            helper = stack.enter_context(resident(argv, stderr=log, env=work.environment(**more)))
            ways = [(1, 0), (8, 0)] if words[0] == "openvino" else [(b, c) for b in (1, 8) for c in (1, 2)]
            players[name] = Library(helper, ways, probe)
        players["Whet"] = Plan(stack.enter_context(whet_trial(bundle, data)), probe)
        fastest = players["Whet"].throughput(probe)
        # Short blocks and many rounds: what else the host does changes within seconds, and should meet both of a pair.
        seconds = min(2.0, max(probe, 20 / fastest))
        draw, until = random.Random(0), time.monotonic() + whole_s
        blocks: dict[str, list[float]] = {name: [] for name in players}
        latencies: dict[str, list[float]] = {name: [] for name in players}
        for number in range(MOST_ROUNDS):
            if number >= LEAST_ROUNDS and time.monotonic() > until:
                break  # a block of the slowest lasts as long as a call of it, whatever was asked
            for name in draw.sample(list(players), len(players)):
                blocks[name].append(players[name].throughput(seconds))
            if number % 3 == 0:
                for name in draw.sample(list(players), len(players)):
                    latencies[name].append(players[name].latency(0.4))
        best_at = {name: [player.batch, player.callers] for name, player in players.items()}
    return {
        "net": net.name,
        "own": net.own,
        "plan": document["chosen"]["label"],
        "accuracy": document["chosen"]["accuracy"] if data is not None else None,
        "floor": net.max_drop,
        "seconds": seconds,
        "budget": work.budget_of(net),
        "taken": datetime.now(UTC).isoformat(timespec="minutes"),
        "load": Path("/proc/loadavg").read_text().split()[:3],
        "at": best_at,
        "per_s": blocks,
        "p50_ms": latencies,
    }
