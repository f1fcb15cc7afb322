"""A model's own framework is measured in the same harness: as it is, and with its threads set, beside the others."""

from dataclasses import replace

import numpy as np
import pytest

from whet.models.artifact import Lineage
from whet.optimize.baselines import own_framework
from whet.optimize.request import OptimizeRequest
from whet.optimize.run import optimize


@pytest.mark.parametrize(
    ("settings", "folder", "wanted"),
    [
        ({"format": "torch"}, False, ("torch", "pt2")),
        ({"format": "torch", "kind": "script"}, False, ("torch", "torchscript")),
        ({"format": "tf-savedmodel"}, True, ("tensorflow", "savedmodel")),
        ({"format": "onnx"}, False, None),
        ({"format": "keras"}, False, None),
    ],
)
def test_the_framework_that_made_a_file_follows_from_how_it_was_read(artifact, tmp_path, settings, folder, wanted):
    read = replace(artifact, format="ir", lineage=(Lineage("import", "model", "openvino", settings),))
    assert own_framework(read, tmp_path if folder else tmp_path / "model") == wanted


@pytest.mark.extra("torch")
@pytest.mark.slow
def test_an_exported_program_competes_as_it_was_saved(tmp_path):
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8)).eval()
    example = (torch.from_numpy(np.zeros((2, 64), np.float32)),)
    rows = torch.export.Dim("rows", min=1, max=4096)
    torch.export.save(torch.export.export(net, example, dynamic_shapes=({0: rows},)), tmp_path / "net.pt2")
    outcome = optimize(OptimizeRequest(model=tmp_path / "net.pt2", out=tmp_path / "b", synthetic=16, budget_s=30))
    assert outcome.exit_code == 0, outcome.message
    today = outcome.result["baselines"][0]
    assert today["name"] == "PyTorch defaults"
    assert today["trial"]["throughput_per_s"]["value"] > 0
    own = [one for one in outcome.result["trials"] if one["plan"]["runtime"] == "torch"]
    assert [one for one in own if one["status"] == "ok"]
    steps = outcome.result["ablation"]
    assert steps[0]["step"].startswith("today: PyTorch defaults")
    assert steps[1]["step"].startswith("torch f32")  # its own threads, set
    assert all(step["throughput_per_s"]["value"] > 0 for step in steps)
