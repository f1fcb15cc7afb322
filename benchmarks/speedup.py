"""How much faster is the plan Whet chooses than what a user has before? Real architectures, the real optimiser.

Every net runs under: its own framework with default settings (PyTorch eager and through torch.compile; TensorFlow with
and without oneDNN), ONNX Runtime, OpenVINO in f32, OpenVINO's two performance hints as they are (bf16 where the host
has it), and the plan that ``whet optimize --budget 120s`` chose, never picked by hand. Each library has a resident
process, stopped between its blocks; a round holds one block of each, in random order, and ratios are taken within
rounds.

Timed is a call with numpy arrays in and out, after warming up and compiling, at the best of batch {1, 8} x callers
{1, 2}; for OpenVINO its asynchronous queue, results discarded. Whet's plan is timed through its whole engine (queue,
batcher, preprocessing, postprocessing) with requests of one sample or of eight, whichever is faster. Latency is the
median of one caller with one sample.

Nets with random weights are "speed only": their rounding is judged by nobody (``--synthetic``, an open floor). The
others have real labels, and what ships has passed the gate at the floor in the table.

A net takes three steps, each kept in the work folder and never done twice: files, ``whet optimize``, rounds. Figures
to report: one net after the other with ``--only``, on a quiet machine; at the end once more without, for the table.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import ROOT, Benchmark, Resident, Row, benchmark, resident
from whet.engine.environment import environment
from whet.host import read_host
from whet.models.bundle import is_bundle, read_bundle
from whet.optimize.data import open_data, synthetic
from whet.optimize.pool import materialise
from whet.optimize.trial import Bench, Trial
from whet.optimize.trial_words import Block
from whet.settings import environ
from whet.stats import Interval, bootstrap

HERE = Path(__file__).resolve().parent
SAMPLES = 64
HINTS = ("OpenVINO LATENCY", "OpenVINO THROUGHPUT")
REACH_MEAN, REACH_BEST, REACH_HINT = 6.0, 12.0, 0.98


@dataclass(frozen=True)
class Net:
    """A row. ``given`` and ``onnx`` are (module, function, argument) that make Whet's file and ONNX Runtime's."""

    name: str
    own: str
    given: tuple[str, str, str]
    onnx: tuple[str, str, str] | None
    data: tuple[str, str, str] | None = None
    max_drop: float | None = None

    @property
    def listed(self) -> bool:
        """One of the eight nets the mean is taken over."""
        return self.data is None


def _torch(name: str) -> Net:
    files = ("models", "build_onnx", name)
    return Net(name, "PyTorch", files, files)


def _keras(name: str) -> Net:
    return Net(name, "TensorFlow", ("models", "build_savedmodel", name), ("models", "build_keras_onnx", name))


VIDEO = ("labelled", "video_onnx", "")
NETS = (
    _keras("resnet50-tf"),
    _keras("mobilenetv2-tf"),
    _keras("inception-v3-tf"),
    *map(_torch, ("bert-base", "yolov3-tiny", "vit-s", "lstm", "unet")),
    Net("video-quality", "PyTorch", VIDEO, VIDEO, ("labelled", "video_frames", ""), 0.01),
    Net(
        "digits-cnn",
        "PyTorch",
        ("labelled", "digits_cnn_onnx", ""),
        ("labelled", "digits_cnn_onnx", ""),
        ("labelled", "digits_data", "digits-cnn"),
        0.01,
    ),
    Net(
        "digits-lstm",
        "TensorFlow",
        ("labelled", "digits_lstm", ""),
        None,
        ("labelled", "digits_data", "digits-lstm"),
        0.01,
    ),
    # 160 pictures cannot promise less than this: with no difference at all the interval's end is at 0.024.
    Net(
        "squeezenet",
        "PyTorch",
        ("labelled", "squeezenet_onnx", ""),
        ("labelled", "squeezenet_onnx", ""),
        ("labelled", "squeezenet_data", ""),
        0.05,
    ),
)


@dataclass
class Work:
    """Where a run keeps what it has, and how long it may take."""

    folder: Path
    quick: bool
    budget: str

    def of(self, net: Net) -> Path:
        folder = self.folder / ("quick" if self.quick else "full") / net.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def environment(self, **more: str) -> dict[str, str]:
        """Compiled kernels of torch.compile are kept, so that only the first start waits for them."""
        return {**environ(), "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"), **more}


def made(step: tuple[str, str, str], work: Work) -> Path:
    """Make a file in a process of its own, for Keras binds a process to one backend; return its path."""
    module, function, argument = step
    backend = "torch" if function == "build_keras_onnx" else "tensorflow"
    call = (
        f"import {module}; print({module}.{function}({argument!r}))"
        if argument
        else f"import {module}; print({module}.{function}())"
    )
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=HERE, env=work.environment(KERAS_BACKEND=backend), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"speedup: {module}.{function}({argument}) failed: {done.stderr.strip()[-600:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def tune(net: Net, work: Work, given: Path, data: Path | None) -> Path:
    """Let ``whet optimize`` choose a plan; return its bundle."""
    bundle = work.of(net) / "bundle"
    if is_bundle(bundle):
        return bundle
    words = [sys.executable, "-m", "whet", "optimize", str(given), "-o", str(bundle), "--budget", work.budget]
    if data is None:
        words += ["--synthetic", str(SAMPLES), "--allow-synthetic-calibration", "--metric", "snr", "--max-drop", "0.99"]
    else:
        words += ["--data", str(data), "--metric", "top1", "--max-drop", str(net.max_drop)]
    with (work.of(net) / "optimize.log").open("wb") as log:
        code = subprocess.run(words, cwd=ROOT, stdout=log, stderr=log, env=work.environment(), check=False).returncode
    if code not in {0, 1} or not is_bundle(bundle):
        raise SystemExit(f"speedup: whet optimize of {net.name} ended with {code}; see {work.of(net) / 'optimize.log'}")
    return bundle


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
        rounds = min(24, max(5, round(whole_s / (len(players) * (seconds + 0.1)))))
        draw = random.Random(0)
        blocks: dict[str, list[float]] = {name: [] for name in players}
        latencies: dict[str, list[float]] = {name: [] for name in players}
        for number in range(rounds):
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
        "load": Path("/proc/loadavg").read_text().split()[:3],
        "at": best_at,
        "per_s": blocks,
        "p50_ms": latencies,
    }


def run(net: Net, work: Work) -> dict[str, Any]:
    """Return the measurements of a net, making what is missing."""
    kept = work.of(net) / "measured.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    print(f"{net.name}: files", file=sys.stderr, flush=True)
    given = made(net.given, work)
    onnx = made(net.onnx, work) if net.onnx is not None else None
    data = made(net.data, work) if net.data is not None else None
    print(f"{net.name}: whet optimize, {work.budget}", file=sys.stderr, flush=True)
    bundle = tune(net, work, given, data)
    print(f"{net.name}: rounds", file=sys.stderr, flush=True)
    found = measure(net, work, given, onnx, bundle, data)
    beside = kept.with_suffix(".writing")
    beside.write_text(json.dumps(found))
    beside.rename(kept)
    return found


def median(values: list[float]) -> Interval:
    return bootstrap(np.asarray(values), np.median)


def faster(found: dict[str, Any], other: str) -> Interval:
    """Return Whet's throughput over another's, the median over rounds."""
    return median([a / b for a, b in zip(found["per_s"]["Whet"], found["per_s"][other], strict=True)])


def better_hint(found: dict[str, Any]) -> str:
    return max(HINTS, key=lambda name: float(np.median(found["per_s"][name])))


def mean_ratio(all_found: list[dict[str, Any]], other: Callable[[dict[str, Any]], str]) -> Interval:
    """Return the geometric mean of the nets' median ratios; rounds are drawn again within each net for its interval."""
    rng = np.random.default_rng(0)
    ratios = [np.array(one["per_s"]["Whet"]) / np.array(one["per_s"][other(one)]) for one in all_found]
    drawn = [np.median(rng.choice(each, (4000, len(each))), axis=1) for each in ratios]
    means = np.exp(np.mean(np.log(drawn), axis=0))
    value = float(np.exp(np.mean([np.log(np.median(each)) for each in ratios])))
    low, high = (float(np.quantile(means, q)) for q in (0.025, 0.975))
    return Interval(value, min(low, value), max(high, value))


def report(bench: Benchmark, net: Net, found: dict[str, Any]) -> None:
    """Add the rows of one net."""
    case = net.name if net.data is not None else f"{net.name} (speed only)"
    for name, blocks in found["per_s"].items():
        speed, late = median(blocks), median(found["p50_ms"][name])
        batch, callers = found["at"][name]
        how = f"{name}, batch {batch}" + (f", {callers} callers" if callers else ", own queue")
        bench.add(Row(case, how, speed.value, speed.low, speed.high, "/s"))
        bench.add(Row(case, f"{name}, p50 of batch 1", late.value, late.low, late.high, "ms", higher=False))
    for name in found["per_s"]:
        if name != "Whet":
            ratio = faster(found, name)
            bench.add(Row(case, f"Whet over {name}", ratio.value, ratio.low, ratio.high, "x"))
    hint = faster(found, better_hint(found))
    bench.add(Row(case, "lower bound over better hint", hint.low, None, None, "x", REACH_HINT))
    verdict = found["accuracy"]
    if verdict is not None:
        drop, floor = verdict["drop"], verdict["max_drop"]
        bench.add(Row(case, "drop of top-1, upper bound", drop["high"], None, None, "", floor, higher=False))


def verdict_of(net: Net, found: dict[str, Any]) -> str:
    if net.data is None:
        return "speed only"
    verdict = found["accuracy"]
    if verdict is None:
        return "f32: nothing to judge"
    drop = verdict["drop"]
    return (
        f"{verdict['verdict']} {verdict['max_drop']:g}: top-1 {verdict['parent']:.4f} -> {verdict['value']:.4f}, "
        f"drop at most {drop['high']:.4f} ({verdict['items']} items)"
    )


def table(all_found: dict[Net, dict[str, Any]]) -> str:
    """Return throughputs, latencies and ratios as two Markdown tables."""
    heads = ["own framework", "compiled / without oneDNN", "ONNX Runtime", "OpenVINO f32", *HINTS, "Whet"]
    fast = ["| net | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    slow = list(fast)
    ratios = [
        "| net | Whet's plan | over own framework | over OpenVINO's better hint | gate |",
        "|---|---|---|---|---|",
    ]
    for net, found in all_found.items():
        names = list(found["per_s"])
        columns = [*names[:2], "ONNX Runtime", "OpenVINO f32", *HINTS, "Whet"]
        for lines, values in ((fast, found["per_s"]), (slow, found["p50_ms"])):
            cells = [f"{np.median(values[one]):.3g}" if one in values else "no such file" for one in columns]
            lines.append(f"| {net.name} ({net.own}) | " + " | ".join(cells) + " |")
        own, hint = faster(found, names[0]), faster(found, better_hint(found))
        said = [f"{one.value:.2f}x [{one.low:.2f}, {one.high:.2f}]" for one in (own, hint)]
        which = better_hint(found).rpartition(" ")[2]
        ratios.append(f"| {net.name} | {found['plan']} | {said[0]} | {said[1]} {which} | {verdict_of(net, found)} |")
    parts = ("Samples a second", fast), ("Median of one sample, ms", slow), ("Ratios of throughput", ratios)
    return "\n\n".join(f"{title}:\n\n" + "\n".join(lines) for title, lines in parts)


def conclude(bench: Benchmark, all_found: dict[Net, dict[str, Any]]) -> None:
    """Add what is said about all nets together, and print the tables."""
    listed = {net: found for net, found in all_found.items() if net.listed}
    own = {net.name: faster(found, next(iter(found["per_s"]))) for net, found in listed.items()}
    if listed:
        every = list(listed.values())
        mean = mean_ratio(every, lambda found: str(next(iter(found["per_s"]))))
        case = f"geometric mean of {len(every)} nets"
        bench.add(Row(case, "Whet over own framework", mean.value, mean.low, mean.high, "x", REACH_MEAN))
        hint = mean_ratio(every, better_hint)
        bench.add(Row(case, "Whet over OpenVINO's better hint", hint.value, hint.low, hint.high, "x"))
        best = max(own, key=lambda name: own[name].value)
        top = own[best]
        bench.add(Row(f"best: {best}", "Whet over own framework", top.value, top.low, top.high, "x", REACH_BEST))
    passed = [
        net.name for net, found in all_found.items() if (found["accuracy"] or {}).get("verdict") == "within the floor"
    ]
    bench.add(Row("nets that pass the gate on labels", ", ".join(passed) or "none", len(passed), None, None, "", 3))
    print("\n" + table(all_found))


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "speedup", metavar="DIR")
    parser.add_argument("--budget", default="", metavar="TIME")
    given, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    bench = benchmark(
        "speedup", f"{__doc__}\n  --work DIR     what is kept between runs\n  --budget TIME  of each search"
    )
    work = Work(given.work.resolve(), bench.quick, given.budget or ("20s" if bench.quick else "120s"))
    found = {net: run(net, work) for net in NETS if bench.wants(net.name)}
    for net, one in found.items():
        report(bench, net, one)
    conclude(bench, found)
    bench.close()


if __name__ == "__main__":
    main()
