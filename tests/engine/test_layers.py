"""What a net's executed layers tell."""

import engine_nets as nets
import pytest

from whet.engine import load_runtime
from whet.engine.layers import profile_layers
from whet.errors import RuntimeFailed
from whet.plan import Plan


def test_executed_layers_tell_type_precision_and_time(store):
    artifact = nets.conv(store, side=64, channels=32)
    layers = profile_layers(artifact, Plan(artifact=artifact.sha256, batch_sizes=(1, 4)), runs=5)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert [layer.time_ms for layer in layers] == sorted((layer.time_ms for layer in layers), reverse=True)
    assert layers[0].time_ms > 0
    convolutions = [layer for layer in layers if "Convolution" in layer.type]
    assert len(convolutions) == 2
    assert {layer.precision for layer in convolutions} == {"f32"}


def test_a_bf16_plan_runs_its_convolutions_in_bf16(store):
    if "bf16" not in load_runtime("openvino").capabilities().precisions:
        pytest.skip("this processor has no bf16")
    artifact = nets.conv(store, side=64, channels=32)
    layers = profile_layers(artifact, Plan(artifact=artifact.sha256, precision="bf16"), runs=2)
    assert "bf16" in {layer.precision for layer in layers if "Convolution" in layer.type}


def test_fused_preprocessing_is_among_the_layers(store):
    artifact = nets.pictures(store)
    fused = profile_layers(artifact, Plan(artifact=artifact.sha256), runs=2)
    plain = profile_layers(artifact, Plan(artifact=artifact.sha256, fused_preprocessing=False), runs=2)
    assert len(fused) > len(plain)


def test_onnx_runtime_tells_its_layers_too(store):
    artifact = nets.mlp(store)
    layers = profile_layers(artifact, Plan(artifact=artifact.sha256, runtime="onnxruntime", batch_sizes=(1, 4)), runs=5)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert any("Gemm" in layer.type or "MatMul" in layer.type for layer in layers)
    assert {layer.precision for layer in layers} == {"f32"}


def test_runtimes_that_do_not_tell_say_so(store):
    with pytest.raises(RuntimeFailed, match="pytorch does not tell"):
        profile_layers(nets.mlp(store), Plan("a", runtime="pytorch"))
