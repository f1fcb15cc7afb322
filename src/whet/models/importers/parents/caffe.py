"""Runs a Caffe net in OpenCV, which below version 5 reads prototxts and caffemodels.

OpenCV agrees with Caffe's definitions on the layers of :data:`TRUSTED` (compared with numpy rules, version 4.14); on
others it differs, ignores parameters, or orders its answer otherwise, and a net that has one is not compared with it.
"""

from pathlib import Path
from typing import Any

from whet.errors import Unsupported
from whet.models.importers.caffe.build import find_weights
from whet.models.importers.caffe.net import Layer, Net, read_net
from whet.models.importers.caffe.prototxt import parse
from whet.models.importers.caffe.table import DATA
from whet.models.importers.parents.request import Request, Samples
from whet.tensors import Array

TRUSTED = (
    frozenset(
        ("Convolution", "ConvolutionDepthwise", "Deconvolution", "Pooling", "InnerProduct", "LRN", "BatchNorm", "Scale")
    )
    | frozenset(
        ("Eltwise", "Softmax", "ReLU", "PReLU", "ELU", "ReLU6", "Sigmoid", "TanH", "AbsVal", "BNLL", "Power", "Exp")
    )
    | frozenset(
        ("Concat", "Slice", "Split", "Dropout", "Flatten", "Reshape", "Permute", "Crop", "Interp", "ShuffleChannel")
    )
)


def run(asked: Request, samples: Samples) -> Samples:
    """Run the samples.

    Raises:
        Unsupported: OpenCV is too new, or computes one of the layers otherwise than Caffe; names it.
    """
    import cv2

    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise Unsupported(f"OpenCV {cv2.__version__} has no Caffe reader; versions below 5 have")
    path = Path(asked.path)
    net = read_net(parse(path.read_bytes(), f"'{path.name}'"), f"'{path.name}'")
    refuse_untrue(net)
    weights, _ = find_weights(path, asked.options.weights)
    reader = cv2.dnn.readNetFromCaffe(str(path), *([str(weights)] if weights else []))
    return [_one(reader, net, sample, asked.outputs) for sample in samples]


def refuse_untrue(net: Net) -> None:
    """Refuse a net that OpenCV computes otherwise than Caffe.

    Raises:
        Unsupported: names the layer and what differs.
    """
    for layer in net.layers:
        reason = _untrue(layer)
        if reason:
            raise Unsupported(f"{layer.where} is computed otherwise than by Caffe: {reason}")


def _untrue(layer: Layer) -> str:
    if layer.type not in TRUSTED | DATA:
        return "its layer of this type differs or is missing"
    if layer.type == "LRN" and layer.param("lrn_param").number("k", 1.0) != 1:
        return "it ignores k"
    if layer.type == "InnerProduct" and layer.param("inner_product_param").flag("transpose", False):
        return "it ignores transpose"
    return ""


def _one(reader: Any, net: Net, sample: dict[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
    for name, value in sample.items():
        reader.setInput(value, name)
    # A top may be written again in place: the last layer that writes it holds its value.
    writers = {top: (layer.name, place) for layer in net.layers for place, top in enumerate(layer.tops)}
    asked = [name for name in outputs if name in writers]
    found = reader.forwardAndRetrieve([writers[name][0] for name in asked])
    return {name: values[writers[name][1]] for name, values in zip(asked, found, strict=True)}
