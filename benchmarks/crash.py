"""A worker that dies under load, 20 times each of two ways: SIGKILL from outside, and a real segfault inside.

`whet serve --workers 2` with a runtime that answers in 2 ms and, asked with a picture that does not begin with zero,
reads address 0. Callers over HTTP (compiled, closed loop, reconnecting after a failure) and over gRPC (grpcio, a
connection each) ask throughout. Counted: failures other than a reset (HTTP) or UNAVAILABLE (gRPC), requests that took
longer than 1 s, what was answered between the death and full strength, and the time until two workers serve again.

    .venv/bin/python benchmarks/crash.py [--quick] [--json FILE] [--only WORD ...]
"""

import collections
import contextlib
import http.client
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import numpy as np

from bundles import fake_bundle
from client import Running, picture_requests
from harness import Benchmark, Row, benchmark
from serving import grpc_frame, pictures
from whet.load.launcher import Server

HTTP_CALLERS, GRPC_CALLERS, GAP_S = 4, 4, 1.0
METHOD = "/inference.GRPCInferenceService/ModelInfer"


class GrpcCallers:
    """Callers over gRPC, each with a connection of its own, until closed.

    Attributes:
        calls: (start, end, status name) of every call, seconds of ``time.monotonic()``.
    """

    def __init__(self, url: str, message: bytes) -> None:
        self.calls: list[tuple[float, float, str]] = []
        self._target, self._message = url.removeprefix("grpc://"), message
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(GRPC_CALLERS)]

    def __enter__(self) -> list[tuple[float, float, str]]:
        for thread in self._threads:
            thread.start()
        return self.calls

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
        with grpc.insecure_channel(self._target, options) as channel:
            call = channel.unary_unary(METHOD)
            while not self._stop.is_set():
                start = time.monotonic()
                try:
                    call(self._message, timeout=20)
                    said = "OK"
                except grpc.RpcError as error:
                    said = error.code().name
                self.calls.append((start, time.monotonic(), said))
                time.sleep(0.005)


def fleet(url: str) -> dict[str, object]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/health/ready")
        return json.loads(connection.getresponse().read())


def full_strength(url: str, since: float) -> float:
    """Wait until two workers serve, and return the seconds since."""
    seen_down = False
    while time.monotonic() < since + 30:
        with contextlib.suppress(OSError, http.client.HTTPException):
            workers = fleet(url)["workers"]
            seen_down |= workers != 2
            if workers == 2 and seen_down:
                return time.monotonic() - since
        time.sleep(0.01)
    raise SystemExit("crash: the fleet is not at full strength 30 s after a worker died")


def kill(server: Server, _: bytes) -> None:
    """SIGKILL one worker: the first child of the supervisor."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)


def segfault(server: Server, poison: bytes) -> None:
    """Ask one worker for what makes the runtime read address 0."""
    connection = http.client.HTTPConnection(urlsplit(server.http).netloc, timeout=10)
    connection.connect()
    connection.sock.sendall(poison)
    with contextlib.suppress(OSError):
        connection.sock.recv(1)
    connection.close()


def run(bench: Benchmark, name: str, how: object) -> None:
    deaths = 3 if bench.quick else 20
    case = f"{name} x {deaths}, 2 workers"
    if not bench.wants(case):
        return
    samples = pictures(16)
    samples[:, :, 0, 0, 0] = 0
    poison = samples[:1].copy()
    poison[:, :, 0, 0, 0] = 1
    with tempfile.TemporaryDirectory() as folder:
        bundle = fake_bundle(Path(folder) / "bundle", options=(("base_us", "2000"), ("fault", "segfault")), streams=1)
        # Deaths a second apart are what back-off is for; here every one is to be a worker's first.
        flags = ["--workers", "2", "--healthy-after-ms", "100"]
        with Server([str(bundle), *flags]) as server:
            load = Running(server.http, picture_requests(samples), "closed", HTTP_CALLERS, 3600)
            died, back = [], []
            try:
                with GrpcCallers(server.grpc, grpc_frame(samples[0])[5:]) as calls:
                    time.sleep(GAP_S)
                    for _ in range(deaths):
                        died.append(time.monotonic())
                        how(server, picture_requests(poison)[0])
                        back.append(full_strength(server.http, died[-1]))
                        time.sleep(GAP_S)
            finally:
                records = load.stop()
    report(bench, case, records, calls, died, back)


def report(
    bench: Benchmark, case: str, records: np.ndarray, calls: list[tuple[float, float, str]], died: list[float],
    back: list[float],
) -> None:  # fmt: skip
    statuses = collections.Counter(records["status"].tolist())
    said = collections.Counter(name for _, _, name in calls)
    spans = np.concatenate([records["done"] - records["sent"], [end - start for start, end, _ in calls]])
    odd_http = sum(count for status, count in statuses.items() if status not in (200, -1))
    odd_grpc = sum(count for name, count in said.items() if name not in ("OK", "UNAVAILABLE"))
    ends = np.sort(records["done"][records["status"] == 200])
    served = [int(((ends > at) & (ends < at + took)).sum()) for at, took in zip(died, back, strict=True)]
    gaps = [float(np.diff(ends[(ends > at - 0.5) & (ends < at + took + 0.5)]).max()) for at, took in
            zip(died, back, strict=True)]  # fmt: skip
    bench.add(
        Row(case, "failures: not a reset or UNAVAILABLE", odd_http + odd_grpc, None, None, "requests", 0.0, False)
    )
    bench.add(Row(case, "HTTP resets", statuses[-1], None, None, "requests"))
    bench.add(Row(case, "gRPC UNAVAILABLE", said["UNAVAILABLE"], None, None, "requests"))
    bench.add(Row(case, "answered", statuses[200] + said["OK"], None, None, "requests"))
    bench.add(Row(case, "slowest request", float(spans.max()), None, None, "s", 1.0, higher=False))
    bench.add(Row(case, "deaths survived by the other worker", sum(each > 0 for each in served), None, None, "deaths",
                  float(len(died))))  # fmt: skip
    bench.add(Row(case, "longest gap between answers", max(gaps), None, None, "s"))
    bench.add(Row(case, "full strength after, median", float(np.median(back)), None, None, "s"))
    bench.add(Row(case, "full strength after, longest", max(back), None, None, "s", 3.0, higher=False))


def main() -> None:
    bench = benchmark("crash", __doc__)
    run(bench, "SIGKILL", kill)
    run(bench, "segfault", segfault)
    bench.close()


if __name__ == "__main__":
    main()
