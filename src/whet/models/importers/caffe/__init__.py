"""Caffe: a prototxt and a caffemodel become ONNX.

The way of a model: ``prototxt`` reads the text without a schema -> ``net`` upgrades V0 and V1 layers and leaves out
what only training needs -> ``weights`` finds the learned blobs as views of the file -> ``build`` walks the layers and
calls the function ``table`` names for each type (``spatial``, ``pointwise``, ``rearrange``, ``ssd``), every one of
which knows the shapes and refuses by name -> the graph is written with a free batch axis where the net allows it.
``image`` turns ``transform_param`` into preprocessing.
"""

import re
from dataclasses import replace
from pathlib import Path

from whet.errors import ModelError, Unsupported
from whet.models.importers.base import Converted, Options
from whet.models.importers.caffe.build import build, find_weights, input_shapes
from whet.models.importers.caffe.image import image_inputs
from whet.models.importers.caffe.net import Net, read_net
from whet.models.importers.caffe.prototxt import parse
from whet.models.importers.caffe.table import REFUSED, SUPPORTED
from whet.models.importers.caffe.weights import looks_like_weights, read_weights
from whet.models.importers.own import written

__all__ = ["REFUSED", "SUPPORTED", "accompanies", "convert", "sniff"]

_LAYER = re.compile(rb"^[^#\n\"']*?\blayers?\s*:?\s*\{", re.MULTILINE)
_SNIFFED_BYTES = 1 << 16


def sniff(path: Path) -> bool:
    """Recognise a prototxt: text with a ``layer {`` or ``layers {``; also a caffemodel, which is refused by name."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_SNIFFED_BYTES)
    except OSError:
        return False
    return (b"\0" not in head and bool(_LAYER.search(head))) or looks_like_weights(path)


def accompanies(path: Path) -> bool:
    """Tell a caffemodel from a prototxt."""
    return looks_like_weights(path)


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Write ``model.onnx``.

    Raises:
        Unsupported: layers or parameters Whet does not read, or a caffemodel in place of the prototxt.
        ModelError: a damaged file, weights that do not fit, shapes that do not fit.
        UsageError: options that name no input.
    """
    if looks_like_weights(path):
        beside = ", ".join(sorted(child.name for child in path.parent.glob("*.prototxt"))) or "none lies beside it"
        raise Unsupported(f"'{path.name}' holds the weights; give the prototxt that describes the net ({beside})")
    try:
        net = read_net(parse(path.read_bytes(), f"'{path.name}'"), f"'{path.name}'")
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}; check the path") from error
    weights_path, said = find_weights(path, options.weights)
    weights = None if weights_path is None else read_weights(weights_path)
    converted = written(
        lambda extra: build(net, weights, said, options.input_shapes, extra), path, options, workdir, "whet-caffe"
    )
    images, notes = image_inputs(net, input_shapes(net, options.input_shapes), path.parent)
    return replace(converted, images=images, notes=(*_notes(net), *notes))


def _notes(net: Net) -> list[str]:
    notes = []
    if net.version < 2:
        notes.append(f"written for Caffe's V{net.version} layers, upgraded to V2")
    if net.skipped:
        listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(net.skipped.items()))
        notes.append(f"layers for training only are left out: {listed}")
    return notes
