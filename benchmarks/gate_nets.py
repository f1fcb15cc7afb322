"""The nets of ``benchmarks/gate.py``: trained here in seconds on scikit-learn's digits, or real ones with real labels.

The stress nets compute exactly what the digits net computes, in f32, from weights that are harder to round: a channel
is scaled up before a layer and down again behind it, or an offset is added and taken away. Each says what is delicate.
"""

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "gate"
SHARED = ROOT.parent / "shared" / "data"
TRAINED = 700
"""Digits used for training; the others calibrate and judge."""
OUTLIER = 3000.0
"""How many times the others the outlier channels are."""


@dataclass(frozen=True)
class Net:
    """One row of the table.

    Attributes:
        name: of the row.
        what: what is asked of the gate.
        build: makes the model and its data; returns their paths.
        max_drop: the floor.
        reach: rungs on which the ladder may stop; ``refused`` where none ships.
        runtimes: the only ones to consider, or empty for all.
    """

    name: str
    what: str
    build: Callable[[], tuple[Path, Path]]
    max_drop: float
    reach: tuple[str, ...]
    runtimes: tuple[str, ...] = ()


SPIKE = 3e4
"""What a pixel reads when the sensor fails; pictures lie in 0 to 1."""
SPIKED = 110
"""It fails in every so manyth picture: two of those that calibrate, eight of those that judge."""


def digits(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, each pixel repeated to fill ``side``: float32[1797, 1, side, side], int64[1797]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.kron(found.images / 16.0, np.ones((side // 8, side // 8)))
    spare = side - images.shape[-1]
    images = np.pad(images, ((0, 0), (spare // 2, spare - spare // 2), (spare // 2, spare - spare // 2)))
    order = np.random.default_rng(0).permutation(len(images))
    return images[order, None].astype(np.float32), found.target[order].astype(np.int64)


def cnn() -> Any:
    """Return the digits net: five convolutions without padding and two dense layers, 42 million multiply-adds."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1152, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def recurrent(kind: str) -> Any:
    """Return a net that reads a digit row by row: two layers of 192 of ``kind``, ``LSTM`` or ``GRU``."""
    import torch
    from torch import nn

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = getattr(nn, kind)(28, 192, num_layers=2, batch_first=True)
            self.head = nn.Linear(192, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.layers(x[:, 0])[0][:, -1])

    torch.manual_seed(0)
    return Rows()


def transformer() -> Any:
    """Return a small vision transformer: 49 patches, width 128, two blocks of four heads."""
    import torch
    from torch import nn

    width, heads = 128, 4

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            mixed = self.mix(self.before(x)).reshape(-1, 49, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            weights = torch.softmax(mixed[0] @ mixed[1].transpose(-1, -2) * (width / heads) ** -0.5, dim=-1)
            x = x + self.out((weights @ mixed[2]).transpose(1, 2).reshape(-1, 49, width))
            return x + self.wide(self.between(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, width, 4, stride=4)
            self.place = nn.Parameter(torch.randn(1, 49, width) * 0.02)
            self.blocks = nn.Sequential(*(Block() for _ in range(2)))
            self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

        def forward(self, x: Any) -> Any:
            tokens = self.patches(x).flatten(2).transpose(1, 2) + self.place
            return self.head(self.blocks(tokens).mean(dim=1))

    torch.manual_seed(0)
    return Net()


def tiny() -> Any:
    """Return three dense layers on 8 x 8 pixels, 6,464 multiply-adds: a call costs more than what it computes."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def trained(name: str, make: Callable[[], Any], epochs: int, rate: float = 1e-3, side: int = 28) -> Any:
    """Return a net trained on the first digits; its weights are kept in ``.cache/gate``."""
    import torch

    net, kept = make(), CACHE / f"{name}.pt"
    if kept.exists():
        net.load_state_dict(torch.load(kept, weights_only=True))
        return net.eval()
    images, labels = digits(side)
    x, y = torch.from_numpy(images[:TRAINED]), torch.from_numpy(labels[:TRAINED])
    steps = epochs * ((TRAINED + 31) // 32)
    optimiser = torch.optim.AdamW(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(TRAINED, generator=generator).split(32):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), kept)
    return net.eval()


def convolutions(net: Any) -> list[Any]:
    """Return the layers of the digits net that hold weights, first to last."""
    import torch

    return [one for one in net if isinstance(one, (torch.nn.Conv2d, torch.nn.Linear))]


def scaled(net: Any, place: int, channel: int, factor: float) -> None:
    """Scale a channel up behind layer ``place`` and down again in the next: ReLU and pooling let a scale through."""
    import torch

    layers = convolutions(net)
    with torch.no_grad():
        layers[place].weight[channel] *= factor
        layers[place].bias[channel] *= factor
        following = layers[place + 1].weight
        per = following.shape[1] // layers[place].weight.shape[0]  # a channel is this many columns once flattened
        following[:, channel * per : (channel + 1) * per] /= factor


def lifted(net: Any, offset: float) -> Any:
    """Return the digits net with ``offset`` on every activation: added in a layer's bias, taken away in the next one's.

    ReLU becomes a clamp at the offset, so that in f32 the net computes the same up to rounding.
    """
    import torch

    layers = convolutions(net)
    with torch.no_grad():
        for layer, following in itertools.pairwise(layers):
            layer.bias += offset
            following.bias -= offset * following.weight.sum(dim=tuple(range(1, following.weight.ndim)))
    return torch.nn.Sequential(
        *(torch.nn.Hardtanh(offset, 1e9) if isinstance(one, torch.nn.ReLU) else one for one in net)
    ).eval()


def write(name: str, net: Any, images: np.ndarray, labels: np.ndarray) -> tuple[Path, Path]:
    """Export a net to ONNX with a free batch axis, and the digits that were not trained on beside it."""
    import torch

    CACHE.mkdir(parents=True, exist_ok=True)
    model, data = CACHE / f"{name}.onnx", CACHE / f"{name}.npz"
    torch.onnx.export(
        net, (torch.from_numpy(images[:2]),), str(model), input_names=["x"], output_names=["logits"],
        dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    np.savez(data, x=images[TRAINED:], label=labels[TRAINED:])
    return model, data


def plain_digits() -> tuple[Path, Path]:
    """The digits net as it was trained."""
    return write("digits", trained("cnn", cnn, 8), *digits(28))


def spiked_digits() -> tuple[Path, Path]:
    """The digits net behind a sensor that now and then reads one pixel far too bright."""
    images, labels = digits(28)
    rng = np.random.default_rng(1)
    for index in range(0, len(images), SPIKED):
        row, column = rng.integers(0, 28, 2)
        images[index, 0, row, column] = SPIKE
    return write("spiked", trained("cnn", cnn, 8), images, labels)


def raw_digits() -> tuple[Path, Path]:
    """The digits net on two raw channels of different units: its halves of the picture differ a thousandfold."""
    import torch

    net = trained("cnn", cnn, 8)
    images, labels = digits(28)
    left = np.where(np.arange(28) < 14, images, 0.0)
    first = torch.nn.Conv2d(2, 32, 3)
    with torch.no_grad():
        first.weight[:] = torch.cat([net[0].weight, net[0].weight / 1000.0], dim=1)
        first.bias[:] = net[0].bias
    net[0] = first
    return write("raw", net, np.concatenate([left, 1000.0 * (images - left)], axis=1).astype(np.float32), labels)


def outlier_digits() -> tuple[Path, Path]:
    """The digits net with one outlier channel in its middle."""
    net = trained("cnn", cnn, 8)
    scaled(net, 2, 5, OUTLIER)
    return write("outlier", net, *digits(28))


def ridden_digits() -> tuple[Path, Path]:
    """The digits net with an outlier channel behind every layer."""
    net = trained("cnn", cnn, 8)
    for place in range(len(convolutions(net)) - 1):
        scaled(net, place, 3 + place, OUTLIER)
    return write("ridden", net, *digits(28))


def lifted_digits() -> tuple[Path, Path]:
    """The digits net on a large offset, which only f32 has the digits for."""
    return write("lifted", lifted(trained("cnn", cnn, 8), 1000.0), *digits(28))


def lstm_digits() -> tuple[Path, Path]:
    """A recurrent net that a runtime has int8 kernels for."""
    return write("LSTM", trained("LSTM", lambda: recurrent("LSTM"), 20, 2e-3), *digits(28))


def gru_digits() -> tuple[Path, Path]:
    """A recurrent net that no runtime here has int8 kernels for."""
    return write("GRU", trained("GRU", lambda: recurrent("GRU"), 12, 2e-3), *digits(28))


def tiny_digits() -> tuple[Path, Path]:
    """A net with next to nothing to compute."""
    return write("tiny", trained("tiny", tiny, 40, 3e-3, side=8), *digits(8))


def transformer_digits() -> tuple[Path, Path]:
    """A transformer."""
    return write("transformer", trained("transformer", transformer, 12), *digits(28))


def ultraface() -> tuple[Path, Path]:
    """A face detector of depthwise convolutions from Caffe, and real pictures without labels."""
    from PIL import Image

    CACHE.mkdir(parents=True, exist_ok=True)
    data, pictures = CACHE / "faces.npz", []
    for path in sorted((SHARED / "imagenet200").glob("*.jpg")):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB").resize((320, 240)), np.float32)
        pictures.append(((pixels - 127.0) / 128.0).transpose(2, 0, 1))
    np.savez(data, x=np.asarray(pictures, np.float32))
    return SHARED / "caffe/ultraface/RFB-320.prototxt", data


def squeezenet() -> tuple[Path, Path]:
    """SqueezeNet from Caffe with its ImageNet weights, and 200 labelled pictures (BGR minus the mean, centre 227)."""
    from PIL import Image

    CACHE.mkdir(parents=True, exist_ok=True)
    data, folder = CACHE / "imagenet200.npz", SHARED / "imagenet200"
    rows = [line.split("\t")[:2] for line in (folder / "labels.tsv").read_text().splitlines()]
    mean = np.array([104.0, 117.0, 123.0])
    pictures = []
    for name, _ in rows:
        with Image.open(folder / name) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.float64)[14:241, 14:241, ::-1]
        pictures.append((pixels - mean).transpose(2, 0, 1))
    np.savez(data, x=np.asarray(pictures, np.float32), label=np.array([int(label) for _, label in rows]))
    return SHARED / "caffe/squeezenet/SqueezeNet_deploy.prototxt", data


def video_quality() -> tuple[Path, Path]:
    """The example's video quality net and frames of scenes that were not trained on."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder, data = ROOT / "examples" / "video_quality", CACHE / "frames.npz"
    if not data.exists():
        command = [sys.executable, str(folder / "make_data.py"), "--seed", "7", "--split", "test", "--frames", "1500"]
        subprocess.run([*command, "-o", str(data)], check=True)
    return folder / "model.onnx", data


INT8 = ("int8", "int8-robust", "int8-edges", "int8-sensitive")
NETS = (
    Net("video quality", "trained, labelled scenes", video_quality, 0.01, ("int8",)),
    Net("SqueezeNet 1 %", "160 pictures cannot promise one point", squeezenet, 0.01, ("refused",)),
    Net("SqueezeNet 10 %", "160 pictures can promise ten", squeezenet, 0.10, INT8),
    Net("digits, plain", "nothing is delicate", plain_digits, 0.01, ("int8",)),
    Net("digits, spikes", "a sensor with rare spikes", spiked_digits, 0.01, ("int8-robust",)),
    Net("digits, raw units", "the first layer is delicate", raw_digits, 0.01, ("int8-edges",)),
    Net("digits, outlier", "a layer in the middle is delicate", outlier_digits, 0.01, ("int8-sensitive",)),
    Net("digits, outliers", "every layer is delicate, to int8", ridden_digits, 0.01, ("bf16",)),
    Net("digits, offset", "every layer is delicate, to bf16 too", lifted_digits, 0.01, ("refused",)),
    Net("digits, GRU", "recurrent, and no int8 kernels for it", gru_digits, 0.02, ("bf16", "refused")),
    Net("digits, tiny", "too little arithmetic in a call", tiny_digits, 0.02, ("refused",)),
    Net("UltraFace, ONNX Runtime", "depthwise, unlabelled", ultraface, 0.05, ("refused",), ("onnxruntime",)),
    Net("digits, LSTM", "recurrent: the dynamic route", lstm_digits, 0.02, ("int8-ort-dyn",)),
    Net("digits, transformer", "SmoothQuant", transformer_digits, 0.02, INT8),
)
