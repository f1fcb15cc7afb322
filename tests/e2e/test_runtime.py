"""A real net on a real runtime: what is served equals the runtime's own outputs, for each protocol."""

import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper, numpy_helper

from whet.load.launcher import Server
from whet.quiet import silence_telemetry

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def make_onnx(path):
    """Write a small net: convolution, ReLU, mean, dense; input f32 [N, 3, 8, 8], output f32 [N, 5]."""
    dice = np.random.default_rng(7)
    weights = {
        "kernel": dice.normal(size=(4, 3, 3, 3)),
        "bias": dice.normal(size=4),
        "dense": dice.normal(size=(4, 5)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runtime")
    model = make_onnx(folder / "small.onnx")
    with Server([str(model), "--cache-dir", str(folder / "cache")], ready_s=100) as server:
        yield server, model


@pytest.fixture(scope="module")
def own(served):
    """Return the runtime's own outputs for an input."""
    silence_telemetry()
    import openvino

    compiled = openvino.Core().compile_model(served[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled(x)[0]


@pytest.mark.parametrize("way", ["HTTP, binary", "HTTP, JSON", "gRPC"])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_served_is_what_the_runtime_computes(served, own, way, batch):
    x = np.random.default_rng(batch).normal(size=(batch, 3, 8, 8)).astype(np.float32)
    module = tritonclient.grpc if way == "gRPC" else tritonclient.http
    url = served[0].grpc.removeprefix("grpc://") if way == "gRPC" else served[0].http.removeprefix("http://")
    one = module.InferInput("image", list(x.shape), "FP32")
    if way == "HTTP, JSON":
        one.set_data_from_numpy(x, binary_data=False)
        wanted = [module.InferRequestedOutput("scores", binary_data=False)]
    else:
        one.set_data_from_numpy(x)
        wanted = [module.InferRequestedOutput("scores")]
    with module.InferenceServerClient(url) as client:
        answer = client.infer("small", [one], outputs=wanted).as_numpy("scores")
        metadata = client.get_model_metadata("small")
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, own(x), **TOLERANCE)
    platform = metadata["platform"] if isinstance(metadata, dict) else metadata.platform
    assert platform in ("onnx_onnxv1", "openvino_ir")


def test_a_model_nobody_tuned_runs_on_a_plan_that_says_so(kit, served):
    _, document = kit.Http(served[0].http).json("GET", "/models/small")
    assert "safe defaults" in document["plan"]["why"]
    assert document["effective"]["precision"] == "f32"
    assert kit.Http(served[0].http).metric("whet_lanes") >= 1


def test_a_model_openvino_does_not_know_runs_on_the_other_runtime(kit, serve, tmp_path):
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0, 2.0], scale=[3.0, 4.0])
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph([node], "scaler", shapes[:1], shapes[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "scaler.onnx")
    server = serve(tmp_path / "scaler.onnx", ready_s=100)
    client = kit.Http(server.http)
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [2, 3]}]
    status, document = client.json("POST", "/v2/models/scaler/infer", {"inputs": inputs})
    assert (status, document["outputs"][0]["data"]) == (200, [3.0, 4.0])
    assert client.json("GET", "/models/scaler")[1]["plan"]["words"].startswith("onnxruntime")


def test_two_models_share_the_cores_and_both_answer(kit, serve, served, tmp_path):
    root = tmp_path / "repository"
    for name in ("cat", "dog"):
        (root / name / "1").mkdir(parents=True)
        make_onnx(root / name / "1" / "model.onnx")
    server = serve(root, "--cpu-weights", "cat=3", ready_s=100)
    client = kit.Http(server.http)
    x = np.ones((1, 3, 8, 8), np.float32)
    for name in ("cat", "dog"):
        status, _, body = client.ask(
            "POST", f"/v2/models/{name}/infer", x.tobytes(), {"Inference-Header-Content-Length": "0"}
        )
        assert status == 200
        assert len(body) > 20
    assert client.metric("whet_model_workers") == 2
