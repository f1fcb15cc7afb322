"""Keras ``.keras`` and HDF5 files of versions 1 to 3, through Keras itself on its OpenVINO backend.

Neither TensorFlow nor PyTorch is needed: Keras reads the file and exports the functional graph as IR.
"""

import json
from pathlib import Path
from typing import Any

from whet.errors import MissingExtra, ModelError, Unsupported
from whet.models.artifact import ImageInput
from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.isolated import one_line
from whet.models.importers.peek import head, zip_names
from whet.models.importers.reference import load_openvino, openvino_shape

_HDF5 = b"\x89HDF\r\n\x1a\n"
_FOREIGN = frozenset({"Lambda", "TFOpLambda", "SlicingOpLambda"})
"""Layers that carry Python code."""
_PREPROCESSING = frozenset({"Rescaling", "Normalization"})
_CHANNELS: dict[int, Any] = {1: "GRAY", 3: "RGB"}
MAX_UNPACKED_BYTES = 16 << 30


def sniff(path: Path) -> bool:
    """Recognise an HDF5 file, or a zip with ``config.json`` and ``metadata.json`` as Keras writes it."""
    return head(path, 8) == _HDF5 or {"config.json", "metadata.json"} <= set(zip_names(path))


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Load without compiling, export as IR.

    Raises:
        MissingExtra: Keras is not installed.
        Unsupported: Lambda or custom layers (named), or weights without an architecture.
        ModelError: damaged.
    """
    del options
    try:
        import h5py  # noqa: F401  (Keras needs it for both kinds; say so before it does)
        import keras
    except ModuleNotFoundError:
        raise MissingExtra("reading Keras files", "keras") from None
    layers = list(_layers(_config(path)))
    code = sorted({layer["class_name"] for layer in layers if layer["class_name"] in _FOREIGN})
    if code:
        raise Unsupported(
            f"{path} holds {', '.join(code)} layers, which are Python code; Whet runs no code from a model file. "
            "Replace them by ordinary layers and save again, or export to ONNX"
        )
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise Unsupported(f"{path}: Keras {keras.__version__} cannot load it: {one_line(error)}") from error
    folder = workdir / "exported"
    folder.mkdir()
    try:
        model.export(str(folder / "model.xml"), format="openvino", verbose=False)
    except Exception as error:
        raise Unsupported(f"{path}: Keras cannot export it to OpenVINO: {one_line(error)}") from error
    ov = load_openvino()
    exported = openvino_front.read_ir(lambda: ov.Core().read_model(str(folder / "model.xml")), path, "Keras")
    _name_as_keras(model, exported)
    inside = [layer for layer in layers if layer["class_name"] in _PREPROCESSING]
    notes = tuple(f"preprocessing inside the net: {_words(layer)}; feed it pictures as they are" for layer in inside)
    converted = openvino_front.saved(exported, workdir, notes, keras=keras.__version__)
    return openvino_front.surrounded(converted, _images(exported) if inside else ())


def _config(path: Path) -> dict[str, Any]:
    """Return the architecture as Keras stored it.

    Raises:
        Unsupported: weights alone.
        ModelError: unreadable.
    """
    import zipfile

    import h5py

    try:
        if head(path, 8) == _HDF5:
            with h5py.File(path, "r") as file:
                text = file.attrs.get("model_config")
                if text is None:
                    raise Unsupported(f"{path} holds Keras weights without an architecture; save the whole model")
        else:
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
                    raise ModelError(f"{path} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GB; it is no model")
                text = archive.read("config.json")
        config = json.loads(text)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is a damaged Keras file: {one_line(error)}; save or copy it again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is a damaged Keras file: its architecture is no object")
    return config


def _layers(config: Any) -> Any:
    """Yield every object that names a class, however deep: layers of nested and wrapped models."""
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("class_name"), str):
                yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _words(layer: dict[str, Any]) -> str:
    config = layer.get("config", {})
    said = {key: config[key] for key in ("scale", "offset", "mean", "variance") if config.get(key) is not None}
    return f"{layer['class_name']} {said}" if said else str(layer["class_name"])


def _images(model: Any) -> tuple[ImageInput, ...]:
    found = []
    for port in model.inputs:
        shape = openvino_shape(port)
        if len(shape) == 4 and shape[3] in _CHANNELS and min(shape[1:]) > 0:
            channels = _CHANNELS[shape[3]]
            found.append(ImageInput(port.any_name, shape[1], shape[2], channels, channels, layout="NHWC"))
    return tuple(found)


def _name_as_keras(model: Any, exported: Any) -> None:
    """Call inputs and outputs what Keras calls them, where the counts agree; export numbers them."""
    # A Sequential model has no names for its one output; a functional one would call it by the layer that gives it.
    given = getattr(model, "output_names", None) or [model.layers[-1].name]
    for ports, names in ((exported.inputs, model.inputs), (exported.outputs, given)):
        wanted = [getattr(name, "name", name) for name in names]
        if len(wanted) == len(ports) == len(set(wanted)):
            for port, name in zip(ports, wanted, strict=True):
                port.get_tensor().set_names({str(name)})
