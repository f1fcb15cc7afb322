"""What ``whet export`` writes: read back by the targets' own rules, and computed with."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.cli import main
from whet.engine import open_engine
from whet.errors import BundleError, OutputError, PlanRefused, UsageError
from whet.export import NOTES, TARGETS, export
from whet.export.pbtxt import Word, render
from whet.host import read_host
from whet.models.artifact import OutputStep, seal
from whet.plan import Plan

OVMS_KEYS = {
    "name", "base_path", "batch_size", "model_version_policy", "shape", "nireq", "target_device", "plugin_config",
    "stateful", "idle_sequence_cleanup", "low_latency_transformation", "max_sequence_number", "layout",
}  # fmt: skip
"""Properties that the server's schema allows in a model's ``config``; it refuses others."""


@pytest.fixture(scope="module")
def host():
    return read_host()


@pytest.fixture(scope="module")
def pictured(nets, tmp_path_factory):
    """An image net with everything around it: preprocessing, softmax (fusable), top-k (not)."""
    post = (OutputStep("scores", "softmax"), OutputStep("scores", "top_k", k=2))
    return nets.conv(tmp_path_factory.mktemp("pictured"), images=(nets.picture(source_channels="BGR"),), post=post)


@pytest.fixture(scope="module")
def plain(nets, tmp_path_factory):
    return nets.mlp(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def as_ir(pictured, tmp_path_factory):
    """The image net as OpenVINO's own format."""
    from whet.quiet import silence_telemetry

    silence_telemetry()
    import openvino

    folder = tmp_path_factory.mktemp("ir")
    openvino.save_model(openvino.Core().read_model(pictured.path), folder / "net.xml", compress_to_fp16=False)
    files = [folder / "net.xml", folder / "net.bin"]
    return seal(replace(pictured, model="net.xml", format="ir"), files, folder / "store")


def answers(artifact, plan, request):
    """Whet's own answers."""

    async def ask():
        engine = await open_engine(artifact, plan)
        try:
            return (await engine.infer(request)).outputs
        finally:
            await engine.close()

    return asyncio.run(ask())


def pbtxt(path):
    """Parse with the server's own message definition: an unknown field or a wrong type is an error."""
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse(path.read_text(), model_config.ModelConfig())


def test_ovms_config_holds_the_compile_settings_whet_uses(bundled, pictured, host, tmp_path):
    knobs = {"streams": 2, "threads": 1, "batch_sizes": (1, 4), "batch_window_ms": 2.0, "deadline_ms": 50.0}
    done = export(bundled((pictured, knobs)), "ovms", _made(tmp_path), host)
    document = json.loads((tmp_path / "out/config.json").read_text())
    (entry,) = document["model_config_list"]
    config = entry["config"]
    assert set(config) <= OVMS_KEYS
    assert config["base_path"] == config["name"] == "net"
    assert config["shape"] == {"pixels": "(1:4,16,16,3)"}
    assert config["layout"] == {"pixels": "NHWC"}
    assert config["nireq"] == 3
    assert config["plugin_config"] == {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "2",
        "INFERENCE_NUM_THREADS": "2",
        "ENABLE_CPU_PINNING": "NO",
    }
    assert (tmp_path / "out/net/1/model.onnx").is_file()
    notes = "\n".join(done.notes)
    for lost in ("does not collect samples", "50 ms", "bound of waiting samples", "top_k of 'scores'", "cropping"):
        assert lost in notes


@pytest.mark.parametrize("kind", ["onnx", "ir"])
def test_the_exported_ovms_model_compiles_under_its_plugin_config_and_answers_as_the_engine(
    kind, bundled, pictured, as_ir, host, tmp_path
):
    artifact = pictured if kind == "onnx" else as_ir
    bundle = bundled((artifact, {"batch_sizes": (1, 2)}))
    export(bundle, "ovms", _made(tmp_path), host)
    config = json.loads((tmp_path / "out/config.json").read_text())["model_config_list"][0]["config"]
    import openvino

    files = sorted(path.name for path in (tmp_path / "out/net/1").iterdir())
    assert files == (["model.onnx"] if kind == "onnx" else ["model.bin", "model.xml"])
    core = openvino.Core()
    model = core.read_model(tmp_path / "out/net/1" / files[-1])
    shape = config["shape"]["pixels"].strip("()").replace(":", "..")
    model.reshape({"pixels": openvino.PartialShape(f"[{shape}]")})
    compiled = core.compile_model(model, config["target_device"], config["plugin_config"])
    request = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    got = compiled(request)["scores"]
    ours = answers(replace(artifact, post=artifact.post[:1]), bundle.plans[0].plan, {"pixels": request})
    np.testing.assert_allclose(got, ours["scores"], rtol=1e-5, atol=1e-5)


def test_triton_config_parses_and_carries_batching_deadline_and_instances(bundled, pictured, host, tmp_path):
    knobs = {
        "streams": 2, "threads": 2, "batch_sizes": (1, 4, 8), "batch_window_ms": 1.5, "queue_bound": 64,
        "deadline_ms": 20.0, "precision": "bf16", "isa_ceiling": "AVX2", "allocator": "jemalloc", "workers": 2,
    }  # fmt: skip
    done = export(bundled((pictured, knobs)), "triton", _made(tmp_path), host)
    config = pbtxt(tmp_path / "out/net/config.pbtxt")
    assert (config.backend, config.max_batch_size, config.default_model_filename) == ("openvino", 8, "model.onnx")
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, 2)]  # 2 is KIND_CPU
    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == [4, 8]
    assert batching.max_queue_delay_microseconds == 1500
    policy = batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds, policy.timeout_action) == (64, 20_000, 0)
    said = {key: value.string_value for key, value in config.parameters.items()}
    assert said == {
        "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "4", "HINT_BF16": "YES", "ENABLE_BATCH_PADDING": "YES",
    }  # fmt: skip
    (entry,) = config.input
    assert (entry.name, list(entry.dims), entry.data_type) == ("pixels", [16, 16, 3], 2)  # 2 is TYPE_UINT8
    labels = (tmp_path / "out/net" / config.output[0].label_filename).read_text().split()
    assert labels == ["cat", "dog", "cow", "hen", "pig"]
    notes = "\n".join(done.notes)
    for lost in ("ONEDNN_MAX_CPU_ISA=AVX2", "libjemalloc", "2 worker processes", "pads every batch"):
        assert lost in notes


def test_triton_with_onnx_runtime_gives_each_instance_the_threads_of_a_stream(bundled, plain, host, tmp_path):
    knobs = {"runtime": "onnxruntime", "streams": 3, "threads": 2, "options": (("graph", "basic"), ("spinning", "0"))}
    done = export(bundled((plain, knobs)), "triton", _made(tmp_path), host)
    config = pbtxt(tmp_path / "out/net/config.pbtxt")
    assert config.backend == "onnxruntime"
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.instance_group[0].count == 3
    assert config.optimization.graph.level == -1
    assert "spinning=0" in "\n".join(done.notes)


def test_f32_on_triton_is_said_to_be_at_the_backends_mercy(bundled, plain, host, tmp_path):
    done = export(bundled((plain, {})), "triton", _made(tmp_path), host)
    assert any("cannot ask for f32" in note for note in done.notes)
    config = pbtxt(tmp_path / "out/net/config.pbtxt")
    assert "HINT_BF16" not in config.parameters


def test_an_unbatched_model_has_no_dynamic_batching(bundled, plain, host, tmp_path):
    fixed = replace(
        plain,
        batched=False,
        inputs=(replace(plain.inputs[0], shape=(3, 8)),),
        outputs=(replace(plain.outputs[0], shape=(3, 4)),),
    )
    artifact = seal(fixed, [plain.path], tmp_path / "store")
    export(bundled((artifact, {})), "triton", _made(tmp_path), host)
    config = pbtxt(tmp_path / "out/net/config.pbtxt")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert list(config.input[0].dims) == [3, 8]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_ort_script_answers_as_whets_engine(runtime, bundled, pictured, host, tmp_path):
    knobs = {"runtime": runtime, "streams": 1, "threads": 2, "batch_sizes": (1, 2)}
    bundle = bundled((pictured, knobs))
    done = export(bundle, "ort", _made(tmp_path), host)
    request = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "in.npz", pixels=request)
    # Away from this project's source: the script must stand alone.
    line = [sys.executable, "-I", "run.py", "--data", str(tmp_path / "in.npz"), "--out", str(tmp_path / "out.npz")]
    subprocess.run(line, cwd=tmp_path / "out", check=True, capture_output=True, timeout=60)
    got = np.load(tmp_path / "out.npz")["scores"]
    ours = answers(replace(pictured, post=pictured.post[:1]), bundle.plans[0].plan, {"pixels": request})
    np.testing.assert_allclose(got, ours["scores"], rtol=1e-5, atol=1e-5)
    assert any("measured under openvino" in note for note in done.notes) == (runtime == "openvino")


def test_the_ort_script_makes_up_a_sample_by_itself(bundled, plain, host, tmp_path):
    options = (("graph", "extended"), ("spinning", "0"))
    export(bundled((plain, {"runtime": "onnxruntime", "options": options})), "ort", _made(tmp_path), host)
    document = json.loads((tmp_path / "out/session_options.json").read_text())
    assert document["graph_optimization_level"] == "ORT_ENABLE_EXTENDED"
    assert document["config_entries"] == {"session.intra_op.allow_spinning": "0"}
    assert document["intra_op_num_threads"] == 1
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "out/run.py")], check=True, capture_output=True, text=True, timeout=60
    )
    assert "y: float32 [1, 4]" in done.stdout


def test_a_target_takes_the_plan_that_was_measured_under_its_own_runtime(bundled, plain, as_ir, host, tmp_path):
    bundle = bundled((as_ir, {"runtime": "openvino"}), (plain, {"runtime": "onnxruntime"}))
    assert export(bundle, "ort", _made(tmp_path), host).plan.runtime == "onnxruntime"
    assert export(bundle, "ovms", _made(tmp_path, "two"), host).plan.artifact == as_ir.sha256
    chosen = bundle.plans[1].plan.id
    assert export(bundle, "ovms", _made(tmp_path, "three"), host, chosen).plan.id == chosen


def test_what_cannot_be_exported_is_refused_with_the_remedy(bundled, as_ir, host, tmp_path):
    bundle = bundled((as_ir, {}))
    with pytest.raises(PlanRefused, match="format is ir, ort reads onnx; import the model with --to onnx"):
        export(bundle, "ort", _made(tmp_path), host)
    with pytest.raises(UsageError, match=f"it has {bundle.plans[0].plan.id}"):
        export(bundle, "ovms", tmp_path / "out", host, "nothing")
    with pytest.raises(OutputError):
        export(bundle, "ovms", tmp_path / "bundle/bundle.json", host)


def test_a_name_that_leads_out_of_the_folder_is_refused(bundled, plain, host, tmp_path):
    bundle = replace(bundled((plain, {})), name="../elsewhere")
    with pytest.raises(BundleError, match="cannot name a folder"):
        export(bundle, "ovms", _made(tmp_path), host)


@pytest.mark.parametrize("target", TARGETS)
def test_the_command_writes_whole_folders_and_prints_the_notes(target, bundled, plain, tmp_path, capsys):
    bundled((plain, {"runtime": "onnxruntime"}))
    out = tmp_path / "there"
    assert main(["export", str(tmp_path / "bundle"), "--to", target, "-o", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["files"]) == {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    page = (out / NOTES).read_text()
    assert all(note in page for note in document["notes"])
    assert main(["export", str(tmp_path / "bundle"), "--to", target, "-o", str(out)]) == 4
    assert "exists already" in capsys.readouterr().err


def test_a_refused_export_leaves_nothing_behind(bundled, as_ir, tmp_path, capsys):
    bundled((as_ir, {}))
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["export", str(tmp_path / "bundle"), "--to", "ort", "-o", str(tmp_path / "there")]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@given(st.dictionaries(st.sampled_from(["key", "value"]), st.text(st.characters(codec="utf-8"), max_size=20)))
def test_any_text_survives_the_text_format(pairs):
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    name = pairs.get("key", "")
    written = render({"name": name, "instance_group": [{"kind": Word("KIND_CPU"), "passive": True}]})
    parsed = text_format.Parse(written, model_config.ModelConfig())
    assert parsed.name == name
    assert parsed.instance_group[0].passive


def _made(tmp_path, name="out"):
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_plans_with_every_knob_at_its_default_are_written_too(bundled, plain, host, tmp_path):
    bundle = bundled((plain, {}))
    assert bundle.plans[0].plan == Plan(plain.sha256)
    for target in TARGETS:
        done = export(bundle, target, _made(tmp_path, target), host)
        assert done.notes
        assert NOTES in done.files
