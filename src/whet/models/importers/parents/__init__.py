"""Runs the file an artifact came from in its own framework, in a process of its own, to compare outputs with.

A row of :data:`WAYS` a format: what runs it, how to see that it is installed, and a function in ``frameworks``,
``caffe`` or ``paddle`` that takes what is asked and the samples and returns outputs by the artifact's names.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whet.errors import WhetError
from whet.models.artifact import Artifact
from whet.models.importers import isolated
from whet.models.importers.base import Options
from whet.models.importers.isolated import Limits
from whet.models.importers.parents import caffe, frameworks, paddle
from whet.models.importers.parents.request import Request, Samples, load, save
from whet.models.importers.worker import decode, encode

__all__ = ["ParentAnswer", "Samples", "run_parent"]


@dataclass(frozen=True, slots=True)
class ParentAnswer:
    """What the parent gave.

    Attributes:
        framework: that ran it.
        outputs: by the artifact's output names, one mapping a sample.
    """

    framework: str
    outputs: Samples


@dataclass(frozen=True, slots=True)
class Way:
    """How a format's parent is run.

    Attributes:
        framework: what runs it, for people.
        package: whose presence tells whether it is installed.
        remedy: how to install it.
        run: runs the samples; raises an error of our tree where this framework would compute something else.
        environment: variables the framework reads while it is imported.
        elsewhere: tells whether the framework is installed outside this environment.
    """

    framework: str
    package: str
    remedy: str
    run: Callable[[Request, Samples], Samples]
    environment: dict[str, str] | None = None
    elsewhere: Callable[[], bool] = lambda: False

    def lacks(self) -> str:
        """Return what is missing and how to get it, or an empty string."""
        if importlib.util.find_spec(self.package) is not None or self.elsewhere():
            return ""
        return f"{self.framework} is not installed ({self.remedy})"


_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
_KERAS = {**_QUIET, "KERAS_BACKEND": "tensorflow"}
_TENSORFLOW = ("tensorflow", "pip install 'whet[tensorflow]'")
_TORCH = ("torch", "pip install 'whet[torch]'")
_PADDLE = ("paddle", "pip install paddlepaddle")
WAYS: dict[str, Way] = {
    "onnx": Way("the original file", "onnx", "", frameworks.run_onnx),
    "openvino-ir": Way("the original file", "openvino", "", frameworks.run_ir),
    "tflite": Way("TensorFlow Lite", *_TENSORFLOW, frameworks.run_tflite, _QUIET),
    "tf-savedmodel": Way("TensorFlow", *_TENSORFLOW, frameworks.run_savedmodel, _QUIET),
    "tf-frozen": Way("TensorFlow", *_TENSORFLOW, frameworks.run_frozen, _QUIET),
    "keras": Way("Keras on TensorFlow", *_TENSORFLOW, frameworks.run_keras, _KERAS),
    "torch": Way("PyTorch", *_TORCH, frameworks.run_torch),
    "torch-entry": Way("PyTorch", *_TORCH, frameworks.run_torch_entry),
    "trees": Way("the booster's own library", "onnxmltools", "pip install 'whet[sklearn]'", frameworks.run_trees),
    "sklearn": Way("scikit-learn", "sklearn", "pip install 'whet[sklearn]'", frameworks.run_sklearn),
    "caffe": Way("OpenCV's Caffe reader", "cv2", "pip install 'opencv-python-headless<5'", caffe.run),
    "paddle": Way("PaddlePaddle", *_PADDLE, paddle.run, elsewhere=paddle.in_converter_environment),
    "paddle-pir": Way("PaddlePaddle", *_PADDLE, paddle.run, elsewhere=paddle.in_converter_environment),
}
ABSENT = {
    "mxnet": "MXNet is not installed, and cannot be: its last release, 1.9.1, needs NumPy below 1.24, Whet NumPy 2",
    "caffe2": "Caffe2 is not installed, and cannot be: it left PyTorch's packages in 2022",
}
"""Formats whose framework cannot live beside Whet, with the reason in words."""


def run_parent(
    parent: Path, artifact: Artifact, options: Options, feeds: Samples, limits: Limits
) -> ParentAnswer | str:
    """Return the parent's outputs on ``feeds``, or in words why it cannot be run."""
    first = artifact.lineage[0].settings if artifact.lineage else {}
    format_name = str(first.get("format", ""))
    way = WAYS.get(format_name)
    if way is None:
        return ABSENT.get(format_name, f"nothing is known to run the format '{format_name}'")
    lacks = way.lacks()
    if lacks:
        return lacks
    with tempfile.TemporaryDirectory(prefix="whet-parent-") as folder:
        given, back = Path(folder, "feeds.npz"), Path(folder, "answers.npz")
        save(given, feeds)
        request = Request(
            format=format_name,
            path=str(parent),
            options=options,
            inputs=tuple(spec.name for spec in artifact.inputs),
            outputs=tuple(spec.name for spec in artifact.outputs),
            feeds=str(given),
            answers=str(back),
        )
        try:
            isolated.call(f"{__name__}:answer", encode(request), limits, way.environment)
        except WhetError as error:
            return f"{way.framework} cannot run it: {error}"
        return ParentAnswer(way.framework, load(back))


def answer(request: bytes) -> bytes:
    """Run the parent; the target of :func:`whet.models.importers.isolated.call`."""
    asked: Request = decode(request, Request)
    save(Path(asked.answers), WAYS[asked.format].run(asked, load(Path(asked.feeds))))
    return b"{}"
