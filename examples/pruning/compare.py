"""What pruning is worth: the unpruned and the pruned net, each at its own tuned plan, in every precision that holds.

    python examples/pruning/compare.py --data test.npz --json compare.json

First the search of ``whet optimize`` with the pruned net as a variant: it judges the pruned net, its int8 and the int8
of the unpruned net against the unpruned one in f32, on samples that calibrated nothing; its Pareto front is drawn. Then
every net that may ship is tuned by itself (streams x threads x batch, two blocks each), and the best plans are measured
together in interleaved blocks: a ratio is that of neighbouring blocks, with its 95 % interval.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from whet.cli.show import grid
from whet.errors import WhetError
from whet.models.importers.base import Options
from whet.optimize import evidence
from whet.optimize.lab import Case, capacity, paired
from whet.optimize.prepare import prepare
from whet.optimize.request import OptimizeRequest, silent
from whet.optimize.run import conclude, search
from whet.optimize.space import LADDERS
from whet.optimize.state import Clock, State
from whet.plan import Plan, Targets
from whet.stats import Interval, paired_ratio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "video_quality"))

from measure import score
from model import normalise

HERE = Path(__file__).resolve().parent
QUALITY = HERE.parent / "video_quality"
BATCHES = (1, 4, 8)
TUNE_BLOCKS, TUNE_S, FINAL_BLOCKS, FINAL_S = 2, 0.3, 12, 0.6


def groups(state: State) -> Iterator[tuple[str, str, str, str]]:
    """Yield (net, weights, float precision, artifact) of everything that may ship on OpenVINO."""
    for one in state.variants:
        if one.runtimes and "openvino" not in one.runtimes:
            continue
        pruned = one.label.startswith("pruned")
        for precision in one.precisions:
            if (one.artifact, precision) in state.allowed:
                yield ("pruned" if pruned else "unpruned", "int8" if one.int8 else "float", precision, one.artifact)


def tune(state: State, artifact: str, precision: str) -> Case:
    """Return the fastest plan of one net: a stream on all cores or one a core, by batch size."""
    cores = state.host.budget.cores
    cases = [
        capacity(
            Plan(
                artifact, runtime="openvino", precision=precision, streams=streams, threads=cores // streams,
                batch_sizes=LADDERS[batch],
            )
        )
        for streams in sorted({1, cores})
        for batch in BATCHES
    ]  # fmt: skip
    state.lab.round(cases, TUNE_BLOCKS, TUNE_S)
    able = [case for case in cases if state.record(case).kept]
    best = max(able, key=lambda case: sum(b.throughput_per_s for b in state.record(case).kept[-TUNE_BLOCKS:]))
    state.lab.retire([best.plan])
    return best


def measure(state: State) -> list[dict[str, Any]]:
    """Tune every net by itself, then measure the best plans together; return a row a net."""
    best = {
        (net, weights, precision): tune(state, artifact, precision)
        for net, weights, precision, artifact in groups(state)
    }
    start = state.lab.next_block
    state.lab.round(list(best.values()), FINAL_BLOCKS, FINAL_S)
    rows = []
    for (net, weights, precision), case in best.items():
        verdict = state.verdicts.get((case.plan.artifact, precision))
        row = {
            "net": net,
            "weights": weights,
            "precision": precision,
            "plan": f"{case.plan.streams}x{case.plan.threads} b{case.plan.max_batch}",
            "throughput_per_s": _middle(state, case, start),
            "over_unpruned_f32": _ratio(state, case, best["unpruned", "float", "f32"], start),
            "over_same_precision": _ratio(state, case, best.get(("unpruned", weights, precision)), start),
            "top1_drop": evidence.plain(verdict.drop) if verdict is not None else None,
        }
        rows.append(row)
    return rows


def _middle(state: State, case: Case, start: int) -> float:
    record = state.record(case)
    speeds = sorted(b.throughput_per_s for n, b in zip(record.numbers, record.blocks, strict=True) if b and n >= start)
    return speeds[len(speeds) // 2] if speeds else float("nan")


def _ratio(state: State, case: Case, base: Case | None, start: int) -> dict[str, float] | None:
    if base is None or base.key == case.key:
        return None
    one, two = paired(state.record(case), state.record(base), since=start)
    found: Interval = paired_ratio(one, two)
    return {"value": found.value, "low": found.low, "high": found.high}


def quality(model: Path, data: Path) -> dict[str, float]:
    """Return top-1, Spearman's correlation and the mean absolute error of the quality over every frame, in f32."""
    if model.is_dir():
        model /= "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with np.load(data) as frames:
        x, label, truth = frames["x"], frames["label"], frames["quality"]
    parts = [
        session.run(["logits", "quality"], {"frame": normalise(x[at : at + 32]).numpy()}) for at in range(0, len(x), 32)
    ]
    logits, grades = (np.concatenate(column) for column in zip(*parts, strict=True))
    found = score(logits, grades[:, 0], label, truth)
    return {"frames": len(x), "top1": found.top1, "spearman": found.spearman, "quality_error": found.error}


def run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Search, tune, measure; return everything that was found."""
    request = OptimizeRequest(
        model=given.model,
        out=work / "bundle",
        data=str(given.data),
        options=Options(preprocess=QUALITY / "preprocess.toml"),
        variants={"pruned": given.pruned},
        targets=Targets(max_drop=given.max_drop),
        budget_s=given.budget,
        seed=given.seed,
        runtimes=("openvino",),
    )
    state = prepare(request, work, silent, Clock(request.budget_s))
    try:
        search(state)
        document = conclude(state, interrupted=False).result
        rows = measure(state)
    finally:
        state.lab.close()
        state.journal.close()
    nets = {"unpruned": given.model, "pruned": given.pruned}
    return {
        "f32": {net: quality(path, given.data) for net, path in nets.items()},
        "rows": rows,
        "chosen": document["chosen"]["label"],
        "pareto": front(document["pareto"]),
        "accuracy": document["accuracy"],
        "refused": document["refused"],
        "host": evidence.plain(state.host.fingerprint_fields),
        "versions": document["versions"],
        "noise": document["noise"],
    }


def front(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the fastest plan of every label's net, best first, and whether anything is both faster and as accurate."""
    best: dict[str, dict[str, Any]] = {}
    for point in sorted(
        (one for one in points if one["accuracy"] is not None), key=lambda one: -one["throughput_per_s"]
    ):
        best.setdefault(point["label"].split()[1], point)
    found = list(best.values())
    return [
        {
            **one,
            "on_front": not any(
                o["throughput_per_s"] > one["throughput_per_s"] and o["accuracy"] >= one["accuracy"] for o in found
            ),
        }
        for one in found
    ]


def show(found: dict[str, Any]) -> None:
    """Draw both tables."""
    words = lambda one: f"{one['value']:.2f}x [{one['low']:.2f}, {one['high']:.2f}]" if one else ""  # noqa: E731
    rows = [
        (
            row["net"], row["weights"], row["precision"], row["plan"], f"{row['throughput_per_s']:.0f}",
            words(row["over_unpruned_f32"]), words(row["over_same_precision"] if row["net"] == "pruned" else None),
            f"{row['top1_drop']['value']:+.4f} (at most {row['top1_drop']['high']:+.4f})" if row["top1_drop"] else "",
        )
        for row in found["rows"]
    ]  # fmt: skip
    grid(
        "each at its own tuned plan",
        ("net", "weights", "float", "plan", "/s", "over unpruned f32", "over unpruned, same precision", "top-1 drop"),
        rows,
        left=4,
    )
    points = [
        (one["label"], "yes" if one["on_front"] else "", f"{one['throughput_per_s']:.0f}", f"{one['accuracy']:.4f}")
        for one in found["pareto"]
    ]
    grid("speed against accuracy, the search's own blocks", ("plan", "on the front", "/s", "top-1"), points, left=2)
    for net, of in found["f32"].items():
        said = f"top-1 {of['top1']:.4f}, Spearman {of['spearman']:.4f}, quality error {of['quality_error']:.4f}"
        print(f"{net} in f32 over all {of['frames']} frames: {said}")
    print(f"whet optimize chose {found['chosen']}")


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="frames of held-out scenes, made by make_data.py")
    parser.add_argument("--model", type=Path, default=QUALITY / "model.onnx", help="the unpruned net")
    parser.add_argument(
        "--pruned", type=Path, default=HERE / "model.onnx", help="a step of whet prune, or its ONNX file"
    )
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for the search")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write everything that was found there")
    given = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="whet-compare-") as work:
            found = run(given, Path(work))
    except WhetError as error:
        print(f"compare: {error}", file=sys.stderr)
        return error.exit_code
    show(found)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
