"""What every benchmark shares: options, paired blocks in random order, a table, and one JSON document.

The document is ``{"name", "quick", "host", "versions", "rows": [{"case", "metric", "value", "low", "high", "unit",
"reach", "ok"}]}``: ``low`` and ``high`` bound the value at 95 %, ``reach`` is the bar to reach in words or null, ``ok``
tells whether the value reached it (null without a bar). A missed bar is a result, not an error.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Row:
    """One result. ``reach`` is a number: at least that when ``higher`` is better, at most that otherwise."""

    case: str
    metric: str
    value: float
    low: float | None
    high: float | None
    unit: str
    reach: float | None = None
    higher: bool = True

    @property
    def ok(self) -> bool | None:
        if self.reach is None:
            return None
        return self.value >= self.reach if self.higher else self.value <= self.reach

    def document(self) -> dict[str, Any]:
        row = {**asdict(self), "ok": self.ok}
        higher = row.pop("higher")
        row["reach"] = None if self.reach is None else f"{'>=' if higher else '<='} {self.reach:g}"
        return row


@dataclass
class Benchmark:
    """One script's options and rows."""

    name: str
    quick: bool
    json_path: Path | None
    only: list[str]
    given: argparse.Namespace = field(default_factory=argparse.Namespace)
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Keep a row and print it at once, so that an interrupted run has told what it knew."""
        self.rows.append(row)
        bounds = f"[{row.low:.3f}, {row.high:.3f}]" if row.low is not None and row.high is not None else ""
        mark = {True: "reached", False: "MISSED", None: ""}[row.ok]
        reach = row.document()["reach"] or ""
        print(
            f"{row.case:<44} {row.metric:<30} {row.value:>10.3f} {bounds:<20} {row.unit:<8} {reach:<9} {mark}",
            flush=True,
        )

    def wants(self, case: str) -> bool:
        return not self.only or any(word in case for word in self.only)

    def close(self) -> None:
        """Write the JSON document, if one was asked for."""
        import msgspec

        from whet.host import read_host

        names = ("whet", "openvino", "onnxruntime", "onnx", "numpy", "grpcio", "uvloop", "httptools")
        document = {
            "name": self.name,
            "quick": self.quick,
            "host": msgspec.to_builtins(read_host()),
            "versions": {"python": sys.version.split()[0], **{name: version(name) for name in names}},
            "rows": [row.document() for row in self.rows],
        }
        if self.quick:
            print("quick run: fewer and shorter blocks than the figures to report need")
        if self.json_path:
            beside = self.json_path.with_suffix(".writing")
            beside.write_text(json.dumps(document, indent=1, default=str) + "\n")
            beside.rename(self.json_path)


def benchmark(name: str, doc: str | None, own: argparse.ArgumentParser | None = None) -> Benchmark:
    """Read the options every benchmark takes, and those of its ``own`` (made with ``add_help=False``)."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[own] if own else []
    )
    parser.add_argument("--quick", action="store_true", help="fit in 60 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as one JSON document")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="only cases whose name holds a word")
    given = parser.parse_args()
    return Benchmark(name, given.quick, given.json, given.only, given)


def ratio(pairs: Sequence[tuple[float, float]], seed: int = 0) -> tuple[float, float, float]:
    """Return the median of a/b over pairs, with a bootstrap 95 % interval of that median."""
    ratios = np.array([a / b for a, b in pairs])
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    return float(np.median(ratios)), float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def paired(a: Callable[[], float], b: Callable[[], float], count: int, seed: int = 0) -> list[tuple[float, float]]:
    """Measure ``count`` pairs, the two sides of each in random order."""
    rng, pairs = random.Random(seed), []
    for _ in range(count):
        if rng.random() < 0.5:
            first = a()
            pairs.append((first, b()))
        else:
            second = b()
            pairs.append((a(), second))
    return pairs


@contextmanager
def resident(argv: list[str], **options: Any) -> Iterator["Resident"]:
    """Start a helper process that answers one JSON line a request, stopped whenever it is not asked."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    helper = Resident(process)
    try:
        helper.read()
        yield helper
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


class Resident:
    """The parent's end of a resident process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def read(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"the helper process ended with {self.process.wait()}")
        answer = json.loads(line)
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def ask(self, **request: Any) -> Any:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.read()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return user and system CPU seconds of processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run_timed(argv: list[str]) -> tuple[str, float]:
    """Run a command; return its output and the CPU seconds it used."""
    before = os.times()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{argv[0]} failed with {done.returncode}: {done.stderr.strip()[-400:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout, used
