"""Every model format Whet knows, and the one way in: recognise by content, convert in isolation, check, seal.

To add a format: one file (or package) that offers ``sniff`` and ``convert``, and one row of :data:`FORMATS`.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.errors import ModelError, OutputError, Unsupported, UsageError
from whet.models.artifact import MANIFEST, Artifact, Lineage, hash_path, load_artifact, seal
from whet.models.importers import isolated, worker
from whet.models.importers.base import Converted, Format, Options
from whet.models.importers.isolated import Limits
from whet.models.importers.peek import describe
from whet.models.importers.settle import Settled
from whet.models.sidecar import Surroundings, find_sidecar, read_sidecar, with_labels

__all__ = ["FORMATS", "Converted", "Format", "Limits", "Options", "import_model", "recognise"]

_HERE = "whet.models.importers"
_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

FORMATS: tuple[Format, ...] = (
    Format(
        "onnx",
        "ONNX, any opset, external data",
        f"{_HERE}.onnx_file",
        "native in both runtimes, where its opset allows",
    ),
    Format(
        "openvino-ir",
        "OpenVINO IR, version 10 and 11",
        f"{_HERE}.openvino_ir",
        "native in OpenVINO",
        takes=("weights",),
    ),
    Format(
        "tf-savedmodel",
        "TensorFlow SavedModel, any signature",
        f"{_HERE}.tf_savedmodel",
        "OpenVINO front end",
        takes=("signature",),
    ),
    Format("tflite", "TensorFlow Lite, float, uint8 and int8", f"{_HERE}.tflite", "OpenVINO front end"),
    Format("keras", "Keras .keras and HDF5, versions 1 to 3", f"{_HERE}.keras_file", "Keras on OpenVINO", "keras"),
    Format("torch", "PyTorch .pt2 and TorchScript", f"{_HERE}.torch_file", "OpenVINO front end", "torch"),
    Format("torch-entry", "PyTorch module:function", f"{_HERE}.torch_entry", "torch.export, OpenVINO", "torch"),
    Format("paddle", "PaddlePaddle .pdmodel", f"{_HERE}.paddle_file", "OpenVINO front end", takes=("weights",)),
    Format(
        "paddle-pir",
        "PaddlePaddle PIR .json",
        f"{_HERE}.paddle_pir",
        "paddle2onnx in an environment of its own",
        takes=("weights",),
    ),
    Format("caffe", "Caffe prototxt and caffemodel", f"{_HERE}.caffe", "own importer to ONNX", takes=("weights",)),
    Format("mxnet", "MXNet symbol and params", f"{_HERE}.mxnet", "own importer to ONNX", takes=("weights",)),
    Format("caffe2", "Caffe2 predict_net and init_net", f"{_HERE}.caffe2", "own importer to ONNX", takes=("weights",)),
    Format("tf-frozen", "TensorFlow frozen graph", f"{_HERE}.tf_frozen", "OpenVINO front end"),
    Format("trees", "XGBoost JSON and UBJSON, LightGBM text", f"{_HERE}.trees", "onnxmltools", "sklearn"),
    Format("sklearn", "Pickles of scikit-learn, XGBoost, LightGBM", f"{_HERE}.sklearn_file", "skl2onnx", "sklearn"),
    Format("refused", "TensorRT plans, GGUF, safetensors, ...", f"{_HERE}.refused", "recognised and refused"),
)
"""In the order in which they are asked: stricter sniffers first."""


def recognise(path: Path) -> Format:
    """Return the row of :data:`FORMATS` that ``path`` belongs to; reads little, loads no runtime.

    Raises:
        ModelError: no such file, an empty one, or one that may not be read.
        Unsupported: nothing Whet knows; lists what it knows and what the file starts with.
    """
    if not path.exists() and _ENTRY.fullmatch(str(path)):
        return next(row for row in FORMATS if row.name == "torch-entry")
    if not path.exists():
        raise ModelError(f"{path} does not exist; give a model file or folder, or module:function")
    if path.is_fifo() or path.is_socket() or path.is_char_device() or path.is_block_device():
        raise ModelError(f"{path} is a pipe, socket or device; give a model file or folder")
    try:
        empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
        if not path.is_dir():
            path.open("rb").close()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if empty:
        raise ModelError(f"{path} is empty; copy or export the model again")
    for row in FORMATS:
        if row.sniff(path):
            return row
    known = ", ".join(row.name for row in FORMATS if row.name != "refused")
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir())
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise Unsupported(f"{path} is a folder without saved_model.pb (it holds {shown}). Known formats: {known}")
    raise Unsupported(f"{path} is in no format Whet knows: {describe(path)}. Known formats: {known}")


def import_model(path: Path, options: Options, store: Path, limits: Limits | None = None) -> Artifact:
    """Turn a model file of any known format into a sealed artifact in ``store``.

    The conversion, the proof that batching is allowed and the reading back of specs run in a process of their own
    (see :mod:`whet.models.importers.isolated`); this process loads no runtime. A folder that already is an artifact is
    loaded as it lies. Nothing is left in ``store`` when anything fails.

    Raises:
        ModelError: missing, damaged, or past ``limits``.
        Unsupported: recognised and refused, or not recognised.
        DataError: the preprocessing file beside the model does not fit it.
        MissingExtra: the format needs an optional package set.
        OutputError: ``store`` cannot be written.
        UsageError: ``options`` says what a model of this format does not have.
    """
    if (path / MANIFEST).is_file():
        return load_artifact(path)
    row = recognise(path)
    _refuse_senseless(path, row, options)
    with _workdir(store) as workdir:
        request = worker.encode(worker.Request(str(path), row, options, workdir))
        settled = _converted(path, row, request, limits or _LIMITS.get(row.name, Limits()))
        return _sealed(path, row, settled, store, options.preprocess)


def _refuse_senseless(path: Path, row: Format, options: Options) -> None:
    """Refuse what is said about another kind of model, instead of passing over it."""
    if row.name == "refused":
        return
    for name, value in (("weights", options.weights), ("signature", options.signature)):
        if value is not None and name not in row.takes:
            fit = ", ".join(known.name for known in FORMATS if name in known.takes)
            raise UsageError(f"--{name} '{value}' says nothing about {path}: it is {row.name}, and only {fit} have one")


_LIMITS = {"paddle-pir": Limits(seconds=2400.0)}
"""Where the usual time is too short: the first PIR import builds its converter's environment."""
_ENVIRONMENT = {"keras": {"KERAS_BACKEND": "openvino"}}
"""Variables a library reads while it is imported, by format."""


def _converted(path: Path, row: Format, request: bytes, limits: Limits) -> Settled:
    """Convert in isolation; every complaint about the model names the file."""
    try:
        return worker.answer(isolated.call(f"{_HERE}.worker:run", request, limits, _ENVIRONMENT.get(row.name)))
    except ModelError as error:
        if path.name in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


@contextmanager
def _workdir(store: Path) -> Iterator[str]:
    """Yield a folder beside the artifacts (the same file system, so that space is found wanting early)."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".importing-", dir=store, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write to {store}: {error.strerror}; free space or choose another -o") from error
    with folder as workdir:
        yield workdir


def _sealed(path: Path, row: Format, settled: Settled, store: Path, preprocess: Path | None) -> Artifact:
    converted = settled.converted
    sidecar = preprocess or (find_sidecar(path) if path.exists() else None)
    said = read_sidecar(sidecar, settled.inputs, settled.outputs) if sidecar else Surroundings()
    labels = {**converted.labels, **(said.labels or {})}
    settings = {
        "format": row.name,
        **({"sha256": hash_path(path)} if path.exists() else {}),
        **({"preprocess_sha256": hash_path(sidecar)} if sidecar else {}),
        **converted.settings,
    }
    artifact = Artifact(
        folder=Path(),
        model=converted.model.name,
        format=converted.format,
        sha256="",
        inputs=settled.inputs,
        outputs=with_labels(settled.outputs, labels),
        batched=settled.batched,
        precision=settled.precision,
        images=said.images or converted.images,
        post=said.post or converted.post,
        lineage=(Lineage("import", str(path.resolve() if path.exists() else path), converted.recipe, settings),),
        notes=converted.notes,
    )
    return seal(artifact, converted.files, store)
