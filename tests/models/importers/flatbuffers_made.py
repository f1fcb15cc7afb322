"""Writes FlatBuffers from plain values, and small TensorFlow Lite files; for the reader's tests and the fuzzer.

A table is ``{field: (kind, value)}``; kinds are numbers (``u8`` ``i8`` ``u32`` ``i32`` ``i64`` ``f32``), ``table``,
``tables``, ``text``, ``bytes``, and ``[f32]`` and the like for vectors of numbers.
"""

import io
import struct
import zipfile

FORMATS = {"u8": "B", "i8": "b", "u32": "I", "i32": "i", "i64": "q", "f32": "f"}


def pad(out, width):
    out += bytes(-len(out) % width)


def put_table(out, table):
    """Append a table and all below it; return where it begins."""
    fields = sorted(table)
    pad(out, 8)
    size = 4 + 2 * (fields[-1] + 1 if fields else 0)
    out += bytes(-(len(out) + size) % 8)
    vtable = len(out)
    offsets = {field: 8 * (1 + place) for place, field in enumerate(fields)}
    slots = [offsets.get(field, 0) for field in range(fields[-1] + 1 if fields else 0)]
    out += struct.pack(f"<HH{len(slots)}H", size, 8 * (1 + len(fields)), *slots)
    start = len(out)
    out += struct.pack("<i", start - vtable) + bytes(4 + 8 * len(fields))
    for field in fields:
        kind, value = table[field]
        place = start + offsets[field]
        if kind in FORMATS:
            struct.pack_into("<" + FORMATS[kind], out, place, value)
        else:
            target = put_value(out, kind, value)
            struct.pack_into("<I", out, place, target - place)
    return start


def put_value(out, kind, value):
    if kind == "table":
        return put_table(out, value)
    pad(out, 8)
    if kind in ("text", "bytes"):
        raw = value.encode() if isinstance(value, str) else value
        out += struct.pack("<I", len(raw)) + raw + b"\0"
        return len(out) - len(raw) - 5
    if kind == "tables":
        start = len(out)
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for index, one in enumerate(value):
            place = start + 4 + 4 * index
            struct.pack_into("<I", out, place, put_table(out, one) - place)
        return start
    out += bytes(4)  # so that elements of eight bytes lie on eight
    start = len(out)
    out += struct.pack(f"<I{len(value)}{FORMATS[kind[1:-1]]}", len(value), *value)
    return start


def flatbuffer(table, identifier=b"TFL3"):
    out = bytearray(b"\0\0\0\0" + identifier)
    start = put_table(out, table)
    struct.pack_into("<I", out, 0, start)
    return bytes(out)


def tensor(name, kind=0, shape=(1, 8, 8, 3), scale=None, zero_point=0):
    """A ``Tensor``; kind 0 is float32, 3 uint8, 9 int8."""
    made = {0: ("[i32]", shape), 1: ("i8", kind), 3: ("text", name)}
    if scale is not None:
        made[4] = ("table", {2: ("[f32]", [scale]), 3: ("[i64]", [zero_point])})
    return made


def tensor_metadata(mean=(), std=(), image=True, labels=""):
    """A ``TensorMetadata``."""
    made = {0: ("text", "said")}
    if image:
        made[3] = ("table", {0: ("u8", 2), 1: ("table", {0: ("i8", 1)})})
    if mean or std:
        made[4] = ("tables", [{0: ("u8", 1), 1: ("table", {0: ("[f32]", mean), 1: ("[f32]", std)})}])
    if labels:
        made[6] = ("tables", [{0: ("text", labels), 2: ("i8", 2)}])
    return made


def metadata(inputs, outputs):
    return flatbuffer({3: ("tables", [{2: ("tables", inputs), 3: ("tables", outputs)}])}, b"M001")


def model_table(tensors, inputs, outputs, said=None):
    """A ``Model`` of one subgraph without operators; ``said`` is the content of the metadata buffer."""
    graph = {0: ("tables", tensors), 1: ("[i32]", inputs), 2: ("[i32]", outputs)}
    table = {0: ("u32", 3), 2: ("tables", [graph]), 4: ("tables", [{}])}
    if said is not None:
        table[4] = ("tables", [{}, {0: ("bytes", said)}])
        names = ("min_runtime_version", "TFLITE_METADATA")
        table[6] = ("tables", [{0: ("text", name), 1: ("u32", place)} for place, name in enumerate(names)])
    return table


def model(tensors, inputs, outputs, said=None):
    return flatbuffer(model_table(tensors, inputs, outputs, said))


def with_archive(data, files):
    """Append a zip archive, as the metadata tools do with label files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data + stream.getvalue()
