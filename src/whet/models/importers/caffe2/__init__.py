"""Caffe2: a predict_net and an init_net become ONNX.

The way of a model: ``netdef`` reads both nets from the wire -> ``fills`` runs the init_net, whose operators only fill
blobs -> ``build`` finds the inputs, walks the predict_net and calls the function ``layers`` names for each operator,
every one of which knows the shapes -> the graph is written with a free batch axis where the net allows it.
"""

import re
from pathlib import Path

from whet.errors import ModelError, Unsupported
from whet.models.importers import wire
from whet.models.importers.base import Converted, Options
from whet.models.importers.caffe2.build import build
from whet.models.importers.caffe2.fills import FILLS, fill
from whet.models.importers.caffe2.layers import SUPPORTED
from whet.models.importers.caffe2.netdef import NetDef, parse_net
from whet.models.importers.own import written

__all__ = ["FILLS", "SUPPORTED", "accompanies", "convert", "sniff"]

_SNIFFED_BYTES = 1 << 16
_TYPE = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{1,63}\Z")


def sniff(path: Path) -> bool:
    """Recognise a NetDef by its first operator: blobs written, and a type that is a word."""
    try:
        with path.open("rb") as stream:
            head = memoryview(stream.read(_SNIFFED_BYTES))
    except OSError:
        return False
    for number, kind, value in _front(head):
        if kind != wire.LEN or number not in (1, 2):
            return False
        if number == 2:
            return _is_operator(value)
    return False


def accompanies(path: Path) -> bool:
    """Tell an init_net from a predict_net: it begins by filling weights."""
    with path.open("rb") as stream:
        front = _front(memoryview(stream.read(_SNIFFED_BYTES)))
    first = next((value for number, _, value in front if number == 2), memoryview(b""))
    return any(number == 4 and bytes(value).decode(errors="replace") in FILLS for number, _, value in _front(first))


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Write ``model.onnx``.

    Raises:
        Unsupported: operators or arguments Whet does not read, or an init_net in place of the predict_net.
        ModelError: a damaged file, missing weights, a missing input shape, shapes that do not fit.
        UsageError: options that name no input.
    """
    net = _read(path)
    if all(op.type in FILLS for op in net.operators):
        raise Unsupported(f"'{path.name}' only fills weights: it is an init_net; give the predict_net beside it")
    weights = find_init(path, options.weights)
    blobs = {} if weights is None else fill(_read_init(weights), f"'{weights.name}'")
    return written(lambda extra: build(net, blobs, options.input_shapes, extra), path, options, workdir, "whet-caffe2")


def find_init(predict: Path, given: Path | None) -> Path | None:
    """Return the init_net of a predict_net: the one given, else the file named ``init`` where this says ``predict``."""
    if given is not None:
        return given
    beside = predict.with_name(predict.name.replace("predict", "init"))
    return beside if beside != predict and beside.is_file() else None


def _read(path: Path) -> NetDef:
    try:
        return parse_net(memoryview(path.read_bytes()), f"'{path.name}'")
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}; check the path") from error


def _read_init(path: Path) -> NetDef:
    net = _read(path)
    if net.operators and not any(op.type.endswith("Fill") for op in net.operators):
        raise ModelError(f"weights '{path.name}' fill no blob: they are no init_net; name it by --weights")
    return net


def _front(buffer: memoryview) -> list[tuple[int, int, memoryview]]:
    """Return the length-delimited and other fields at the front; the last one may be cut off by the end."""
    found: list[tuple[int, int, memoryview]] = []
    position = 0
    while position < len(buffer) and len(found) < 64:
        try:
            tag, position = wire.varint(buffer, position, "")
            length, position = wire.varint(buffer, position, "")
        except ModelError:
            break
        if tag & 7 != wire.LEN:
            found.append((tag >> 3, tag & 7, buffer[:0]))
            break
        found.append((tag >> 3, wire.LEN, buffer[position : position + length]))
        position += length
    return found


def _is_operator(buffer: memoryview) -> bool:
    fields = _front(buffer)
    types = [bytes(value) for number, kind, value in fields if number == 4 and kind == wire.LEN]
    written = any(number == 2 for number, _, _ in fields)
    argued = all(kind == wire.LEN for number, kind, _ in fields if number == 5)  # a number in Caffe's V1 layers
    return written and argued and len(types) == 1 and bool(_TYPE.match(types[0]))
