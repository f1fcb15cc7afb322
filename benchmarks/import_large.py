"""Imports a Caffe model of 100 MB: memory above an idle process with the same libraries, and time.

Two ways are measured, each in fresh processes: ``convert`` is the importer alone, from the prototxt and the caffemodel
to the ONNX file; ``import`` is all that ``whet import`` does, with the proof of the batch in both runtimes and the
comparison of their answers, so its peak holds each runtime's own copy of the weights.

    .venv/bin/python benchmarks/import_large.py [--quick] [--json FILE]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness import Row, benchmark, ratio

LAYERS, CHANNELS = 11, 512
PRELUDE = """
import json, resource, sys, time
from pathlib import Path
import numpy, onnx, onnxruntime, openvino
from whet.models.importers import Options, caffe, import_model, worker
from whet.models.importers.caffe import build
from whet.models.verify import import_and_verify
def peak(who): return resource.getrusage(who).ru_maxrss << 10
"""
IDLE = PRELUDE + "openvino.Core(); print(json.dumps([peak(resource.RUSAGE_SELF), 0]))"
CONVERT = (
    PRELUDE
    + """
folder, begun = Path(sys.argv[1]), time.perf_counter()
caffe.convert(folder / "net.prototxt", Options(), folder)
print(json.dumps([peak(resource.RUSAGE_SELF), time.perf_counter() - begun]))
"""
)
IMPORT = (
    PRELUDE
    + """
folder, begun = Path(sys.argv[1]), time.perf_counter()
import_and_verify(folder / "net.prototxt", Options(), folder / "store")
print(json.dumps([max(map(peak, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))), time.perf_counter() - begun]))
"""
)
"""The larger of this process, which compares, and of the isolated ones it started, which convert and prove."""


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def write_net(folder: Path) -> int:
    """Write a chain of convolutions as prototxt and caffemodel; return the caffemodel's bytes."""
    weight = np.random.default_rng(0).normal(0, 0.02, (CHANNELS, CHANNELS, 3, 3)).astype("<f4")
    text = f'input: "data" input_shape {{ dim: 1 dim: {CHANNELS} dim: 8 dim: 8 }}\n'
    with (folder / "net.caffemodel").open("wb") as out:
        for i in range(LAYERS):
            out.write(field(100, field(1, b"c%d" % i) + field(7, field(5, weight.tobytes()))))
            bottom = f"c{i - 1}" if i else "data"
            params = f"num_output: {CHANNELS} kernel_size: 3 pad: 1 bias_term: false"
            text += f'layer {{ name: "c{i}" type: "Convolution" bottom: "{bottom}" top: "c{i}"'
            text += f" convolution_param {{ {params} }} }}\n"
    (folder / "net.prototxt").write_text(text)
    return (folder / "net.caffemodel").stat().st_size


def measured(code: str) -> tuple[int, int, float]:
    """Return the caffemodel's bytes, the peak of the process that ran ``code`` beside it, and its seconds."""
    with tempfile.TemporaryDirectory() as name:
        size = write_net(Path(name))
        done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"import_large: {done.stderr.strip()[-400:]}")
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return size, peak, seconds


def main() -> None:
    bench = benchmark("import_large", __doc__)
    idle = min(measured(IDLE)[1] for _ in range(2))
    for case, code in (("convert", CONVERT), ("import", IMPORT)):
        if not bench.wants(case):
            continue
        runs = [measured(code) for _ in range(1 if bench.quick else 5)]
        size = runs[0][0]
        above = [(peak - idle, size) for _, peak, _ in runs]
        bench.add(Row(case, f"peak above idle / {size / 1e6:.0f} MB", *ratio(above), "ratio", 3.0, higher=False))
        bench.add(Row(case, "time", *ratio([(seconds, 1.0) for _, _, seconds in runs]), "s", 10.0, higher=False))
    bench.close()


if __name__ == "__main__":
    main()
