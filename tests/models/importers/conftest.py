"""Runs an imported net on a runtime at f32; shared by the tests of the importers."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from whet.quiet import silence_telemetry

sys.path.insert(0, str(Path(__file__).parent))


def run_onnxruntime(model: Path, *arrays):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: array for spec, array in zip(session.get_inputs(), arrays, strict=True)}
    return dict(zip([spec.name for spec in session.get_outputs()], session.run(None, feeds), strict=True))


def run_openvino(model: Path, *arrays):
    silence_telemetry()
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    )
    results = compiled(list(arrays))
    return {port.get_any_name(): np.array(results[port]) for port in compiled.outputs}


@pytest.fixture(scope="session")
def run_net():
    """Run a net: (runtime, ONNX file, arrays in the order of its inputs) -> outputs by name."""
    runtimes = {"onnxruntime": run_onnxruntime, "openvino": run_openvino}
    return lambda runtime, model, *arrays: runtimes[runtime](model, *arrays)
