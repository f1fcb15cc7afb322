"""A resident process that runs OpenVINO's own asynchronous loop: what serving is compared with.

Reads one JSON line a request on standard input: ``{"seconds": 1.0, "mode": "throughput" | "latency"}``; answers
``{"per_s": samples/s}`` or ``{"p50_ms": ...}``. The model is compiled like the plan says: same streams, threads,
precision and batch, uint8 images converted in the graph.
"""

import argparse
import json
import sys
import time

import numpy as np

from whet.quiet import silence_telemetry


def compiled_model(args: argparse.Namespace):
    silence_telemetry()
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    core = ov.Core()
    model = core.read_model(args.model)
    if args.image:
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        steps.input().model().set_layout(ov.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(ov.Type.f32).mean(args.mean).scale(args.scale)
        model = steps.build()
    model.reshape({port.any_name: [args.batch, *list(port.partial_shape)[1:]] for port in model.inputs})
    config = {
        "NUM_STREAMS": args.streams,
        "INFERENCE_NUM_THREADS": args.streams * args.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(model, "CPU", config)


def inputs_of(compiled) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = []
    for port in compiled.inputs:
        dtype = port.element_type.to_dtype()
        shape = tuple(port.shape)
        made.append(rng.integers(0, 255 if dtype == np.uint8 else 2, shape).astype(dtype))
    return made


def throughput(compiled, streams: int, batch: int, seconds: float) -> float:
    """Samples a second with one request more in flight than streams; results are discarded, as benchmark_app does."""
    import openvino as ov

    queue = ov.AsyncInferQueue(compiled, streams + 1)
    sample = inputs_of(compiled)
    for request in queue:
        for index, array in enumerate(sample):
            request.get_input_tensor(index).data[:] = array
    done = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        queue.start_async()
        done += batch
    queue.wait_all()
    return done / (time.perf_counter() - start)


def latency(compiled, seconds: float) -> float:
    """Median of one request at a time, milliseconds."""
    request = compiled.create_infer_request()
    for index, array in enumerate(inputs_of(compiled)):
        request.get_input_tensor(index).data[:] = array
    taken = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        request.infer()
        taken.append(time.perf_counter() - before)
    return float(np.median(taken)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--image", action="store_true")
    parser.add_argument("--mean", type=float, nargs="*", default=[123.675, 116.28, 103.53])
    parser.add_argument("--scale", type=float, nargs="*", default=[58.395, 57.12, 57.375])
    args = parser.parse_args()
    compiled = compiled_model(args)
    throughput(compiled, args.streams, args.batch, 0.5)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["mode"] == "throughput":
            answer = {"per_s": throughput(compiled, args.streams, args.batch, asked["seconds"])}
        else:
            answer = {"p50_ms": latency(compiled, asked["seconds"])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
