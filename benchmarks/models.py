"""The nets the benchmarks run: real architectures with random weights (throughput does not depend on the weights).

Each is built in PyTorch, exported once to ONNX with a free batch axis and kept in ``.cache/models``; ``int8`` is the
same net after nncf's post-training quantization on random data. The three of :data:`KERAS` come from Keras' own
applications instead, as SavedModels (and as ONNX with the same weights, through Keras on PyTorch, for runtimes that
read no SavedModel). Run alone to build the PyTorch ones (needs PyTorch and, for four of them, transformers):

    .venv/bin/python benchmarks/models.py [NAME ...]
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "models"
IMAGE = {"x": ((3, 224, 224), "float32")}
TOKENS = {"input_ids": ((128,), "int64"), "attention_mask": ((128,), "int64")}


def _hugging(model: Any, outputs: str) -> Any:
    import torch

    class Plain(torch.nn.Module):
        """One tensor out instead of a record."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return getattr(self.model(*inputs), outputs)

    return Plain()


def resnet50() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    return _hugging(ResNetForImageClassification(ResNetConfig(num_labels=1000)), "logits")


def mobilenetv2() -> Any:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return _hugging(MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1001)), "logits")


def bert_base(attention: str = "eager") -> Any:
    """``eager`` attention can be exported; ``sdpa`` is what transformers runs by default."""
    from transformers import BertConfig, BertModel

    return _hugging(BertModel(BertConfig(attn_implementation=attention)), "pooler_output")


def vit_s() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
    return _hugging(ViTForImageClassification(config), "logits")


def lstm() -> Any:
    import torch

    class Net(torch.nn.Module):
        """Two layers of 256 over 100 steps of 64 features."""

        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(64, 256, num_layers=2, batch_first=True)
            self.head = torch.nn.Linear(256, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    return Net()


def unet() -> Any:
    import torch
    from torch import nn

    def block(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
            nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
        )  # fmt: skip

    class Net(nn.Module):
        """Four levels, 32 to 256 channels."""

        def __init__(self) -> None:
            super().__init__()
            widths = (32, 64, 128, 256)
            self.down = nn.ModuleList(block(a, b) for a, b in zip((3, *widths), widths, strict=False))
            self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
            self.merge = nn.ModuleList(block(2 * a, a) for a in widths[:-1])
            self.head = nn.Conv2d(widths[0], 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = []
            for level, step in enumerate(self.down):
                x = step(x if level == 0 else torch.max_pool2d(x, 2))
                kept.append(x)
            for level in reversed(range(len(self.up))):
                x = self.merge[level](torch.cat([self.up[level](x), kept[level]], dim=1))
            return self.head(x)

    return Net()


def yolov3_tiny() -> Any:
    import torch
    from torch import nn

    def conv(a: int, b: int, size: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(a, b, size, padding=size // 2, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.1))

    class Head(nn.Module):
        """Boxes in pixels, objectness and class scores of one scale, from three anchors a cell."""

        def __init__(self, channels: int, stride: int, anchors: tuple[tuple[int, int], ...]) -> None:
            super().__init__()
            self.stride = stride
            self.out = nn.Conv2d(channels, 3 * 85, 1)
            self.register_buffer("anchors", torch.tensor(anchors).float().view(1, 3, 1, 1, 2))
            y, x = torch.meshgrid(torch.arange(416 // stride), torch.arange(416 // stride), indexing="ij")
            self.register_buffer("cells", torch.stack((x, y), dim=-1).float()[None, None])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            side = 416 // self.stride
            raw = self.out(x).view(-1, 3, 85, side, side).permute(0, 1, 3, 4, 2)
            centres = (torch.sigmoid(raw[..., :2]) + self.cells) * self.stride
            sizes = torch.exp(raw[..., 2:4]) * self.anchors
            return torch.cat([centres, sizes, torch.sigmoid(raw[..., 4:])], dim=-1).reshape(-1, 3 * side * side, 85)

    class Net(nn.Module):
        """YOLOv3-tiny (Redmon, Farhadi 2018): 8.9 M parameters, 416 x 416, 80 classes, 2,535 boxes before NMS."""

        def __init__(self) -> None:
            super().__init__()
            widths = (3, 16, 32, 64, 128, 256)
            steps: list[nn.Module] = []
            for a, b in itertools.pairwise(widths[:-1]):
                steps += [conv(a, b, 3), nn.MaxPool2d(2)]
            self.stem = nn.Sequential(*steps, conv(128, 256, 3))
            self.deep = nn.Sequential(
                nn.MaxPool2d(2), conv(256, 512, 3), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1),
                conv(512, 1024, 3), conv(1024, 256, 1),
            )  # fmt: skip
            self.coarse = nn.Sequential(conv(256, 512, 3), Head(512, 32, ((81, 82), (135, 169), (344, 319))))
            self.up = nn.Sequential(conv(256, 128, 1), nn.Upsample(scale_factor=2))
            self.fine = nn.Sequential(conv(384, 256, 3), Head(256, 16, ((10, 14), (23, 27), (37, 58))))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            early = self.stem(x)
            deep = self.deep(early)
            fine = self.fine(torch.cat([self.up(deep), early], dim=1))
            return torch.cat([self.coarse(deep), fine], dim=1)

    return Net()


MODELS: dict[str, tuple[Callable[[], Any], dict[str, tuple[tuple[int, ...], str]]]] = {
    "resnet50": (resnet50, IMAGE),
    "mobilenetv2": (mobilenetv2, IMAGE),
    "bert-base": (bert_base, TOKENS),
    "vit-s": (vit_s, IMAGE),
    "lstm": (lstm, {"x": ((100, 64), "float32")}),
    "unet": (unet, {"x": ((3, 224, 224), "float32")}),
    "yolov3-tiny": (yolov3_tiny, {"x": ((3, 416, 416), "float32")}),
}
KERAS = {
    "resnet50-tf": ("ResNet50", 224),
    "mobilenetv2-tf": ("MobileNetV2", 224),
    "inception-v3-tf": ("InceptionV3", 299),
}
"""Name -> (keras.applications' name, side of its pictures)."""


def example(name: str, batch: int = 1, seed: int = 0) -> dict[str, Any]:
    """Random inputs of ``MODELS[name]``: floats from a normal distribution, token ids below 1000, masks of ones."""
    import numpy as np

    rng = np.random.default_rng(seed)
    made = {}
    for key, (shape, dtype) in MODELS[name][1].items():
        if "mask" in key:
            made[key] = np.ones((batch, *shape), dtype)
        elif dtype == "int64":
            made[key] = rng.integers(0, 1000, (batch, *shape))
        else:
            made[key] = rng.standard_normal((batch, *shape)).astype(dtype)
    return made


def build_onnx(name: str) -> Path:
    """Return ``<name>.onnx`` (f32), building it when it is not cached."""
    path = CACHE / f"{name}.onnx"
    if path.exists():
        return path
    import torch

    torch.manual_seed(0)
    CACHE.mkdir(parents=True, exist_ok=True)
    make, inputs = MODELS[name]
    model = make().eval()
    sample = tuple(torch.from_numpy(value) for value in example(name, batch=2).values())
    beside = path.with_suffix(".writing")
    axes = {key: {0: "N"} for key in [*inputs, "y"]}
    torch.onnx.export(
        model, sample, str(beside), input_names=list(inputs), output_names=["y"],
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    beside.rename(path)
    return path


def build_savedmodel(name: str) -> Path:
    """Return the folder of ``KERAS[name]`` as a SavedModel with one signature, building it when it is not cached.

    Keras must be on its TensorFlow backend. The weights stay beside it, for :func:`build_keras_onnx`.
    """
    folder = CACHE / name
    if folder.exists():
        return folder
    import keras

    keras.utils.set_random_seed(0)
    CACHE.mkdir(parents=True, exist_ok=True)
    model = _application(name)
    model.save_weights(CACHE / f"{name}.weights.h5")
    beside = folder.with_name(f"writing-{name}")
    model.export(str(beside), format="tf_saved_model", verbose=False)
    beside.rename(folder)
    return folder


def build_keras_onnx(name: str) -> Path:
    """Return the same net as :func:`build_savedmodel` made, as ONNX in NCHW. Keras must be on its PyTorch backend."""
    path = CACHE / f"{name}.onnx"
    if path.exists():
        return path
    import keras
    import torch

    keras.config.set_image_data_format("channels_first")
    model = _application(name)
    model.load_weights(CACHE / f"{name}.weights.h5")
    model.eval()
    beside = path.with_suffix(".writing")
    side = KERAS[name][1]
    torch.onnx.export(
        model, (torch.zeros(2, 3, side, side),), str(beside), input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    beside.rename(path)
    return path


def _application(name: str) -> Any:
    import keras

    return getattr(keras.applications, KERAS[name][0])(weights=None)


def build_int8(name: str) -> Path:
    """Return ``<name>-int8.xml``: the net after post-training quantization on random data."""
    path = CACHE / f"{name}-int8.xml"
    if path.exists():
        return path
    from whet.quiet import silence_telemetry

    silence_telemetry()
    import nncf
    import openvino as ov

    model = ov.Core().read_model(str(build_onnx(name)))
    kind = nncf.ModelType.TRANSFORMER if name in {"bert-base", "vit-s"} else None
    samples = [example(name, seed=seed) for seed in range(16)]
    quantized = nncf.quantize(model, nncf.Dataset(samples), subset_size=16, model_type=kind)
    beside = CACHE / f"writing-{name}.xml"
    ov.save_model(quantized, beside, compress_to_fp16=False)
    beside.with_suffix(".bin").rename(path.with_suffix(".bin"))
    beside.rename(path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    for wanted in parser.parse_args().names:
        if wanted not in MODELS:
            sys.exit(f"models: '{wanted}' is unknown; known are {', '.join(MODELS)}")
        print(build_onnx(wanted), build_int8(wanted))
