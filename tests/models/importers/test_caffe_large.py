"""A caffemodel of 100 MB is imported holding it about once."""

import json
import subprocess
import sys

import numpy as np

from whet.models.importers import onnx_graph
from whet.models.importers.onnx_graph import Graph

CHILD = """
import json, sys
from pathlib import Path
import numpy, onnx
from whet.models.importers import caffe
from whet.models.importers.base import Options

def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))

folder = Path(sys.argv[1])
idle = status("VmRSS:")
converted = caffe.convert(folder / "net.prototxt", Options(), folder)
size = (folder / "net.caffemodel").stat().st_size
print(json.dumps({"size": size, "above": status("VmHWM:") - idle, "written": converted.model.stat().st_size}))
"""


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


def test_a_large_model_is_held_once(tmp_path):
    weight = np.random.default_rng(0).normal(0, 0.02, (512, 512, 3, 3)).astype("<f4")
    text = 'input: "data" input_shape { dim: 1 dim: 512 dim: 8 dim: 8 }\n'
    with (tmp_path / "net.caffemodel").open("wb") as out:
        for i in range(11):
            out.write(field(100, field(1, b"c%d" % i) + field(7, field(5, weight.tobytes()))))
            bottom = f"c{i - 1}" if i else "data"
            params = "num_output: 512 kernel_size: 3 pad: 1 bias_term: false"
            text += f'layer {{ name: "c{i}" type: "Convolution" bottom: "{bottom}" top: "c{i}"'
            text += f" convolution_param {{ {params} }} }}\n"
    (tmp_path / "net.prototxt").write_text(text)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout)
    assert found["size"] > 100e6
    assert found["written"] > 100e6
    assert found["above"] < 3 * found["size"]


def test_weights_past_the_bound_of_protobuf_go_beside_the_model(tmp_path, run_net, monkeypatch):
    monkeypatch.setattr(onnx_graph, "EXTERNAL_BYTES", 100)
    graph = Graph("net")
    x = graph.input("x", (1, 4))
    first = graph.op("Add", [x, graph.constant(np.arange(4), "a")], (1, 4))
    graph.output("y", graph.op("Mul", [first, graph.constant(np.full((30, 4), 2), "b")], (30, 4)))
    files = graph.save(tmp_path / "model.onnx", free=False)
    assert [path.name for path in files] == ["model.onnx", "model.onnx.data"]
    value = np.ones((1, 4), np.float32)
    for runtime in ("onnxruntime", "openvino"):
        (y,) = run_net(runtime, files[0], value).values()
        np.testing.assert_array_equal(y, np.tile((np.arange(4) + 1) * 2, (30, 1)))
