"""Run an exported model with ONNX Runtime. Needs only onnxruntime and numpy; copied beside the model as ``run.py``.

python run.py                            one sample made up from the shapes
python run.py --data in.npz --out out.npz    a request of your own; arrays are named as the inputs
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BYTES": "object",
}  # fmt: skip
FREE_DIM = 8
"""Length of a free dimension in a made-up sample; the batch axis is 1."""


def open_session(settings: dict[str, Any]) -> Any:
    """Return the session that ``session_options.json`` describes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["intra_op_num_threads"]
    options.inter_op_num_threads = settings["inter_op_num_threads"]
    options.execution_mode = getattr(onnxruntime.ExecutionMode, settings["execution_mode"])
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, settings["graph_optimization_level"])
    for name, value in settings["config_entries"].items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(str(HERE / settings["model"]), options, providers=settings["providers"])


def made_up(settings: dict[str, Any]) -> dict[str, Any]:
    """Return one sample with the right names, types and shapes, drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    feeds = {}
    for tensor in settings["inputs"]:
        shape = [size if size > 0 else FREE_DIM for size in tensor["shape"]]
        if settings["batch_sizes"]:
            shape[0] = 1
        dtype = np.dtype(DTYPES[tensor["datatype"]])
        if dtype.hasobject:
            feeds[tensor["name"]] = np.full(shape, "text", dtype)
        elif dtype.kind == "f":
            feeds[tensor["name"]] = rng.random(shape).astype(dtype)
        else:
            feeds[tensor["name"]] = rng.integers(0, 2, shape).astype(dtype)
    return feeds


def main() -> None:
    """Run once to warm up and once to time, and print what came out."""
    parser = argparse.ArgumentParser(description="Run an exported model with ONNX Runtime.")
    parser.add_argument("--data", metavar="FILE", help=".npz with one array an input; made up when not given")
    parser.add_argument("--out", metavar="FILE", help=".npz to write the outputs to")
    chosen = parser.parse_args()
    settings = json.loads((HERE / "session_options.json").read_text(encoding="utf-8"))
    session = open_session(settings)
    feeds = dict(np.load(chosen.data)) if chosen.data else made_up(settings)
    names = [tensor["name"] for tensor in settings["outputs"]]
    session.run(names, feeds)
    began = time.perf_counter()
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    print(f"{(time.perf_counter() - began) * 1e3:.3f} ms")
    for name, array in outputs.items():
        print(f"{name}: {array.dtype} {list(array.shape)}")
    if chosen.out:
        np.savez(chosen.out, **outputs)


if __name__ == "__main__":
    main()
