"""Served throughput against the runtime's own loop, and the latency a server adds.

Raw is OpenVINO's own asynchronous loop in a resident process with the same model, streams, threads and batch. Served is
`whet serve` on the same plan, loaded by wrk (HTTP, binary tensors, 16 distinct bodies) and by h2load (gRPC). Before the
timing, 64 distinct requests are answered over each transport and compared with the runtime's own outputs. Blocks
alternate in random order; a figure is the median of the pairs' ratios with its 95 % interval.

    .venv/bin/python benchmarks/serving.py [--quick] [--json FILE] [--only WORD ...]

Needs wrk and h2load (Debian: apt-get install wrk nghttp2-client) and, to build the nets once, PyTorch and transformers.
"""

import json
import re
import shutil
import struct
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import Benchmark, Row, benchmark, cpu_seconds, paired, ratio, resident, run_timed
from models import build_int8

MEAN, SCALE = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BODIES = 16
LUA = """
local bodies = {}
for i = 0, %d do
  local file = io.open("%s/body" .. i .. ".bin", "rb")
  bodies[i] = wrk.format("POST", "%s", {["Inference-Header-Content-Length"] = "%d",
    ["Content-Type"] = "application/octet-stream"}, file:read("*a"))
  file:close()
end
local n = 0
request = function() n = (n + 1) %% %d; return bodies[n] end
done = function(summary, latency)
  io.write(string.format(
    "JSON {\\"done\\": %%d, \\"us\\": %%d, \\"bad\\": %%d, \\"p50_us\\": %%d, \\"p99_us\\": %%d}\\n",
    summary.requests, summary.duration, summary.errors.status + summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Case:
    """A net at a plan."""

    net: str
    streams: int
    batch: int
    reach_http: float | None
    reach_grpc: float | None

    @property
    def name(self) -> str:
        return f"{self.net} int8 {self.streams}x1 b{self.batch}"


CASES = (
    Case("resnet50", 2, 1, 0.95, 0.92),
    Case("resnet50", 2, 4, 0.95, 0.92),
    Case("mobilenetv2", 2, 1, 0.85, 0.72),
    Case("mobilenetv2", 2, 4, 0.85, 0.72),
)


def make_bundle(case: Case, folder: Path) -> Path:
    """Write a bundle of the net with uint8 images fused, under the case's plan."""
    from whet.host import read_host
    from whet.models.artifact import Artifact, ImageInput, seal
    from whet.models.bundle import PlanRecord, write_bundle
    from whet.plan import Plan, Targets
    from whet.tensors import TensorSpec

    model = build_int8(case.net)
    artifact = seal(
        Artifact(
            model.parent,
            model.name,
            "ir",
            "",
            (TensorSpec("x", "FP32", (-1, 3, 224, 224)),),
            (TensorSpec("y", "FP32", (-1, 1001 if case.net == "mobilenetv2" else 1000)),),
            batched=True,
            precision="int8",
            images=(ImageInput("x", 224, 224, mean=MEAN, scale=SCALE),),
        ),
        [model, model.with_suffix(".bin")],
        folder / "store",
    )
    sizes = (1,) if case.batch == 1 else (1, case.batch)
    plan = Plan(artifact.sha256, streams=case.streams, threads=1, batch_sizes=sizes)
    evidence = folder / "evidence"
    evidence.mkdir(exist_ok=True)
    record = PlanRecord(plan, host=dict(read_host().fingerprint_fields))
    write_bundle(folder / "bundle", "net", [record], {artifact.sha256: artifact}, Targets(), evidence)
    return folder / "bundle"


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 1, 224, 224, 3), dtype=np.uint8)


def http_head() -> bytes:
    tensor = {"name": "x", "shape": [1, 224, 224, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 150528}}
    return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()


def grpc_frame(picture: np.ndarray) -> bytes:
    """One gRPC message frame, encoded by Triton's own client library."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="net")
    tensor = request.inputs.add(name="x", datatype="UINT8")
    tensor.shape.extend(picture.shape)
    request.raw_input_contents.append(picture.tobytes())
    message = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(message)) + message


def expected(case: Case, samples: np.ndarray) -> np.ndarray:
    """The runtime's own outputs, computed without Whet."""
    from whet.quiet import silence_telemetry

    silence_telemetry()
    import openvino as ov

    model = ov.Core().read_model(build_int8(case.net))
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    plain = [(s.astype(np.float32) - MEAN) / SCALE for s in samples]
    return np.stack([compiled(p.transpose(0, 3, 1, 2).astype(np.float32))[0] for p in plain])


def check_answers(case: Case, http: str, grpc: str) -> None:
    """Every answer must equal the runtime's for that request's own picture."""
    from tritonclient.grpc import InferenceServerClient, InferInput

    samples = pictures(64)
    want = expected(case, samples)
    client = InferenceServerClient(grpc.removeprefix("grpc://"))
    for index, sample in enumerate(samples):
        head = http_head()
        request = urllib.request.Request(  # noqa: S310
            f"{http}/v2/models/net/infer",
            head + sample.tobytes(),
            {"Inference-Header-Content-Length": str(len(head))},
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            start = int(answer.headers["Inference-Header-Content-Length"])
            over_http = np.frombuffer(answer.read()[start:], np.float32)
        tensor = InferInput("x", list(sample.shape), "UINT8")
        tensor.set_data_from_numpy(sample)
        over_grpc = client.infer("net", [tensor]).as_numpy("y").ravel()
        for transport, got in (("HTTP", over_http), ("gRPC", over_grpc)):
            # An int8 net may round one level differently once batches are padded; a wrong picture is far off.
            if not np.allclose(got, want[index].ravel(), atol=0.02 * np.abs(want[index]).max()):
                sys.exit(f"serving: request {index} over {transport} got an answer that is not its own")
    client.close()


def batch_counts(http: str) -> dict[int, int]:
    with urllib.request.urlopen(f"{http}/v2/models/net/stats") as answer:  # noqa: S310
        stats = json.load(answer)["model_stats"][0]
    return {b["batch_size"]: b["compute_infer"]["count"] for b in stats["batch_stats"]}


def wrk(url: str, folder: Path, connections: int, seconds: float) -> tuple[dict, float]:
    """Run wrk for one block; return what it counted and its CPU seconds."""
    script = folder / "post.lua"
    if not script.exists():
        for index, picture in enumerate(pictures(BODIES)):
            (folder / f"body{index}.bin").write_bytes(http_head() + picture.tobytes())
        script.write_text(LUA % (BODIES - 1, folder, "/v2/models/net/infer", len(http_head()), BODIES))
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
    out, used = run_timed(argv)
    counted = json.loads(out.split("JSON ", 1)[1])
    if counted["bad"]:
        sys.exit(f"serving: {counted['bad']} HTTP requests failed")
    return counted, used


def h2load(url: str, frame: Path, clients: int, streams: int, seconds: float) -> tuple[float, float]:
    argv = ["h2load", "-D", str(max(1, round(seconds))), "-c", str(clients), "-m", str(streams), "-d", str(frame)]
    argv += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    out, used = run_timed([*argv, f"{url}/inference.GRPCInferenceService/ModelInfer"])
    return float(re.search(r"([\d.]+) req/s", out)[1]), used


def throughput_rows(bench: Benchmark, case: Case, server, raw, folder: Path) -> None:
    """Add served/raw for HTTP and gRPC, with the mean batch and the client's share of the machine."""
    pairs_count, seconds = (4, 1.0) if bench.quick else (15, 2.0)
    url, grpc = server.http, server.grpc.replace("grpc://", "http://")
    frame = folder / "frame.bin"
    frame.write_bytes(grpc_frame(pictures(1)[0]))
    connections = case.streams * case.batch * 2 + 2
    shares: dict[str, list[float]] = {"HTTP": [], "gRPC": []}

    def raw_block() -> float:
        return raw.ask(mode="throughput", seconds=seconds)["per_s"]

    def http_block() -> float:
        counted, used = wrk(url, folder, connections, seconds)
        shares["HTTP"].append(used / (counted["us"] / 1e6) / 2)
        return counted["done"] / (counted["us"] / 1e6)

    def grpc_block() -> float:
        per_s, used = h2load(grpc, frame, 2, connections // 2, seconds)
        shares["gRPC"].append(used / max(1, round(seconds)) / 2)
        return per_s

    for transport, block, reach in (("HTTP", http_block, case.reach_http), ("gRPC", grpc_block, case.reach_grpc)):
        block()
        before = batch_counts(url)
        pairs = paired(block, raw_block, pairs_count)
        after = batch_counts(url)
        value, low, high = ratio(pairs)
        counts = {size: after[size] - before.get(size, 0) for size in after}
        mean = sum(size * n for size, n in counts.items()) / max(1, sum(counts.values()))
        bench.add(Row(case.name, f"{transport} served/raw", value, low, high, "ratio", reach))
        bench.add(Row(case.name, f"{transport} mean batch", mean, None, None, "samples"))
        bench.add(Row(case.name, f"{transport} raw", float(np.median([b for _, b in pairs])), None, None, "1/s"))
        bench.add(
            Row(
                case.name,
                f"{transport} client CPU",
                float(np.mean(shares[transport])),
                None,
                None,
                "share",
                0.05,
                False,
            )
        )


def latency_rows(bench: Benchmark, case: Case, server, raw) -> None:
    """Add the p50 one client sees over HTTP and gRPC, less the runtime's own."""
    from one_client import grpc_p50_ms, http_p50_ms

    count, blocks = (60, 3) if bench.quick else (150, 15)
    picture = pictures(1)[0]
    for transport, measure, reach in (("HTTP", http_p50_ms, 0.4), ("gRPC", grpc_p50_ms, 0.8)):
        url = server.http if transport == "HTTP" else server.grpc
        pairs = paired(
            lambda url=url, measure=measure: measure(url, picture, count),
            lambda: raw.ask(mode="latency", seconds=0.5)["p50_ms"],
            blocks,
        )
        added = np.array([a - b for a, b in pairs])
        medians = np.median(np.random.default_rng(0).choice(added, (2000, len(added))), axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        bench.add(
            Row(
                case.name,
                f"{transport} added p50",
                float(np.median(added)),
                float(low),
                float(high),
                "ms",
                reach,
                False,
            )
        )


def main() -> None:
    bench = benchmark("serving", __doc__)
    for tool, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if shutil.which(tool) is None:
            sys.exit(f"serving: needs {tool}; install it: apt-get install {package}")
    from whet.load.launcher import Server

    cases = [case for case in CASES if bench.wants(case.name)]
    for case in cases[:1] if bench.quick and not bench.only else cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            bundle = make_bundle(case, folder)
            argv = [sys.executable, str(Path(__file__).with_name("raw_loop.py")), "--model", str(build_int8(case.net))]
            argv += ["--streams", str(case.streams), "--threads", "1", "--batch", str(case.batch), "--image"]
            with Server([str(bundle)]) as server, resident(argv) as raw:
                check_answers(case, server.http, server.grpc)
                start = cpu_seconds([server.pid])
                throughput_rows(bench, case, server, raw, folder)
                if case.batch == 1:
                    latency_rows(bench, case, server, raw)
                bench.add(Row(case.name, "supervisor CPU", cpu_seconds([server.pid]) - start, None, None, "s"))
    bench.close()


if __name__ == "__main__":
    main()
