"""The TOML beside a model: read whole, checked against the model, errors that name the path."""

from pathlib import Path

import pytest

from whet.errors import DataError
from whet.models.artifact import ImageInput, OutputStep
from whet.models.sidecar import find_sidecar, read_sidecar
from whet.tensors import TensorSpec

INPUTS = (TensorSpec("frame", "FP32", (-1, 3, 224, 224)), TensorSpec("other", "FP32", (-1, 4)))
OUTPUTS = (TensorSpec("logits", "FP32", (-1, 2)), TensorSpec("boxes", "FP32", (-1, 10, 4)))
FULL = """
[inputs.frame]
source = "image"
size = [224, 224]
resize_shorter = 256
crop = "center"
channels = "BGR"
mean = [123.675, 116.28, 103.53]
scale = 58
layout = "NCHW"

[outputs.logits]
classes = ["pristine", "blur"]
postprocess = ["softmax", "top_k"]
k = 1
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "preprocess.toml"
    path.write_text(text)
    return read_sidecar(path, INPUTS, OUTPUTS)


def test_everything_said_is_read(tmp_path):
    said = read(tmp_path, FULL)
    assert said.images == (
        ImageInput(
            "frame", 224, 224, "BGR", "RGB", (123.675, 116.28, 103.53), (58.0, 58.0, 58.0), "NCHW", None, 256, "center"
        ),
    )
    assert said.post == (OutputStep("logits", "softmax"), OutputStep("logits", "top_k", k=1))
    assert said.labels == {"logits": ("pristine", "blur")}


def test_what_the_model_says_need_not_be_said(tmp_path):
    (image,) = read(tmp_path, '[inputs.frame]\nsource = "image"\n').images
    assert (image.height, image.width, image.layout, image.channels) == (224, 224, "NCHW", "RGB")


def test_labels_come_from_a_file_beside(tmp_path):
    (tmp_path / "labels.txt").write_text("a\n\nb\n")
    assert read(tmp_path, '[outputs.logits]\nlabels = "labels.txt"\n').labels == {"logits": ("a", "b")}


def test_nms_names_its_boxes(tmp_path):
    (step,) = read(tmp_path, '[outputs.logits]\npostprocess = "nms"\nboxes = "boxes"\niou_threshold = 0.3\n').post
    assert (step.boxes, step.iou_threshold, step.k) == ("boxes", 0.3, 100)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[inputs.frame", "is no TOML"),
        ("[input.frame]\n", "input is unknown, did you mean inputs?"),
        ('[inputs.frame]\nsource = "image"\nsizee = [1, 2]\n', "inputs.frame.sizee is unknown, did you mean size?"),
        ('[inputs.fram]\nsource = "image"\n', "inputs.fram names no tensor of the model, did you mean frame?"),
        ("[inputs.frame]\nsize = [224, 224]\n", "inputs.frame.source is None"),
        ('[inputs.other]\nsource = "image"\n', "needs 4 axes"),
        ('[inputs.frame]\nsource = "image"\nsize = [100, 224]\n', "height 100, the model takes 224"),
        ('[inputs.frame]\nsource = "image"\nsize = 224\n', r"inputs.frame.size is 224; give \[height, width\]"),
        ('[inputs.frame]\nsource = "image"\nchannels = "GRAY"\n', "gives 1 channel.* the model takes 3"),
        ('[inputs.frame]\nsource = "image"\nmean = [1, 2]\n', "mean has 2 values"),
        ('[inputs.frame]\nsource = "image"\nscale = [1, 0, 1]\n', "scale holds 0"),
        ('[inputs.frame]\nsource = "image"\nresize = [200, 200]\n', "smaller than the size"),
        ('[inputs.frame]\nsource = "image"\nresize_shorter = 100\n', "resize_shorter is 100"),
        ('[inputs.frame]\nsource = "image"\nlayout = "CHWN"\n', "layout is 'CHWN'; it must be one of NCHW, NHWC"),
        ('[outputs.logits]\nclasses = ["one"]\n', "names 1 classes, the model gives 2"),
        ('[outputs.logits]\nlabels = "../x.txt"\n', "outside the model's folder"),
        ('[outputs.logits]\nlabels = "gone.txt"\n', "cannot be read"),
        ('[outputs.logits]\npostprocess = "softmx"\n', "'softmx', did you mean softmax?"),
        ('[outputs.logits]\npostprocess = "top_k"\nk = 0\n', "at least 1"),
        ('[outputs.logits]\npostprocess = "nms"\n', "must name the output that holds the boxes"),
        ("inputs = 3\n", "must hold one table a tensor"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, text)


def test_the_models_own_file_comes_before_the_folders(tmp_path):
    model = tmp_path / "net.onnx"
    assert find_sidecar(model) is None
    (tmp_path / "preprocess.toml").write_text("")
    assert find_sidecar(model) == tmp_path / "preprocess.toml"
    (tmp_path / "net.preprocess.toml").write_text("")
    assert find_sidecar(model) == tmp_path / "net.preprocess.toml"
