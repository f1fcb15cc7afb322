"""MXNet: a symbol file and a ``.params`` file become ONNX.

The way of a model: ``symbol`` reads the graph (versions 0.8 to 1.9) -> ``ndarray`` finds the arrays as views of the
file (versions 0 to 3) -> ``build`` walks the nodes and calls the function ``table`` names for each operator
(``layers``, ``tensors``), every one of which knows the shapes -> the graph is written with a free batch axis where the
net allows it. A symbol holds no input shape: the user gives it.
"""

import re
from pathlib import Path

from whet.errors import ModelError, Unsupported
from whet.models.importers.base import Converted, Options
from whet.models.importers.mxnet.build import build
from whet.models.importers.mxnet.ndarray import LIST_MAGIC, read_params
from whet.models.importers.mxnet.symbol import parse_symbol
from whet.models.importers.mxnet.table import SUPPORTED
from whet.models.importers.own import written

__all__ = ["SUPPORTED", "accompanies", "convert", "sniff"]

_SNIFFED_BYTES = 1 << 12
_SYMBOL = re.compile(rb'\A\s*\{\s*"nodes"\s*:\s*\[\s*\{(?=[^}]*"op"\s*:)(?=[^}]*"name"\s*:)')


def sniff(path: Path) -> bool:
    """Recognise a symbol by its first node; also a ``.params`` file by its magic number, which is refused by name."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_SNIFFED_BYTES)
    except OSError:
        return False
    return bool(_SYMBOL.match(head)) or _is_params(head)


def accompanies(path: Path) -> bool:
    """Tell a ``.params`` file from a symbol."""
    with path.open("rb") as stream:
        return _is_params(stream.read(24))


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Write ``model.onnx``.

    Raises:
        Unsupported: operators or parameters Whet does not read, or a ``.params`` file in place of the symbol.
        ModelError: a damaged file, missing weights, a missing input shape, shapes that do not fit.
        UsageError: options that name no input.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}; check the path") from error
    if _is_params(data):
        beside = ", ".join(sorted(child.name for child in path.parent.glob("*-symbol.json"))) or "none lies beside it"
        raise Unsupported(f"'{path.name}' holds the weights; give the symbol that describes the net ({beside})")
    symbol = parse_symbol(data, f"'{path.name}'")
    weights, said = find_params(path, options.weights)
    params = {} if weights is None else read_params(weights)
    return written(
        lambda extra: build(symbol, params, said, options.input_shapes, extra), path, options, workdir, "whet-mxnet"
    )


def find_params(symbol: Path, given: Path | None) -> tuple[Path | None, str]:
    """Return the arrays of a symbol and words about them.

    They are those given, else ``NAME-0012.params`` of ``NAME-symbol.json`` with the highest epoch, else
    ``NAME.params``, else the only ``.params`` in the folder.
    """
    if given is not None:
        return given, f"the weights '{given.name}'"
    stem = symbol.stem.removesuffix("-symbol")
    found = sorted(path for path in symbol.parent.glob("*.params") if path.is_file())
    epochs = [path for path in found if re.fullmatch(re.escape(stem) + r"-\d+", path.stem)]
    epochs.sort(key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    best = [*epochs[-1:], *(path for path in found if path.stem == stem), *(found if len(found) == 1 else [])]
    if best:
        return best[0], f"the weights '{best[0].name}'"
    if not found:
        return None, f"no .params file lies beside '{symbol.name}' (name it: --weights FILE): the weights"
    names = ", ".join(path.name for path in found[:8])
    return None, f"several .params files lie beside '{symbol.name}' ({names}; name one: --weights FILE): the weights"


def _is_params(data: bytes) -> bool:
    return len(data) >= 24 and int.from_bytes(data[:8], "little") == LIST_MAGIC
