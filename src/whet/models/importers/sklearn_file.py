"""scikit-learn estimators, and pickled XGBoost or LightGBM ones. Pickles are code: opened only on an explicit word."""

from pathlib import Path
from typing import Any

from whet.errors import MissingExtra, ModelError, Unsupported
from whet.models.importers import trees
from whet.models.importers.base import Converted, Options
from whet.models.importers.isolated import one_line
from whet.models.importers.peek import head


def sniff(path: Path) -> bool:
    """Recognise a pickle of protocol 2 to 5 (joblib writes the same)."""
    start = head(path, 2)
    return start[:1] == b"\x80" and start[1:] in {b"\x02", b"\x03", b"\x04", b"\x05"}


def accompanies(path: Path) -> bool:
    """Tell what PaddlePaddle writes beside its weights: a pickle nobody needs."""
    return path.name.endswith(".pdiparams.info")


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Unpickle (with permission) and convert to ONNX for ONNX Runtime.

    Raises:
        Unsupported: no permission, or an object that is no fitted estimator.
        MissingExtra: scikit-learn or skl2onnx is not installed.
        ModelError: the pickle cannot be loaded.
    """
    if not options.allow_pickle:
        raise Unsupported(
            f"{path} is a pickle, and loading one runs whatever code it holds. If you trust where it comes from, "
            "allow it: --allow-pickle. Safer: save XGBoost as JSON, LightGBM as text, scikit-learn as ONNX (skl2onnx)"
        )
    try:
        import joblib
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ModuleNotFoundError:
        raise MissingExtra("reading scikit-learn files", "sklearn") from None
    try:
        model = joblib.load(path)
    except Exception as error:
        raise ModelError(f"{path} cannot be unpickled here: {one_line(error)}; save it with these versions") from error
    module = type(model).__module__.partition(".")[0]
    if module == "xgboost":
        return trees.convert_xgboost(model.get_booster() if hasattr(model, "get_booster") else model, workdir)
    if module == "lightgbm":
        return trees.convert_lightgbm(getattr(model, "booster_", model), workdir)
    features = getattr(model, "n_features_in_", None)
    if features is None:
        raise Unsupported(f"{path} holds a {type(model).__name__}, which is no fitted scikit-learn estimator")
    settings: dict[Any, Any] = {id(model): {"zipmap": False}} if hasattr(model, "classes_") else {}
    try:
        converted = skl2onnx.to_onnx(
            model, initial_types=[(trees.INPUT, FloatTensorType([None, features]))], options=settings, target_opset=17
        )
    except Exception as error:
        raise Unsupported(f"{path}: skl2onnx cannot convert {type(model).__name__}: {one_line(error)}") from error
    target = workdir / "model.onnx"
    target.write_bytes(converted.SerializeToString())
    return Converted(target, (target,), "onnx", f"skl2onnx {skl2onnx.__version__}")
