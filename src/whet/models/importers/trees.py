"""Boosted trees in their own formats, which hold no code: XGBoost's JSON and UBJSON, LightGBM's text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from whet.errors import EnvironmentLacks, MissingExtra, ModelError, Unsupported
from whet.models.importers.base import Converted, Options
from whet.models.importers.isolated import one_line
from whet.models.importers.peek import head

INPUT = "input"
"""Name of the one input, ``FP32 [N, features]``; table models have no name for it."""


def sniff(path: Path) -> bool:
    """Recognise either kind."""
    return _is_xgboost(path) or is_lightgbm(path)


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to ONNX for ONNX Runtime.

    Raises:
        MissingExtra: onnxmltools is not installed.
        EnvironmentLacks: the library that wrote the file is not installed.
        ModelError: damaged.
    """
    del options
    if is_lightgbm(path):
        lightgbm = _library("lightgbm", "lightgbm")
        return convert_lightgbm(_opened(lambda: lightgbm.Booster(model_file=str(path)), path, "LightGBM"), workdir)
    xgboost = _library("xgboost", "xgboost-cpu")
    return convert_xgboost(_opened(lambda: xgboost.Booster(model_file=str(path)), path, "XGBoost"), workdir)


def convert_xgboost(booster: Any, workdir: Path) -> Converted:
    """Convert an XGBoost booster."""
    tools, kinds = _onnxmltools()
    booster.feature_names = None  # the converter wants f0, f1, ...; the service feeds one matrix anyway
    kind = kinds([None, booster.num_features()])
    return _written(lambda: tools.convert_xgboost(booster, initial_types=[(INPUT, kind)]), tools, "XGBoost", workdir)


def convert_lightgbm(booster: Any, workdir: Path) -> Converted:
    """Convert a LightGBM booster; probabilities come as a tensor, not as a list of maps."""
    tools, kinds = _onnxmltools()
    kind = kinds([None, booster.num_feature()])
    return _written(
        lambda: tools.convert_lightgbm(booster, initial_types=[(INPUT, kind)], zipmap=False), tools, "LightGBM", workdir
    )


def _is_xgboost(path: Path) -> bool:
    start = head(path, 4096)
    if start.startswith(b"{L"):  # UBJSON: an object whose first key has a 64-bit length
        return b"learner" in start
    return (start.lstrip().startswith(b"{") and b'"learner"' in start and b'"gradient_booster"' in start) or _late(
        path, start
    )


def _late(path: Path, start: bytes) -> bool:
    """XGBoost sorts its keys: a long ``attributes`` object may push the booster past the first bytes."""
    return start.startswith(b'{"learner":{"attributes":') and b'"learner_model_param"' in _tail(path)


def _tail(path: Path) -> bytes:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 4096))
        return stream.read()


def is_lightgbm(path: Path) -> bool:
    """Tell LightGBM's text from XGBoost's JSON."""
    return head(path, 64).replace(b"\r\n", b"\n").startswith(b"tree\nversion=v")


def _library(name: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise EnvironmentLacks(f"reading this file needs the package {name}: pip install {package}") from None


def _onnxmltools() -> tuple[Any, Any]:
    try:
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ModuleNotFoundError:
        raise MissingExtra("converting boosted trees", "sklearn") from None
    return onnxmltools, FloatTensorType


def _opened(read: Callable[[], Any], path: Path, kind: str) -> Any:
    try:
        return read()
    except Exception as error:
        raise ModelError(f"{path} is a damaged {kind} file: {one_line(error)}") from error


def _written(make: Callable[[], Any], tools: Any, kind: str, workdir: Path) -> Converted:
    try:
        model = make()
    except Exception as error:
        raise Unsupported(f"onnxmltools cannot convert this {kind} model: {one_line(error)}") from error
    target = workdir / "model.onnx"
    target.write_bytes(model.SerializeToString())
    return Converted(target, (target,), "onnx", f"onnxmltools {tools.__version__}")
