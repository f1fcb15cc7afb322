"""Write the trained network as ``model.onnx`` with its ``preprocess.toml``, and check both against PyTorch.

    python examples/video_quality/export.py

Norms are folded into their convolutions, the batch dimension is free, names are ``frame``, ``logits``, ``quality``.
"""

import argparse
import copy
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from degrade import CLASSES
from model import MEAN, SCALE, SIZE, WEIGHTS, example_input, normalise, trained
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

HERE = Path(__file__).resolve().parent
OPSET, LIMIT_BYTES, TOLERANCE = 18, 10_000_000, 1e-4


def fold(model: nn.Module) -> nn.Module:
    """A copy in which every norm has become part of the convolution before it."""
    folded = copy.deepcopy(model)
    for parent in folded.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        children = list(parent.named_children())
        for (name, layer), (after, norm) in pairwise(children):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, after, nn.Identity())
    return folded


def to_onnx(model: nn.Module) -> onnx.ModelProto:
    """Trace a folded network; the exporter's notes about this machine's source files are removed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        program = torch.onnx.export(
            model,
            (example_input(2),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["frame"],
            output_names=["logits", "quality"],
            opset_version=OPSET,
            verbose=False,
        )
    proto = program.model_proto
    for owner in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.value_info):
        del owner.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    proto.graph.name = "video_quality"
    return proto


def preprocess_toml() -> str:
    """What is around the network, for whoever serves it."""
    classes = ", ".join(f'"{name}"' for name in CLASSES)
    return f"""[inputs.frame]
source = "image" # uint8 pictures, height x width x colour
size = [{SIZE}, {SIZE}] # the network judges texture at pixel scale: frames are cut to size, never shrunk
crop = "center"
channels = "RGB"
mean = [{MEAN}, {MEAN}, {MEAN}] # subtracted, in units of 0 to 255
scale = [{SCALE}, {SCALE}, {SCALE}] # then divided by
layout = "NCHW"

[outputs.logits]
classes = [{classes}]
postprocess = "softmax"

[outputs.quality]
postprocess = "none" # already 0 to 1, higher is better
"""


def difference(path: Path, model: nn.Module) -> float:
    """Largest difference of any output from PyTorch's, over random frames at two batch sizes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (1, 5):
        frames = np.random.default_rng(batch).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
        x = normalise(frames).contiguous()
        with torch.inference_mode():
            wanted = model(x)
        got = session.run(["logits", "quality"], {"frame": x.numpy()})
        worst = max(worst, *(float(np.abs(g - w.numpy()).max()) for g, w in zip(got, wanted, strict=True)))
    return worst


def main(arguments: list[str] | None = None) -> int:
    """Export, check, replace; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="what train.py wrote")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "model.onnx")
    given = parser.parse_args(arguments)
    model = trained(given.weights)
    proto = to_onnx(fold(model))
    onnx.checker.check_model(proto, full_check=True)
    beside = given.output.with_name(f"~{given.output.name}")
    onnx.save(proto, beside)
    size, worst = beside.stat().st_size, difference(beside, model)
    if size > LIMIT_BYTES or worst > TOLERANCE:
        beside.unlink()
        print(f"export: {size} bytes (limit {LIMIT_BYTES}), off by {worst:.2e} (limit {TOLERANCE})", file=sys.stderr)
        return 1
    beside.replace(given.output)
    (given.output.parent / "preprocess.toml").write_text(preprocess_toml(), encoding="utf-8")
    kinds = sorted({node.op_type for node in proto.graph.node})
    print(f"{given.output.name}: {size} bytes, opset {OPSET}, {', '.join(kinds)}; off by at most {worst:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
