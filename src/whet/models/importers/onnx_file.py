"""ONNX of any opset: checked, external data folded in, handicaps removed; the untouched graph is kept beside."""

import shutil
from pathlib import Path

from whet.models.importers.base import Converted, Options
from whet.models.importers.onnx_clean import clean
from whet.models.importers.onnx_load import external_files, load_onnx, save_onnx
from whet.models.importers.peek import BYTES, VARINT, top_fields

# ModelProto: ir_version 1, producer 2-4, model_version 5, doc 6, graph 7, opsets 8, metadata 14, training 20,
# functions 25, configuration 26.
_VARINTS = {1, 5}
_STRINGS = {2, 3, 4, 6, 7, 8, 14, 20, 25, 26}
_NEWEST_IR = 64
"""No IR version comes near this; a larger first number is no ONNX file."""


def sniff(path: Path) -> bool:
    """Recognise a ``ModelProto``, whole or truncated, by the numbers and wire types of its top-level fields."""
    found = top_fields(path)
    if not found or found[0].number != 1 or found[0].wire != VARINT or not 0 < found[0].value < _NEWEST_IR:
        return False
    plain = all(f.number in (_VARINTS if f.wire == VARINT else _STRINGS) and f.wire in {VARINT, BYTES} for f in found)
    return plain and len(found) > 1 and any(f.number in {7, 8} for f in found)


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Write ``model.onnx`` (cleaned) and, where cleaning changed it, ``original.onnx`` (untouched)."""
    import onnx

    del options  # shapes and the wanted format are applied to every format alike, after conversion
    model = load_onnx(path)
    outside = external_files(path)
    notes = [f"keeps its weights in {len(outside)} file(s) beside it; the stored copy holds them"] if outside else []
    original = workdir / "original.onnx"
    untouched: tuple[Path, ...] = (original,)
    if outside:
        untouched = save_onnx(model, original)
    else:
        shutil.copyfile(path, original)
    cleaned = clean(model, original, workdir)
    stored = workdir / "model.onnx"
    if cleaned.changed:
        files: tuple[Path, ...] = (*save_onnx(cleaned.model, stored), *untouched)
    elif len(untouched) == 1:
        original.rename(stored)
        files = (stored,)
    else:
        files = save_onnx(model, stored)
        for file in untouched:
            file.unlink()
    return Converted(
        model=stored,
        files=files,
        format="onnx",
        recipe=f"onnx {onnx.__version__}",
        labels=cleaned.labels,
        notes=(*notes, *cleaned.notes),
        settings=cleaned.settings,
    )
