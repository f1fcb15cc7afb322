"""Files Whet recognises and refuses, each with the reason and the way on. A row is a test and a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from whet.errors import Unsupported
from whet.models.importers.base import Options
from whet.models.importers.peek import head, zip_names

_LLM = (
    "Serving language models is out of Whet's scope: use llama.cpp's server, OpenVINO Model Server with GenAI, or vLLM"
)
_GGML = (b"lmgg", b"fmgg", b"tjgg", b"algg", b"nsgg")
"""ggml, ggmf, ggjt, ggla, ggsn as little-endian 32-bit numbers."""


def _tensorrt(path: Path) -> bool:
    """A plan starts with its magic; some exporters put a length and JSON metadata in front."""
    start = head(path, 4)
    if start in {b"ftrt", b"ptrt"}:
        return True
    length = int.from_bytes(start, "little")
    if not 2 <= length <= 1 << 16 or head(path, 5)[4:] != b"{":
        return False
    return head(path, 8 + length)[4 + length :] in {b"ftrt", b"ptrt"}


def _safetensors(path: Path) -> bool:
    start = head(path, 16)
    length = int.from_bytes(start[:8], "little")
    return 2 <= length <= 100 << 20 and start[8:9] == b"{" and b'"' in start[9:]


def _hub_folder(path: Path) -> bool:
    """A folder as model hubs lay it out: ``config.json`` that names an architecture."""
    try:
        config = json.loads((path / "config.json").read_bytes()[: 1 << 20])
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and ("architectures" in config or "model_type" in config)


def _checkpoint(path: Path) -> bool:
    return any(path.glob("*.ckpt*.index")) or (path / "checkpoint").is_file() if path.is_dir() else False


def _coreml(path: Path) -> bool:
    return (path / "Manifest.json").is_file() and (path / "Data").is_dir()


def _saved_model_text(path: Path) -> bool:
    return (path / "saved_model.pbtxt").is_file()


def _executorch(path: Path) -> bool:
    return head(path, 8)[4:8] in {b"ET12", b"ET11"}


def _any_zip(path: Path) -> bool:
    return bool(zip_names(path))


_ROWS: tuple[tuple[Callable[[Path], bool], str], ...] = (
    (
        _tensorrt,
        (
            "is a TensorRT plan: opaque, and tied to one TensorRT version and GPU. "
            "Give Whet the model it was built from, usually an ONNX file"
        ),
    ),
    (lambda path: head(path, 4) == b"GGUF", f"is a GGUF language model. {_LLM}"),
    (lambda path: head(path, 4) in _GGML, f"is a ggml language model. {_LLM}"),
    (
        _safetensors,
        (
            "is a safetensors file: weights without a graph. Export the model to ONNX or torch.export (.pt2), "
            f"or give Whet its code as module:function. {_LLM}"
        ),
    ),
    (
        _hub_folder,
        (
            "is a model hub's folder: weights and a configuration, no graph. "
            f"Export it to ONNX (optimum-cli export onnx) and give that. {_LLM}"
        ),
    ),
    (
        _checkpoint,
        "is a TensorFlow training checkpoint: variables without a graph. Export a SavedModel (tf.saved_model.save)",
    ),
    (_coreml, "is a Core ML package, which only Apple's runtime reads. Give Whet the model it was converted from"),
    (_saved_model_text, "is a SavedModel in text form. Save it in binary form (saved_model.pb)"),
    (_executorch, "is an ExecuTorch program, compiled for its own runtime. Give Whet the .pt2 it was lowered from"),
    (_any_zip, "is an archive, but of no model format Whet knows. Unpack it and give the model inside"),
)

REFUSED_FILES = tuple(sentence for _, sentence in _ROWS)
"""What is said of each kind, for the documentation."""


def sniff(path: Path) -> bool:
    """Recognise any row."""
    return any(test(path) for test, _ in _ROWS)


def convert(path: Path, options: Options, workdir: Path) -> NoReturn:
    """Refuse, always.

    Raises:
        Unsupported: says what the file is, why it cannot be served, and what to do.
    """
    del options, workdir
    sentence = next(sentence for test, sentence in _ROWS if test(path))
    raise Unsupported(f"{path} {sentence}")
