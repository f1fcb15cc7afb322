"""How much faster is the plan Whet chooses than what a user has before? Real architectures, the real optimiser.

Every net runs under: its own framework with default settings (PyTorch eager and through torch.compile; TensorFlow with
and without oneDNN), ONNX Runtime, OpenVINO in f32, OpenVINO's two performance hints as they are (bf16 where the host
has it), and the plan that ``whet optimize`` chose, never picked by hand. Each library has a resident
process, stopped between its blocks; a round holds one block of each, in random order, and ratios are taken within
rounds.

Timed is a call with numpy arrays in and out, after warming up and compiling, at the best of batch {1, 8} x callers
{1, 2}; for OpenVINO its asynchronous queue, results discarded. Whet's plan is timed through its whole engine (queue,
batcher, preprocessing, postprocessing) with requests of one sample or of eight, whichever is faster. Latency is the
median of one caller with one sample.

Nets with random weights are "speed only": their rounding is judged by nobody (``--synthetic``, an open floor). The
others have real labels, and what ships has passed the gate at the floor in the table.

A net takes three steps, each kept in the work folder and never done twice: files, ``whet optimize``, rounds. Figures
to report: one net after the other with ``--only``, on a quiet machine; at the end ``--kept``, for the tables.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import ROOT, benchmark
from speedup_nets import NETS, Net, Work, made
from speedup_rounds import SAMPLES, measure
from speedup_table import conclude, report
from whet.models.bundle import is_bundle


def tune(net: Net, work: Work, given: Path, data: Path | None) -> Path:
    """Let ``whet optimize`` choose a plan; return its bundle."""
    bundle = work.of(net) / "bundle"
    if is_bundle(bundle):
        return bundle
    words = [sys.executable, "-m", "whet", "optimize", str(given), "-o", str(bundle), "--budget", work.budget_of(net)]
    if data is None:
        words += ["--synthetic", str(SAMPLES), "--allow-synthetic-calibration", "--metric", "snr", "--max-drop", "0.99"]
    else:
        words += ["--data", str(data), "--metric", "top1", "--max-drop", str(net.max_drop)]
    with (work.of(net) / "optimize.log").open("wb") as log:
        code = subprocess.run(words, cwd=ROOT, stdout=log, stderr=log, env=work.environment(), check=False).returncode
    if code not in {0, 1} or not is_bundle(bundle):
        raise SystemExit(f"speedup: whet optimize of {net.name} ended with {code}; see {work.of(net) / 'optimize.log'}")
    return bundle


def run(net: Net, work: Work) -> dict[str, Any] | None:
    """Return the measurements of a net, making what is missing; None where only a plan is searched for."""
    kept = work.measured(net)
    if kept.exists():
        written = datetime.fromtimestamp(kept.stat().st_mtime, UTC).isoformat(timespec="minutes")
        return {"taken": written, **json.loads(kept.read_text())}
    print(f"{net.name}: files", file=sys.stderr, flush=True)
    given = made(net.given, work)
    onnx = made(net.onnx, work) if net.onnx is not None else None
    data = made(net.data, work) if net.data is not None else None
    print(f"{net.name}: whet optimize, {work.budget_of(net)}", file=sys.stderr, flush=True)
    bundle = tune(net, work, given, data)
    if work.search:
        return None
    print(f"{net.name}: rounds", file=sys.stderr, flush=True)
    found = measure(net, work, given, onnx, bundle, data)
    beside = kept.with_suffix(".writing")
    beside.write_text(json.dumps(found))
    beside.rename(kept)
    return found


def main() -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--work", type=Path, default=ROOT / ".cache" / "speedup", metavar="DIR", help="what is kept between runs"
    )
    own.add_argument("--budget", default="", metavar="TIME", help="of every search, 20s with --quick")
    own.add_argument("--search", action="store_true", help="end after whet optimize: rounds are for a quiet machine")
    own.add_argument("--kept", action="store_true", help="measure nothing: the tables of what was kept")
    bench = benchmark("speedup", __doc__, own)
    given = bench.given
    work = Work(given.work.resolve(), bench.quick, given.budget, given.search)
    nets = [net for net in NETS if bench.wants(net.name) and (not given.kept or work.measured(net).exists())]
    found = {net: one for net in nets if (one := run(net, work)) is not None}
    for net, one in found.items():
        report(bench, net, one)
    conclude(bench, found)
    bench.close()


if __name__ == "__main__":
    main()
