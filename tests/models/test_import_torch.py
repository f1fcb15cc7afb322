"""PyTorch's forms go in through their safe doors; the others stay shut, unopened."""

import importlib
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from whet.errors import ModelError, Unsupported, UsageError
from whet.models.importers import Options, import_model
from whet.models.verify import verify_import

pytestmark = [
    pytest.mark.extra("torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Write one small net in every form PyTorch has."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(8)
            self.head = torch.nn.Linear(8, 5)

        def forward(self, x):
            return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

    folder = tmp_path_factory.mktemp("torch")
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 16, 16)
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), folder / "dynamic.pt2")
    torch.export.save(torch.export.export(net, (x[:1],)), folder / "static.pt2")
    torch.jit.trace(net, x).save(folder / "traced.pt")
    torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())).save(folder / "scripted.pt")
    torch.jit.trace(torch.nn.Linear(64, 8).eval(), torch.zeros(1, 64)).save(folder / "linear.pt")
    words = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 3)).eval()
    torch.jit.trace(words, torch.zeros(1, 5, dtype=torch.long)).save(folder / "words.pt")
    torch.save(net.state_dict(), folder / "state.pth")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pth")
    torch.save(net.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return folder


@pytest.mark.parametrize("name", ["dynamic.pt2", "static.pt2", "traced.pt", "scripted.pt"])
def test_every_safe_form_goes_in_and_agrees_with_pytorch(files, tmp_path, name):
    artifact = import_model(files / name, Options(), tmp_path)
    assert artifact.batched
    (comparison,) = verify_import(artifact, files / name, samples=2).comparisons
    assert comparison.one == "PyTorch"
    assert max(comparison.differences.values()) < 1e-5


@pytest.mark.parametrize(
    ("name", "shape", "datatype"), [("linear.pt", (-1, 64), "FP32"), ("words.pt", (-1, 5), "INT64")]
)
def test_an_input_whose_type_torchscript_does_not_say_gets_the_one_its_first_layer_takes(
    files, tmp_path, name, shape, datatype
):
    artifact = import_model(files / name, Options(input_shapes={"": shape}), tmp_path)
    assert (artifact.inputs[0].datatype, artifact.inputs[0].shape) == (datatype, shape)
    assert f"taken as {datatype}" in " ".join(artifact.notes)
    (comparison,) = verify_import(artifact, files / name, samples=2).comparisons
    assert max(comparison.differences.values()) < 1e-5


def test_exported_shapes_are_kept(files, tmp_path):
    for name in ("dynamic.pt2", "static.pt2"):
        assert import_model(files / name, Options(), tmp_path).inputs[0].shape == (-1, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("state.pth", "is a state dict: weights without the code.*module:function"),
        ("module.pth", r"is a pickled module \(torch.nn.modules.linear.Linear\)"),
        ("legacy.pth", "old torch.save file"),
    ],
)
def test_pickles_stay_shut(files, tmp_path, name, said):
    with pytest.raises(Unsupported, match=said):
        import_model(files / name, Options(allow_pickle=True), tmp_path)


def test_an_exported_program_that_smuggles_code_is_refused_unopened(files, tmp_path):
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (mark,))

    evil = tmp_path / "evil.pt2"
    with zipfile.ZipFile(files / "static.pt2") as source, zipfile.ZipFile(evil, "w") as target:
        swapped = 0
        for info in source.infolist():
            data = source.read(info)
            if "sample_inputs" in info.filename and info.filename.endswith(".pt"):
                data, swapped = pickle.dumps(Evil()), swapped + 1
            target.writestr(info, data)
    assert swapped == 1
    with pytest.raises(Unsupported, match="pickle of more than tensors"):
        import_model(evil, Options(), tmp_path / "store")
    assert not mark.exists()


def test_a_truncated_program_is_refused(files, tmp_path):
    data = (files / "traced.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError):
        import_model(tmp_path / "cut.pt", Options(), tmp_path / "store")


def test_entry_points_run_the_users_code_on_the_users_word(tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(
        "import torch\n"
        "def net(): return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())\n"
        "def pair(): return net(), torch.zeros(1, 3, 8, 8)\n"
        "def number(): return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "store"
    assert import_model(Path("nets_of_mine:pair"), Options(), store).inputs[0].shape == (-1, 3, 8, 8)
    shaped = import_model(Path("nets_of_mine:net"), Options(input_shapes={"": (1, 3, 9, 9)}), store)
    assert shaped.outputs[0].shape == (-1, 4, 7, 7)
    for name, kind, said in (
        ("net", UsageError, "--input-shape"),
        ("number", ModelError, "returned int"),
        ("nothing", UsageError, "no attribute 'nothing'"),
    ):
        with pytest.raises(kind, match=said):
            import_model(Path(f"nets_of_mine:{name}"), Options(), store)


@pytest.mark.extra("sklearn")
def test_tables_and_trees_give_equal_labels(tmp_path):
    import joblib
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from whet.models.importers.reference import open_onnxruntime

    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 6)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    path = tmp_path / "pipe.joblib"
    joblib.dump(model, path)
    with pytest.raises(Unsupported, match="--allow-pickle"):
        import_model(path, Options(), tmp_path / "store")
    artifact = import_model(path, Options(allow_pickle=True), tmp_path / "store")
    assert any("OpenVINO cannot open it: it has no ai.onnx.ml" in note for note in artifact.notes)
    found = open_onnxruntime(artifact.path).run({"input": x})
    np.testing.assert_array_equal(found["label"], model.predict(x))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(x), atol=1e-5)


@pytest.mark.extra("sklearn")
@pytest.mark.parametrize("name", ["model.json", "model.ubj", "model.txt"])
def test_boosted_trees_come_without_pickles(tmp_path, name):
    library = importlib.import_module("lightgbm" if name.endswith("txt") else "xgboost")
    from whet.models.importers.reference import open_onnxruntime

    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) + (x[:, 3] > 1)
    path = tmp_path / name
    if name.endswith("txt"):
        booster = library.train(
            {"objective": "multiclass", "num_class": 3, "verbose": -1}, library.Dataset(x, label=y), 5
        )
        expected = booster.predict(x)
    else:
        data = library.DMatrix(x, label=y)
        booster = library.train({"objective": "multi:softprob", "num_class": 3, "max_depth": 3}, data, 5)
        expected = booster.predict(data)
    booster.save_model(str(path))
    artifact = import_model(path, Options(), tmp_path / "store")
    found = open_onnxruntime(artifact.path).run({"input": x})
    np.testing.assert_array_equal(found["label"], expected.argmax(axis=1))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
