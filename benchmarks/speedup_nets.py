"""The nets of ``benchmarks/speedup.py``, and the files they are made of."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from whet.settings import environ

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Net:
    """A row. ``given`` and ``onnx`` are (module, function, argument) that make Whet's file and ONNX Runtime's.

    ``budget_s`` is the search's, seconds: what ``whet optimize`` takes by itself, unless the net is too slow for that.
    """

    name: str
    own: str
    given: tuple[str, str, str]
    onnx: tuple[str, str, str] | None
    data: tuple[str, str, str] | None = None
    max_drop: float | None = None
    budget_s: int = 120

    @property
    def listed(self) -> bool:
        """One of the eight nets the mean is taken over."""
        return self.data is None


def _torch(name: str, budget_s: int = 120) -> Net:
    files = ("models", "build_onnx", name)
    return Net(name, "PyTorch", files, files, budget_s=budget_s)


def _keras(name: str) -> Net:
    return Net(name, "TensorFlow", ("models", "build_savedmodel", name), ("models", "build_keras_onnx", name))


VIDEO = ("labelled", "video_onnx", "")
NETS = (
    _keras("resnet50-tf"),
    _keras("mobilenetv2-tf"),
    _keras("inception-v3-tf"),
    _torch("bert-base", 360),  # 440 MB and nine samples a second: the defaults alone take 54 s to measure
    *map(_torch, ("yolov3-tiny", "vit-s", "lstm", "unet")),
    Net("video-quality", "PyTorch", VIDEO, VIDEO, ("labelled", "video_frames", ""), 0.01),
    Net(
        "digits-cnn",
        "PyTorch",
        ("labelled", "digits_cnn_onnx", ""),
        ("labelled", "digits_cnn_onnx", ""),
        ("labelled", "digits_data", "digits-cnn"),
        0.01,
    ),
    Net(
        "digits-lstm",
        "TensorFlow",
        ("labelled", "digits_lstm", ""),
        None,
        ("labelled", "digits_data", "digits-lstm"),
        0.01,
    ),
    # 160 pictures cannot promise less than this: with no difference at all the interval's end is at 0.024.
    Net(
        "squeezenet",
        "PyTorch",
        ("labelled", "squeezenet_onnx", ""),
        ("labelled", "squeezenet_onnx", ""),
        ("labelled", "squeezenet_data", ""),
        0.05,
    ),
)


@dataclass
class Work:
    """Where a run keeps what it has, how long searches may take, and whether it ends with them."""

    folder: Path
    quick: bool
    budget: str = ""
    search: bool = False

    def of(self, net: Net) -> Path:
        folder = self.folder / ("quick" if self.quick else "full") / net.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def budget_of(self, net: Net) -> str:
        """What the search of a net may take, as ``whet optimize`` reads it."""
        return self.budget or ("20s" if self.quick else f"{net.budget_s}s")

    def measured(self, net: Net) -> Path:
        """Where the blocks of a net are kept."""
        return self.of(net) / "measured.json"

    def environment(self, **more: str) -> dict[str, str]:
        """Compiled kernels of torch.compile are kept, so that only the first start waits for them."""
        return {**environ(), "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"), **more}


def made(step: tuple[str, str, str], work: Work) -> Path:
    """Make a file in a process of its own, for Keras binds a process to one backend; return its path."""
    module, function, argument = step
    backend = "torch" if function == "build_keras_onnx" else "tensorflow"
    call = (
        f"import {module}; print({module}.{function}({argument!r}))"
        if argument
        else f"import {module}; print({module}.{function}())"
    )
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=HERE, env=work.environment(KERAS_BACKEND=backend), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"speedup: {module}.{function}({argument}) failed: {done.stderr.strip()[-600:]}")
    return Path(done.stdout.strip().splitlines()[-1])
