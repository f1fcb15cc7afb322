"""The compiled load generator (``load.c``), built on first use, and what it counted."""

import json
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

SOURCE = Path(__file__).with_name("load.c")
BINARY = SOURCE.parent.parent / ".cache" / "load"
RECORD = np.dtype(
    [("intended", "f8"), ("sent", "f8"), ("done", "f8"), ("hash", "u8"), ("status", "i4"), ("index", "i4")]
)


@dataclass(frozen=True)
class Counted:
    """One run: a record a request, in seconds of ``time.monotonic()``.

    Attributes:
        records: array of :data:`RECORD`, by time of the answer.
        cpu_s: CPU seconds the generator used.
        start: of the run.
        end: when the last request was to start.
    """

    records: np.ndarray
    cpu_s: float
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def ok(self) -> np.ndarray:
        return self.records[self.records["status"] == 200]

    @property
    def per_s(self) -> float:
        """Answers of 200 a second within the run."""
        return float((self.ok["done"] <= self.end).sum() / self.seconds)

    @property
    def share(self) -> float:
        """The generator's part of the machine, of two cores."""
        return self.cpu_s / max(self.records["done"].max(initial=self.end) - self.start, self.seconds) / 2


def latency_ms(records: np.ndarray, since: str = "intended") -> np.ndarray:
    return (records["done"] - records[since]) * 1e3


def p99(values: np.ndarray) -> float:
    return float(np.percentile(values, 99)) if len(values) else float("nan")


def picture_requests(
    pictures: np.ndarray, model: str = "net", name: str = "x", timeout_ms: float | None = None
) -> list[bytes]:
    """Return whole HTTP requests, one a picture, as binary tensors; ``timeout_ms`` is the protocol's own deadline."""
    parameters: dict[str, object] = {"binary_data_output": True}
    if timeout_ms is not None:
        parameters["timeout"] = round(timeout_ms * 1e3)
    made = []
    for picture in pictures:
        size = {"binary_data_size": picture.nbytes}
        tensor = {"name": name, "shape": list(picture.shape), "datatype": "UINT8", "parameters": size}
        head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        lines = (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: benchmark\r\nContent-Length: {len(head) + picture.nbytes}"
            f"\r\nInference-Header-Content-Length: {len(head)}\r\n\r\n"
        )
        made.append(lines.encode() + head + picture.tobytes())
    return made


class Running:
    """A load generator at work; ``result()`` waits for its end."""

    def __init__(
        self, url: str, requests: Sequence[bytes], mode: str, rate: float, seconds: float, *, seed: int = 0,
        connections: int = 256,
    ) -> None:  # fmt: skip
        self._folder = tempfile.TemporaryDirectory(prefix="whet-load-")
        folder = Path(self._folder.name)
        self._out = folder / "records"
        with (folder / "requests").open("wb") as file:
            for request in requests:
                file.write(struct.pack("<I", len(request)) + request)
        parts = urlsplit(url)
        argv = [_build(), parts.hostname, parts.port, folder / "requests", mode, rate, seconds, seed, connections]
        self.process = subprocess.Popen([*map(str, argv), str(self._out)], stdout=subprocess.PIPE, text=True)

    def result(self) -> Counted:
        said, _ = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"load generator failed with {self.process.returncode}")
        cpu, start, end = map(float, said.split())
        records = np.fromfile(self._out, RECORD)
        self._folder.cleanup()
        return Counted(records, cpu, start, end)

    def stop(self) -> np.ndarray:
        """End the run now and return the records so far."""
        self.process.send_signal(signal.SIGTERM)
        return self.result().records


def drive(
    url: str, requests: Sequence[bytes], mode: str, rate: float, seconds: float, *, seed: int = 0,
    connections: int = 256,
) -> Counted:  # fmt: skip
    """Run the load generator.

    Args:
        url: of the server.
        requests: whole requests to draw from.
        mode: ``closed`` (``rate`` is how many callers), or ``poisson`` or ``constant`` arrivals (``rate`` a second).
        rate: see ``mode``.
        seconds: during which requests start.
        seed: of arrivals and of the order of requests.
        connections: at most, of an open loop.
    """
    return Running(url, requests, mode, rate, seconds, seed=seed, connections=connections).result()


def _build() -> Path:
    if BINARY.exists() and BINARY.stat().st_mtime >= SOURCE.stat().st_mtime:
        return BINARY
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("client: needs a C compiler to build benchmarks/load.c; install one: apt-get install gcc libc6-dev")
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    beside = BINARY.with_suffix(".writing")
    subprocess.run([compiler, "-O2", "-o", str(beside), str(SOURCE), "-lm"], check=True)
    beside.rename(BINARY)
    return BINARY
