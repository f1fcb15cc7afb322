"""Mixed clients for ten minutes: nobody gets a wrong answer, and memory stays where it was after the first minute.

MobileNetV2 int8 behind HTTP and gRPC. Good callers send distinct pictures (HTTP binary, HTTP JSON, gRPC) and compare
every answer with the runtime's own. Bad ones send garbage, wrong shapes, wrong types, unknown models, broken JSON,
lengths that lie and compression bombs, and must get an error of the protocol. Vanishing ones leave in the middle of a
head, of a body, or before the answer. RSS of the worker and the supervisor is read every second; growth is the last
tenth's median over the median of the ten seconds after the first minute.

    .venv/bin/python benchmarks/soak.py [--quick] [--json FILE] [--seconds N]
"""

import argparse
import contextlib
import http.client
import json
import random
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import numpy as np

from bundles import net_bundle
from client import picture_requests
from harness import Row, benchmark
from serving import CASES, expected, grpc_frame, pictures
from whet.load.launcher import Server
from whet.load.messages import grpc_outputs

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PATH = "/v2/models/net/infer"


class Soak:
    """The clients, and what they saw."""

    def __init__(self, server: Server, samples: np.ndarray, want: np.ndarray) -> None:
        self.address = (urlsplit(server.http).hostname, urlsplit(server.http).port)
        self.grpc = server.grpc.removeprefix("grpc://")
        self.samples, self.want = samples, want.reshape(len(want), -1)
        self.requests = picture_requests(samples)
        self.seen: Counter[str] = Counter()
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def note(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1

    def judge(self, got: np.ndarray, index: int) -> None:
        """Compare an answer with the runtime's; rounding of an int8 net under padding is small, another's is not."""
        want = self.want[index]
        right = got.size == want.size and np.allclose(got.ravel(), want, atol=0.02 * np.abs(want).max())
        self.note("right" if right else "wrong")

    def repeat(self, act: Callable[[random.Random], None], seed: int, pause_s: float) -> threading.Thread:
        """Return a thread that acts again and again; its own failures are counted, not raised."""

        def run() -> None:
            rng = random.Random(seed)
            while not self.stop.is_set():
                try:
                    act(rng)
                except (OSError, http.client.HTTPException) as error:
                    self.note(f"failed: {type(error).__name__}")
                except grpc.RpcError as error:
                    self.note(f"failed: {error.code().name}")
                time.sleep(rng.uniform(0, 2 * pause_s))

        return threading.Thread(target=run)

    # -- good

    def binary(self) -> Callable[[random.Random], None]:
        connection = http.client.HTTPConnection(*self.address, timeout=30)

        def act(rng: random.Random) -> None:
            index = rng.randrange(len(self.samples))
            head, _, body = self.requests[index].partition(b"\r\n\r\n")
            length = head.rpartition(b": ")[2].decode()
            connection.request("POST", PATH, body, {"Inference-Header-Content-Length": length})
            answer = connection.getresponse()
            raw = answer.read()
            if answer.status != 200:
                self.note(f"good answered {answer.status}")
                return
            start = int(answer.headers["Inference-Header-Content-Length"])
            self.judge(np.frombuffer(raw[start:], np.float32), index)

        return act

    def as_json(self) -> Callable[[random.Random], None]:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        bodies = [
            json.dumps(
                {"inputs": [{"name": "x", "shape": each.shape, "datatype": "UINT8", "data": each.ravel().tolist()}]}
            )
            for each in self.samples[:4]
        ]

        def act(rng: random.Random) -> None:
            index = rng.randrange(4)
            connection.request("POST", PATH, bodies[index])
            answer = connection.getresponse()
            document = json.loads(answer.read())
            if answer.status != 200:
                self.note(f"good answered {answer.status}")
                return
            self.judge(np.array(document["outputs"][0]["data"], np.float32), index)

        return act

    def by_grpc(self) -> Callable[[random.Random], None]:
        channel = grpc.insecure_channel(self.grpc, [("grpc.use_local_subchannel_pool", 1)])
        call = channel.unary_unary(METHOD)
        messages = [grpc_frame(each)[5:] for each in self.samples]

        def act(rng: random.Random) -> None:
            index = rng.randrange(len(messages))
            self.judge(grpc_outputs(call(messages[index], timeout=30))["y"], index)

        return act

    # -- bad

    def bad(self, rng: random.Random) -> None:
        """Send one thing that is wrong; anything but a 4xx answer, or a close, is a fault."""
        good = self.requests[0]
        bomb = zlib.compress(bytes(80 << 20), 9)
        packed = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Encoding: deflate\r\nContent-Length: {len(bomb)}\r\n\r\n"
        wrong = [
            bytes(rng.randrange(256) for _ in range(200)) + b"\r\n\r\n",
            good.replace(b'"shape": [1, 224, 224, 3]', b'"shape": [1, 224, 224, 4]'),
            good.replace(b"UINT8", b"INT64"),
            good.replace(b"/models/net/", b"/models/nothing/"),
            good.replace(b'{"inputs"', b'{"in\xff\xfets"'),
            good.replace(b'"binary_data_size": 150528', b'"binary_data_size": 950528'),
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode() + b'{"inputs"',
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".encode(),
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode(),
            b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
            packed.encode() + bomb,
        ]
        with socket.create_connection(self.address, timeout=30) as connection:
            with contextlib.suppress(OSError):  # it may have been refused before all of it was sent
                connection.sendall(rng.choice(wrong))
            try:
                said = connection.recv(1 << 16)
            except ConnectionError:
                said = b""
        refused = not said or said[9:10] == b"4"
        self.note("bad refused" if refused else f"bad answered {said[:15]!r}")

    def bad_grpc(self, rng: random.Random) -> None:
        with grpc.insecure_channel(self.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            frame = grpc_frame(self.samples[0])[5:]
            message = rng.choice([b"\xff" * 100, frame[:-1000], frame.replace(b"UINT8", b"INT64"), b""])
            try:
                channel.unary_unary(METHOD)(message, timeout=30)
            except grpc.RpcError as error:
                refused = error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND")
                self.note("bad refused" if refused else f"bad answered {error.code().name}")
            else:
                self.note("bad answered OK")

    # -- vanishing

    def vanish(self, rng: random.Random) -> None:
        """Leave in the middle of the head, of the body, or before the answer; politely or by a reset."""
        request = rng.choice(self.requests)
        cut = rng.choice([rng.randrange(1, 80), rng.randrange(200, len(request)), len(request)])
        with socket.create_connection(self.address, timeout=30) as connection:
            if rng.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(request[:cut])
            time.sleep(rng.choice([0, 0.001, 0.02]))
        self.note("vanished")

    def vanish_grpc(self, rng: random.Random) -> None:
        with grpc.insecure_channel(self.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            future = channel.unary_unary(METHOD).future(grpc_frame(rng.choice(self.samples))[5:], timeout=30)
            time.sleep(rng.choice([0.0005, 0.002, 0.01]))
            future.cancel()
        self.note("vanished")

    def threads(self) -> list[threading.Thread]:
        acts = [(self.binary(), 0.01)] * 1 + [(self.binary(), 0.01), (self.as_json(), 0.1)]
        acts += [(self.by_grpc(), 0.01), (self.by_grpc(), 0.01)]
        acts += [
            (self.bad, 0.1),
            (self.bad_grpc, 0.2),
            (self.vanish, 0.02),
            (self.vanish, 0.05),
            (self.vanish_grpc, 0.1),
        ]
        return [self.repeat(act, seed, pause) for seed, (act, pause) in enumerate(acts)]


def resident_mb(pids: list[int]) -> float:
    lines = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(text.split("VmRSS:", 1)[1].split()[0]) for text in lines) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seconds", type=float, default=600.0)
    given, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    bench = benchmark("soak", __doc__)
    seconds = 40.0 if bench.quick else given.seconds
    settle = min(60.0, seconds / 4)
    samples = pictures(16)
    want = expected(next(case for case in CASES if case.net == "mobilenetv2"), samples)
    with tempfile.TemporaryDirectory() as name:
        bundle = net_bundle("mobilenetv2", Path(name) / "bundle", streams=2, threads=1, batch_sizes=(1, 4))
        with Server([str(bundle)]) as server:
            workers = list(server.announced["workers"])
            soak = Soak(server, samples, want)
            threads = soak.threads()
            for thread in threads:
                thread.start()
            resident = []
            start = time.monotonic()
            while (now := time.monotonic() - start) < seconds:
                resident.append((now, resident_mb(workers), resident_mb([server.pid])))
                time.sleep(1)
            soak.stop.set()
            for thread in threads:
                thread.join(40)
            hung = sum(thread.is_alive() for thread in threads)
            alive = [Path(f"/proc/{pid}").exists() for pid in workers]
    case = f"{seconds:.0f} s of mixed clients"
    for what, count in sorted(soak.seen.items()):
        print(f"  {what}: {count}")
    failed = sum(count for what, count in soak.seen.items() if what.startswith(("failed", "good", "bad answered")))
    bench.add(Row(case, "right answers", soak.seen["right"], None, None, "answers"))
    bench.add(Row(case, "wrong answers", soak.seen["wrong"], None, None, "answers", 0.0, higher=False))
    bench.add(Row(case, "answers that should not be", failed, None, None, "answers", 0.0, higher=False))
    bench.add(Row(case, "clients that hang", hung, None, None, "clients", 0.0, higher=False))
    bench.add(Row(case, "workers that survived", sum(alive), None, None, "workers", float(len(workers))))
    at, worker, supervisor = np.array(resident).T
    for who, values in (("worker", worker), ("supervisor", supervisor)):
        first = np.median(values[(at >= settle) & (at < settle + 10)])
        last = np.median(values[at >= 0.9 * seconds])
        growth = (last / first - 1) * 100
        bench.add(Row(case, f"{who} RSS after {settle:.0f} s", float(first), None, None, "MB"))
        bench.add(Row(case, f"{who} RSS growth since", float(growth), None, None, "%", 1.0, higher=False))
    bench.close()


if __name__ == "__main__":
    main()
