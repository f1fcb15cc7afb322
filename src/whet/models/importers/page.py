"""Writes ``docs/formats.md`` from the format table and the importers' layer tables, so that the page cannot lie."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from whet.models.importers import FORMATS
from whet.models.importers.base import Format
from whet.models.importers.onnx_clean import HEALTHY_OPSET
from whet.models.importers.openvino_ir import OLDEST
from whet.models.importers.parents import ABSENT, WAYS
from whet.models.importers.refused import REFUSED_FILES

OWN = ("caffe", "mxnet", "caffe2")
"""Formats that Whet reads itself, layer by layer."""

_HEAD = """# Which model formats does Whet take?

This page is written by `python -m whet.models.importers > docs/formats.md`; a test holds it to the code.

Everything that takes a model takes any of these: `whet import`, `inspect`, `optimize`, `serve`. A file is recognised by
what it holds, never by its ending. It is converted in a process of its own, under a time and a memory limit, because
model files are untrusted; nothing is unpickled and no code from a file is run unless a flag allows it.

"""
_AFTER = f"""
What every import does after converting:

- **The batch axis is freed and proven.** The net must give on a batch of two what it gives on two batches of one, in
  every runtime that opens it; otherwise it serves one request at a time, and `whet inspect` says why.
- **Handicaps are named and taken out.** An ONNX file that lists its initializers as inputs, or whose opset is below
  {HEALTHY_OPSET}, is cleaned where the outputs prove equal; the untouched file is kept beside as `original.onnx`.
- **A net without inputs is refused**: it computes a constant, mostly because a converter folded its input away.
- **OpenVINO IR** is read from version {OLDEST} on; older versions are refused by number.
- **TorchScript** says neither shapes nor types of inputs. Shapes come from `--input-shape`; an input that is only used
  as ids (an embedding's) is taken as INT64, every other as FP32, and the import says so.
- **A `.pdiparams` belongs to its `.pdmodel` by name only.** It holds tensors one after another, without names or a hash
  of the program, so the weights of another model with the same shapes in the same order are taken without a word, and
  nothing in the two files could tell. What tells is the comparison with Paddle (below) on answers you know, and the
  accuracy on your data. Other shapes, or too few bytes, are refused; more bytes than the program takes only Paddle
  itself refuses.
- **A TensorFlow signature** is chosen by `--signature`. Where it takes serialized `tf.Example`, its dense features
  become the inputs. Signatures that change state are refused, naming the operator.
- **What a format says around its net is carried over**: Caffe's `transform_param`, TensorFlow Lite's metadata (the
  normalization of pictures, labels) and quantization, Keras' preprocessing layers. `whet inspect` shows it.
- **A quantised net takes pictures too**: a `uint8` input as they are, an `int8` one where its metadata says the
  normalization: pixels are normalized, quantised, rounded and kept within -128 to 127, in the graph or in numpy alike.
  An `int8` input without metadata takes levels; say `mean` and `scale` in `preprocess.toml` to send it pictures.
- **What surrounds the net** may also be said in `preprocess.toml` beside the model (or `<model>.preprocess.toml`): how
  pictures become inputs, what the outputs mean. Unknown keys are errors that name the path.
"""

_FUZZED = """
## How the parsers were tried

Whet's own parsers read strangers' bytes, so each was thrown 1,000,000 mutated files, of which six in ten keep the
framing valid: `scripts/fuzz_parsers --inputs 1000000` (26 November 2026, CPython 3.11; each in five runs of 200,000,
seeds 1 to 5). Nothing crashed or hung, and every error was of Whet's own tree. A first run of the NetDef reader found
one: an LRN whose power no float holds ended in an OverflowError. It was corrected, and the whole run repeated.

| parser | lines reached | slowest input | peak memory of the process |
|---|---|---|---|
| prototxt (Caffe's text) | 95-98 % | 42 ms | 40 MB |
| wire (protobuf, caffemodels) | 97-99 % | 22 ms | 41 MB |
| ndarray (MXNet's params) | 100 % | 7 ms | 40 MB |
| symbol (MXNet's graph) | 97 % | 32 ms | 40 MB |
| netdef (Caffe2) | 92-98 % | 114 ms | 103 MB |
| savedmodel (signatures, `tf.Example`) | 95-100 % | 358 ms | 40 MB |
| tflite (metadata) | 99-100 % | 24 ms | 41 MB |

Times are of a loaded machine at the lowest priority. A short run of each is part of the test suite.
"""


def render() -> str:
    """Return the whole page."""
    parts = [_HEAD, _formats(), _AFTER, _compared(), _refused()]
    parts += [_layers(next(row for row in FORMATS if row.name == name)) for name in OWN]
    return "".join([*parts, _FUZZED])


def _formats() -> str:
    lines = ["| format | files | read by | needs |", "|---|---|---|---|"]
    for row in FORMATS:
        if row.name != "refused":
            needs = f"`pip install 'whet[{row.needs}]'`" if row.needs else "nothing"
            lines.append(f"| `{row.name}` | {row.summary} | {row.route} | {needs} |")
    return "\n".join(lines) + "\n"


def _compared() -> str:
    """Return how ``whet import`` checks each format, from the table of parents."""
    lines = ["\n## How an import is checked\n"]
    lines += [
        "What came out runs in OpenVINO and, as ONNX, in ONNX Runtime, at f32 on the same samples; the file it came"
    ]
    lines += [
        "from runs where its framework is installed. A difference past `--tolerance` refuses the import. What could"
    ]
    lines += ["not be run is said in the output.\n", "| format | its parent runs in |", "|---|---|"]
    for row in FORMATS:
        if row.name in WAYS:
            way = WAYS[row.name]
            remedy = f" (`{way.remedy}`)" if way.remedy else ""
            lines.append(f"| `{row.name}` | {way.framework}{remedy} |")
        elif row.name in ABSENT:
            lines.append(f"| `{row.name}` | nothing: {ABSENT[row.name]} |")
    return "\n".join(lines) + "\n"


def _refused() -> str:
    lines = ["\n## Recognised and refused\n", "| a file that | why, and where to go |", "|---|---|"]
    for sentence in REFUSED_FILES:
        what, _, why = sentence.partition(": ") if ": " in sentence.split(". ")[0] else sentence.partition(". ")
        lines.append(f"| {what.rstrip('.')} | {why} |")
    return "\n".join(lines) + "\n"


def _layers(row: Format) -> str:
    module: Any = importlib.import_module(row.module)
    lines = [f"\n## {row.summary}: layers\n", "| layer | how |", "|---|---|"]
    lines += [f"| `{name}` | {_how(function)} |" for name, function in sorted(module.SUPPORTED.items())]
    refused = getattr(module, "REFUSED", {})
    if refused:
        lines += ["", "Refused by name, all at once, with counts:", "", "| layer | why |", "|---|---|"]
        lines += [f"| `{name}` | {why} |" for name, why in sorted(refused.items())]
    return "\n".join(lines) + "\n"


def _how(function: Callable[..., Any]) -> str:
    """Return the first line of what says how: the function's docstring, or that of what a partial wraps."""
    inner = getattr(function, "func", function)
    text = inspect.getdoc(inner) or ""
    return text.splitlines()[0].replace("|", "\\|") if text else "as ONNX has it"
