"""The pruning example ships what its figures say: a smaller net with the same names that still tells the classes."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def frames(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER / "video_quality"))
    import generator

    yield generator.make_frames(2027, "test", 210, workers=2)
    for name in [name for name, module in sys.modules.items() if str(FOLDER) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def test_the_shipped_net_is_smaller_and_still_right(frames):
    path = FOLDER / "pruning" / "model.onnx"
    whole = onnx.load(FOLDER / "video_quality" / "model.onnx")
    sizes = [sum(int(np.prod(one.dims)) for one in net.graph.initializer) for net in (onnx.load(path), whole)]
    assert sizes[0] < 0.4 * sizes[1]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [one.name for one in (*session.get_inputs(), *session.get_outputs())] == ["frame", "logits", "quality"]
    x = (frames.x.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 63.75
    logits, grades = session.run(["logits", "quality"], {"frame": x})
    assert (logits.argmax(1) == frames.label).mean() > 0.96
    assert np.corrcoef(grades[:, 0], frames.quality)[0, 1] > 0.8


def test_the_shipped_figures_are_those_of_the_shipped_net():
    metrics = json.loads((FOLDER / "pruning" / "metrics.json").read_text())
    step = metrics["prune"]["nets"][2]
    graph = onnx.load(FOLDER / "pruning" / "model.onnx").graph
    widths = {layer["name"]: layer["after"] for layer in step["layers"]}
    shapes = {one.name.removesuffix(".weight"): one.dims[0] for one in graph.initializer if len(one.dims) == 4}
    assert {name: shapes[name] for name in widths if name in shapes} == {n: w for n, w in widths.items() if n in shapes}
    assert len(widths.keys() & shapes.keys()) > 10
    assert step["accuracy"]["verdict"] == "within the floor"
