"""A MobileNet-class network for frames: what went wrong, and how good the frame still is.

Inverted residual blocks with linear bottlenecks, as in MobileNetV2 (Sandler et al., CVPR 2018), with the expansion and
the depthwise convolution fused into one 3 x 3 convolution, as MobileNetEdgeTPU and EfficientNetV2 (Tan, Le, ICML 2021)
do in their early stages: more multiplications, but regular ones, which is what int8 instructions are fast at. Plain
ReLU and no squeeze-and-excitation, so that every layer quantizes. Convolutions see texture at full resolution and the
features are averaged over the frame, because a distortion is local and everywhere.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SIZE = 224
MEAN, SCALE = 127.5, 63.75  # a frame's 0 to 255 becomes -2 to 2
CLASSES = 7
STEM = 32
# output channels, blocks; each stage halves the resolution in its first block
STAGES = ((48, 2), (64, 2), (96, 3), (160, 3))
EXPANSION = 2
WEIGHTS = Path(__file__).with_name("weights.npz")


def _wide(channels: int, width: float) -> int:
    """Scaled channels, kept at multiples of 16: the lanes of a 512-bit register of f32."""
    return max(16, round(channels * width / 16) * 16)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class FusedBlock(nn.Module):
    """Expand with a 3 x 3 convolution, project linearly with a 1 x 1; add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * EXPANSION
        self.body = nn.Sequential(*_conv(inputs, hidden, 3, stride), nn.ReLU(), *_conv(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class QualityNet(nn.Module):
    """Frame -> (logits, quality)."""

    def __init__(self, width: float = 1.0, classes: int = CLASSES) -> None:
        super().__init__()
        channels = _wide(STEM, width)
        layers: list[nn.Module] = [*_conv(3, channels, 3, 2), nn.ReLU()]
        for outputs, blocks in STAGES:
            for block in range(blocks):
                layers.append(FusedBlock(channels, _wide(outputs, width), 2 if block == 0 else 1))
                channels = _wide(outputs, width)
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(channels, classes)
        self.grade = nn.Linear(channels, 1)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Judge frames.

        Args:
            frame: f32 [N, 3, H, W], RGB, normalised by `MEAN` and `SCALE`; made for H = W = `SIZE`.

        Returns:
            Logits [N, classes] and quality [N, 1] in 0 to 1, higher is better.
        """
        x = self.features(frame).mean((2, 3))
        return self.classify(x), torch.sigmoid(self.grade(x))


def build(width: float = 1.0) -> nn.Module:
    """A fresh network in eval mode; ``width`` scales the channels (1.0: 0.47 GMAC, 1.9 M parameters)."""
    return QualityNet(width).eval()


def trained(weights: Path = WEIGHTS) -> nn.Module:
    """The network that was trained (see `train`), in eval mode."""
    model = build()
    with np.load(weights, allow_pickle=False) as stored:
        model.load_state_dict({name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored.files})
    return model


def save(model: nn.Module, weights: Path) -> None:
    """Store weights as f16 and the statistics of the norms as f32, without pickle."""
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = value.numpy().astype(np.float32)
        else:
            state[name] = value.float().numpy().astype(np.float32 if "running" in name else np.float16)
    beside = weights.with_name(f"~{weights.name}")  # keeps .npz, which savez would append
    np.savez_compressed(beside, **state)
    beside.replace(weights)


def example_input(batch: int = 1) -> Tensor:
    """Something of the right shape to trace with: f32 [batch, 3, SIZE, SIZE]."""
    return torch.zeros(batch, 3, SIZE, SIZE)


def normalise(frames: np.ndarray) -> Tensor:
    """uint8 RGB [N, H, W, 3] -> what the network takes, f32 [N, 3, H, W] in channels-last memory."""
    return (torch.tensor(frames).permute(0, 3, 1, 2).float() - MEAN) / SCALE
