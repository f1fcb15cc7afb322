"""What a request costs before and after the model: server CPU per request beside a bare echo of the same bytes.

`whet serve` runs the runtime that computes nothing. HTTP is compared with a bare uvicorn application (uvloop and
httptools) that reads the body and answers as many bytes as Whet does; gRPC with a bare grpcio server (thread pool,
bytes in and out). The same request bytes, 150 KB, go to both in blocks that alternate in random order; the load
generator is compiled. CPU is user and system time of the server's processes, supervisor included, from /proc.

    .venv/bin/python benchmarks/frontend.py [--quick] [--json FILE] [--only WORD ...]

Needs uvicorn (`.venv/bin/pip install uvicorn`) and h2load (Debian: `apt-get install nghttp2-client`).
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bundles import fake_bundle
from client import drive, picture_requests
from harness import Benchmark, Row, benchmark, cpu_seconds, paired, ratio, run_timed
from serving import grpc_frame, pictures
from whet.load.launcher import Server

ANSWER_BYTES = 4160
CONNECTIONS = (1, 4, 16)
HTTP_ECHO = """
import uvicorn
answer = bytes(%d)
async def app(scope, receive, send):
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    headers = [(b"content-length", b"%d"), (b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
class Said(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)
quiet = {"log_level": "error", "access_log": False, "lifespan": "off"}
Said(uvicorn.Config(app, port=0, loop="uvloop", http="httptools", **quiet)).run()
""" % (ANSWER_BYTES, ANSWER_BYTES)  # noqa: UP031  (the program is full of braces)
GRPC_ECHO = """
import grpc
from concurrent.futures import ThreadPoolExecutor
answer = bytes(%d)
server = grpc.server(ThreadPoolExecutor(%d), options=[("grpc.max_receive_message_length", -1)])
echo = grpc.unary_unary_rpc_method_handler(lambda data, context: answer)
service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": echo})
server.add_generic_rpc_handlers([service])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


@contextmanager
def echo(program: str) -> Iterator[tuple[int, int]]:
    """Run a bare echo; yield its port and process id."""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()


def per_request(pids: list[int], block: Callable[[], int]) -> float:
    """Microseconds of CPU that the processes used for each request of ``block``."""
    before = cpu_seconds(pids)
    answered = block()
    return (cpu_seconds(pids) - before) / answered * 1e6


def rows(bench: Benchmark, case: str, pairs: list[tuple[float, float]], reach: float) -> None:
    value, low, high = ratio(pairs)
    bench.add(Row(case, "server CPU/bare echo", value, low, high, "ratio", reach, higher=False))
    for metric, side in (("server CPU a request", 0), ("bare echo's", 1)):
        bench.add(Row(case, metric, float(np.median([pair[side] for pair in pairs])), None, None, "us"))


def over_http(bench: Benchmark, server: Server, pids: list[int]) -> None:
    blocks, seconds = (3, 1.0) if bench.quick else (15, 2.0)
    requests = picture_requests(pictures(16))
    with echo(HTTP_ECHO) as (port, pid):

        def block(url: str, connections: int) -> int:
            counted = drive(url, requests, "closed", connections, seconds)
            if len(counted.ok) != len(counted.records):
                sys.exit(f"frontend: {len(counted.records) - len(counted.ok)} HTTP requests failed")
            return len(counted.ok)

        for connections in CONNECTIONS:
            case = f"HTTP {connections} connections"
            if not bench.wants(case):
                continue
            urls = server.http, f"http://127.0.0.1:{port}"
            sides = [
                lambda url=url, ids=ids, connections=connections: per_request(ids, lambda: block(url, connections))
                for url, ids in zip(urls, (pids, [pid]), strict=True)
            ]
            for side in sides:
                side()
            rows(bench, case, paired(sides[0], sides[1], blocks), 1.5)


def over_grpc(bench: Benchmark, server: Server, pids: list[int], folder: Path) -> None:
    blocks, seconds = (3, 1) if bench.quick else (15, 2)
    frame = folder / "frame"
    frame.write_bytes(grpc_frame(pictures(1)[0]))
    for connections in CONNECTIONS:
        case = f"gRPC {connections} connections"
        if not bench.wants(case):
            continue
        with echo(GRPC_ECHO % (ANSWER_BYTES, max(4, connections))) as (port, pid):

            def block(url: str, connections: int) -> int:
                argv = ["h2load", "-D", str(seconds), "-c", str(connections), "-m", "1", "-d", str(frame)]
                argv += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
                out, _ = run_timed([*argv, f"{url}/inference.GRPCInferenceService/ModelInfer"])
                return int(out.split("requests: ", 1)[1].split(" done", 1)[0].split(", ")[-1])

            urls = server.grpc.replace("grpc://", "http://"), f"http://127.0.0.1:{port}"
            sides = [
                lambda url=url, ids=ids, connections=connections: per_request(ids, lambda: block(url, connections))
                for url, ids in zip(urls, (pids, [pid]), strict=True)
            ]
            for side in sides:
                side()
            rows(bench, case, paired(sides[0], sides[1], blocks), 1.4)


def main() -> None:
    bench = benchmark("frontend", __doc__)
    if importlib.util.find_spec("uvicorn") is None:
        sys.exit(f"frontend: needs uvicorn to compare with; install it: {sys.executable} -m pip install uvicorn")
    if shutil.which("h2load") is None:
        sys.exit("frontend: needs h2load; install it: apt-get install nghttp2-client")
    with tempfile.TemporaryDirectory() as name:
        bundle = fake_bundle(Path(name) / "bundle", streams=2)
        with Server([str(bundle)]) as server:
            pids = [server.pid, *server.announced["workers"]]
            over_http(bench, server, pids)
            over_grpc(bench, server, pids, Path(name))
    bench.close()


if __name__ == "__main__":
    main()
