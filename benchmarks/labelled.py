"""Nets with real weights and real labels, for the rows of ``speedup.py`` that must hold an accuracy floor.

Each has a module in its own framework, the file Whet is given, and held-out samples. The digits nets are trained here
in seconds, on samples that are not in their data. Made once, kept in ``.cache/models``.
"""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from models import CACHE
from whet.models.importers import import_model
from whet.models.importers.base import Options

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
"""Sample models and pictures beside the checkout, which are not part of it."""
TRAINED_ON = 700
"""Digits that train; the 1,097 others are data."""
SIDE = 32
EPOCHS = 10


def video_frames() -> Path:
    """Return 1,500 frames of the video quality example's test scenes, made by its generator."""
    path = CACHE / "video-frames.npz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        beside = path.with_name("writing-video-frames.npz")
        script = ROOT / "examples" / "video_quality" / "make_data.py"
        words = ["--seed", "7", "--split", "test", "--frames", "1500", "-o", str(beside)]
        subprocess.run([sys.executable, str(script), *words], check=True, stdout=subprocess.DEVNULL)
        beside.rename(path)
    return path


def video_onnx() -> Path:
    """Return the video quality net as the example ships it."""
    return ROOT / "examples" / "video_quality" / "model.onnx"


def video_module() -> Any:
    """Return the video quality net in PyTorch with its trained weights."""
    sys.path.insert(0, str(ROOT / "examples" / "video_quality"))
    import model

    return model.trained()


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, f32[1797, 32, 32] in 0 to 1, and their labels, shuffled with a fixed seed."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    pictures = np.kron(found.images[order] / 16.0, np.ones((SIDE // 8, SIDE // 8)))
    return pictures.astype(np.float32), found.target[order].astype(np.int64)


def digits_data(name: str) -> Path:
    """Return the held-out digits as the net ``name`` takes them."""
    path = CACHE / f"{name}.npz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pictures, labels = (part[TRAINED_ON:] for part in digits())
        beside = path.with_name(f"writing-{path.name}")
        np.savez(beside, x=pictures[:, None] if name == "digits-cnn" else pictures, label=labels)
        beside.rename(path)
    return path


def digits_cnn() -> Any:
    """Return the digits net in PyTorch, trained (about half a minute) when it is not cached."""
    import torch

    net, path = _residual(), CACHE / "digits-cnn.npz.weights"
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            net.load_state_dict({name: torch.from_numpy(kept[name]) for name in kept.files})
        return net.eval()
    torch.manual_seed(0)
    pictures, labels = (torch.from_numpy(part[:TRAINED_ON]) for part in digits())
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, epochs=EPOCHS, steps_per_epoch=TRAINED_ON // 50)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(50):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(pictures[rows][:, None]), labels[rows]).backward()
            optimiser.step()
            schedule.step()
    CACHE.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        np.savez(stream, **{name: value.numpy() for name, value in net.state_dict().items()})
    return net.eval()


def _residual() -> Any:
    import torch
    from torch import nn

    class Block(nn.Module):
        """Two 3 x 3 convolutions around a shortcut (He et al., CVPR 2016)."""

        def __init__(self, a: int, b: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
                nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b),
            )  # fmt: skip
            self.short = (
                nn.Identity()
                if (a, stride) == (b, 1)
                else nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.body(x) + self.short(x))

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        Block(32, 32, 1), Block(32, 64, 2), Block(64, 128, 2), Block(128, 128, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def digits_cnn_onnx() -> Path:
    """Return the digits net as ONNX."""
    path = CACHE / "digits-cnn.onnx"
    if not path.exists():
        import torch

        beside = path.with_suffix(".writing")
        axes = {"x": {0: "N"}, "y": {0: "N"}}
        torch.onnx.export(
            digits_cnn(), (torch.zeros(2, 1, SIDE, SIDE),), str(beside), input_names=["x"], output_names=["y"],
            dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
        beside.rename(path)
    return path


def digits_lstm() -> Path:
    """Return a Keras LSTM that reads a digit row by row, as a SavedModel, trained when it is not cached."""
    folder = CACHE / "digits-lstm"
    if not folder.exists():
        import keras

        keras.utils.set_random_seed(0)
        CACHE.mkdir(parents=True, exist_ok=True)
        net = keras.Sequential(
            [
                keras.Input((SIDE, SIDE), name="x"),
                keras.layers.LSTM(192, return_sequences=True),
                keras.layers.LSTM(192),
                keras.layers.Dense(10, name="y"),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.Adam(2e-3), loss)
        pictures, labels = (part[:TRAINED_ON] for part in digits())
        net.fit(pictures, labels, batch_size=50, epochs=15, verbose=0)
        beside = folder.with_name("writing-digits-lstm")
        net.export(str(beside), format="tf_saved_model", verbose=False)
        beside.rename(folder)
    return folder


def squeezenet_onnx() -> Path:
    """Return SqueezeNet with its ImageNet weights from Caffe, as Whet imports it."""
    path = CACHE / "squeezenet.onnx"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        artifact = import_model(
            SHARED / "caffe" / "squeezenet" / "SqueezeNet_deploy.prototxt", Options(), CACHE / "imported"
        )
        beside = path.with_suffix(".writing")
        beside.write_bytes(artifact.path.read_bytes())
        beside.rename(path)
    return path


def squeezenet_data() -> Path:
    """Return the 200 labelled pictures as the net takes them: BGR less its means, the centre 227 x 227."""
    path = CACHE / "squeezenet.npz"
    if not path.exists():
        from PIL import Image

        rows = list(csv.reader((SHARED / "imagenet200" / "labels.tsv").read_text().splitlines(), delimiter="\t"))
        pictures = []
        for file, _ in rows:
            with Image.open(SHARED / "imagenet200" / file) as picture:
                whole = np.asarray(picture.convert("RGB"), np.float32)
            top, left = ((size - 227) // 2 for size in whole.shape[:2])
            part = whole[top : top + 227, left : left + 227, ::-1] - np.float32([104, 117, 123])
            pictures.append(part.transpose(2, 0, 1))
        beside = path.with_name(f"writing-{path.name}")
        np.savez(beside, x=np.stack(pictures), label=np.array([int(label) for _, label in rows]))
        beside.rename(path)
    return path


def squeezenet_module() -> Any:
    """Return SqueezeNet 1.0 (Iandola et al. 2016) in PyTorch with the weights of the Caffe file, layer by layer."""
    import onnx
    import torch
    from onnx import numpy_helper
    from torch import nn

    class Fire(nn.Module):
        """Squeeze to few channels, expand by 1 x 1 and 3 x 3 side by side."""

        def __init__(self, a: int, squeeze: int, expand: int) -> None:
            super().__init__()
            self.squeeze = nn.Conv2d(a, squeeze, 1)
            self.one = nn.Conv2d(squeeze, expand, 1)
            self.three = nn.Conv2d(squeeze, expand, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.squeeze(x))
            return torch.relu(torch.cat([self.one(x), self.three(x)], dim=1))

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    net = nn.Sequential(
        nn.Conv2d(3, 96, 7, 2), nn.ReLU(), pool(), Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), pool(),
        Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), pool(), Fire(512, 64, 256),
        nn.Conv2d(512, 1000, 1, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    graph = onnx.load(squeezenet_onnx()).graph
    values = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    for layer, node in zip(layers, convolutions, strict=True):
        layer.weight.data.copy_(torch.from_numpy(values[node.input[1]]))
        layer.bias.data.copy_(torch.from_numpy(values[node.input[2]].ravel()))
    return net
