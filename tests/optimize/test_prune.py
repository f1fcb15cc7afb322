"""Pruning keeps the promises of every recipe, and says by name what it cannot do. Tiny nets, real processes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_nets import pictures

from whet.cli import main
from whet.errors import DataError, MissingExtra, PlanRefused, UsageError
from whet.models.artifact import load_artifact
from whet.optimize.compress.prune import CRITERIA, Prune
from whet.optimize.prune import prune
from whet.optimize.prune_request import PruneRequest

NETS = '''
import torch
from torch import nn

class Net(nn.Module):
    """A stem, a depthwise and a grouped convolution, a sum that ties two widths, and two outputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 5, 2, 2), nn.BatchNorm2d(32), nn.ReLU())
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.wide = nn.Sequential(nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.head = nn.Linear(64, 8)
        self.grade = nn.Linear(64, 1)

    def forward(self, x):
        y = self.wide(self.depthwise(self.stem(x)))
        y = (y + torch.relu(self.grouped(y))).mean((2, 3))
        return self.head(y), torch.sigmoid(self.grade(y))

def net():
    torch.manual_seed(0)
    return Net(), torch.zeros(1, 1, 32, 32)

def restless():
    return Net(), torch.zeros(1, 1, 32, 32)

def tune(model, data, stage):
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for (x,), label in data.batches(16, seed=stage.seed):
        with torch.no_grad():
            wanted = stage.parent(x)[0]
        loss = nn.functional.mse_loss(model(x)[0], wanted) + nn.functional.cross_entropy(model(x)[0], label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    stage.say(f"loss {float(loss):.2f} over {len(data)} samples")

def broken(model, data, stage):
    raise RuntimeError("no such optimizer")

def other(model, data, stage):
    return Net()

def meddler(model, data, stage):
    with torch.no_grad():
        stage.parent.head.weight.zero_()
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prune")
    (folder / "nets_to_prune.py").write_text(NETS)
    images, labels = pictures(240, seed=2)
    np.savez(folder / "d.npz", x=images, label=labels)
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def request_of(**changes) -> PruneRequest:
    base = PruneRequest(
        entry="nets_to_prune:net", data="d.npz", finetune="nets_to_prune:tune", ratio=0.5, steps=2, multiple=16,
        outputs=("logits", "grade"), importance="taylor", max_drop=0.9, seed=3,
    )  # fmt: skip
    return replace(base, **changes)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.extra("prune")
def test_every_step_is_an_artifact_with_its_lineage_and_the_same_seed_gives_the_same_ones(place, tmp_path):
    said, made = [], []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(prune(request_of(steps=1), tmp_path / name, said.append))
    first, second = ([load_artifact(one.folder / f"step-{i}") for i in (1,)] for one in made)
    assert [one.sha256 for one in first] == [one.sha256 for one in second]
    unpruned = load_artifact(made[0].folder / "unpruned")
    for index, one in enumerate(first, start=1):
        assert (one.inputs, one.outputs, one.batched) == (unpruned.inputs, unpruned.outputs, unpruned.batched)
        assert [spec.name for spec in one.outputs] == ["logits", "grade"]
        step = one.lineage[-1]
        assert (step.action, step.source) == ("prune", unpruned.sha256)
        settings = step.settings
        assert {name: settings[name] for name in ("step", "ratio", "importance", "seed", "multiple", "finetune")} == {
            "step": index, "ratio": 0.5, "importance": "taylor", "seed": 3, "multiple": 16,
            "finetune": "nets_to_prune:tune",
        }  # fmt: skip
        assert settings["training_items"] == 120
        before, after = settings["parameters"]
        assert before > after
        assert settings["gflop"][0] > settings["gflop"][1]
        assert all(now % 16 == 0 for _, now in settings["channels"].values())
        assert settings["left"] == {"head": "reaches an output", "grade": "reaches an output"}
    assert any("loss" in words for words in said)
    document = json.loads((made[0].folder / "pruned.json").read_text())
    assert document["data"] == {
        "words": "240 samples of d.npz", "learnt_from": 120, "judged_on": 120, "grouped": False,
    }  # fmt: skip
    assert [net["label"] for net in document["nets"]] == ["unpruned", "step-1"]
    assert document["nets"][1]["accuracy"]["items"] == 120
    assert made[0].exit_code == 0


@pytest.mark.slow
@pytest.mark.extra("prune")
def test_without_finetuning_it_runs_measures_and_refuses(place, tmp_path, capsys):
    command = [
        "prune",
        "nets_to_prune:net",
        "--data",
        "d.npz",
        "--ratio",
        "0.5",
        "--multiple",
        "8",
        "--metric",
        "agreement",
    ]
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert "give --finetune module:function" in err
    assert "refused: no step holds the floor" in err
    assert "step-1" in out
    net = json.loads((tmp_path / "out" / "pruned.json").read_text())["nets"][1]
    assert net["accuracy"]["verdict"] != "within the floor"
    assert net["speed_at_default_plan"]["value"] > 0
    assert load_artifact(tmp_path / "out" / "step-1").outputs[0].name == "output_0"
    assert main([*command, "-o", str(tmp_path / "out")]) == 4  # it is there already


@pytest.mark.extra("prune")
@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"finetune": "nets_to_prune:broken"}, PlanRefused, "nets_to_prune:broken raised RuntimeError: no such optim"),
        ({"entry": "nets_to_prune:restless"}, PlanRefused, "other weights every time it is called"),
        ({"finetune": "nets_to_prune:missing"}, UsageError, "has no attribute 'missing'"),
    ],
)
def test_what_fails_inside_is_a_named_refusal(place, tmp_path, changes, kind, said):
    with pytest.raises(kind, match=said):
        prune(request_of(**changes), tmp_path, lambda words: None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entry": "model.onnx"}, "needs the code of the net"),
        ({"ratio": 1.0}, "--ratio is 1; .* below 1"),
        ({"training_share": 0.0}, "--training-share is 0"),
        ({"importance": "magic"}, "'magic' is unknown; choose one of l2, l1"),
        ({"multiple": 0}, "--multiple is 0"),
    ],
)
def test_requests_that_make_no_sense_are_refused_before_anything_is_read(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said):
        prune(request_of(**changes), tmp_path, lambda words: None)


def test_a_missing_library_names_the_extra(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(MissingExtra, match=r"pip install 'whet\[prune\]'"):
        prune(request_of(), tmp_path, lambda words: None)
    assert main(["prune", "nets_to_prune:net", "--data", "d.npz", "-o", str(tmp_path / "o")]) == 4
    assert "whet[prune]" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.fixture
def torch():
    """PyTorch, with its global switches put back afterwards."""
    import torch

    before = torch.is_grad_enabled()
    yield torch
    torch.set_grad_enabled(before)
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture
def net(torch, place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    import nets_to_prune

    module, example = nets_to_prune.net()
    return module.eval(), (torch.randn(2, 1, 32, 32), example)[:1]


def shrunk(net, **changes):
    from whet.optimize.compress.prune.groups import Wish, shrink

    wish = Wish("l2", "layer", 8, (), 0)
    return shrink(*net, 0.5, {}, replace(wish, **changes), None)


@pytest.mark.extra("prune")
@pytest.mark.parametrize("importance", [one for one in CRITERIA if one not in {"taylor", "bn-scale"}])
def test_tied_layers_shrink_together_and_outputs_never(net, importance):
    removal = shrunk(net, importance=importance)
    module, example = net
    assert [list(value.shape) for value in module(*example)] == [[2, 8], [2, 1]]
    assert module.depthwise.groups == module.depthwise.out_channels == module.stem[0].out_channels == 16
    assert module.grouped.groups == 4
    assert module.grouped.in_channels == module.grouped.out_channels == module.wide[0].out_channels == 32
    assert sorted((layer.before, layer.after) for layer in removal.layers) == [(32, 16), (64, 32)]
    assert removal.left.keys() == {"head", "grade"}


@pytest.mark.extra("prune")
def test_layers_that_are_to_be_kept_stay(net):
    removal = shrunk(net, keep=("stem",))
    assert net[0].stem[0].out_channels == 32
    assert net[0].wide[0].out_channels == 32
    assert "is to be kept" in removal.left.values()
    with pytest.raises(UsageError, match="--keep stem2: the net has no such layer"):
        shrunk(net, keep=("stem2",))


@pytest.mark.extra("prune")
def test_a_layer_loses_what_matters_least(torch):
    module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()
    with torch.no_grad():
        module[0].weight[:8] *= 0.01
        module[2].weight[:, :8] *= 0.01
    kept = module[0].weight[8:].clone()
    shrunk((module, (torch.randn(2, 4),)))
    assert torch.equal(module[0].weight, kept)


@pytest.mark.extra("prune")
def test_a_net_of_nothing_but_outputs_is_refused(torch):
    with pytest.raises(PlanRefused, match="nothing in this net can be pruned"):
        shrunk((torch.nn.Linear(4, 3).eval(), (torch.zeros(2, 4),)))


@pytest.mark.extra("prune")
@pytest.mark.parametrize(("function", "said"), [("other", "returned another net"), ("meddler", "changed the unpruned")])
def test_a_function_that_does_more_than_train_is_refused(torch, place, tmp_path, function, said):
    from whet.optimize.compress.prune.export import digest, load
    from whet.optimize.compress.prune.process import Pruning

    made = load("nets_to_prune:net", ())
    work = Prune(
        entry="nets_to_prune:net", shapes=(), outputs=(), digest=digest(made.module), artifact=tmp_path, pool=None,
        output=0, finetune=f"nets_to_prune:{function}", ratio=0.5, steps=1, importance="bn-scale", scope="layer",
        multiple=8, keep=(), seed=0, folder=tmp_path, threads=1,
    )  # fmt: skip
    with pytest.raises(PlanRefused, match=said):
        Pruning(work, lambda told: None).run()


@pytest.mark.extra("prune")
def test_data_that_leaves_nothing_to_judge_on_is_refused(place, tmp_path):
    images, labels = pictures(1, seed=2)
    np.savez(tmp_path / "one.npz", x=images.repeat(2, 0), label=labels.repeat(2))
    with pytest.raises(DataError, match="leaves no sample to judge on after 1 of 2"):
        prune(request_of(data=str(tmp_path / "one.npz")), tmp_path / ".", lambda words: None)
