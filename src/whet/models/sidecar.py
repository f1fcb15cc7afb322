"""Reads the small TOML beside a model that says how images become its inputs and what its outputs mean.

::

    [inputs.frame]
    source = "image"
    size = [224, 224]             # height, width as the net takes them; left away, the model's own
    resize = [256, 256]           # or resize_shorter = 256; left away, straight to size
    crop = "center"               # or "none"
    channels = "RGB"              # as the net wants them: RGB, BGR or GRAY
    source_channels = "RGB"       # as requests carry them
    mean = [123.675, 116.28, 103.53]   # one value, or one a channel, in 0..255 units
    scale = [58.395, 57.12, 57.375]    # then divided by
    layout = "NCHW"               # left away, seen from the model's shape

    [outputs.logits]
    classes = ["pristine", "blur"]     # or labels = "labels.txt", one a line
    postprocess = "softmax"            # softmax, sigmoid, top_k, nms, none, or a list of them in order
    k = 5                              # kept by top_k (5) or nms (100)
    boxes = "boxes"                    # of nms; and iou_threshold, score_threshold
"""

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet.errors import DataError
from whet.models.artifact import ImageInput, OutputStep
from whet.tensors import DYNAMIC, TensorSpec

NAME = "preprocess.toml"
MAX_BYTES = 1 << 20
_INPUT_KEYS = (
    "source",
    "size",
    "resize",
    "resize_shorter",
    "crop",
    "channels",
    "source_channels",
    "mean",
    "scale",
    "layout",
)
_OUTPUT_KEYS = ("classes", "labels", "postprocess", "k", "boxes", "iou_threshold", "score_threshold")
_CHANNELS = ("RGB", "BGR", "GRAY")
_KEPT = {"top_k": 5, "nms": 100}
"""How many classes or boxes are kept where the file does not say."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around the net.

    Attributes:
        images: preprocessing of image inputs.
        post: postprocessing steps.
        labels: class names by output.
    """

    images: tuple[ImageInput, ...] = ()
    post: tuple[OutputStep, ...] = ()
    labels: dict[str, tuple[str, ...]] | None = None


def find_sidecar(model: Path) -> Path | None:
    """Return ``<model-stem>.preprocess.toml`` or ``preprocess.toml`` beside the model (or in its folder), or None."""
    places = [model.with_name(f"{model.stem}.{NAME}"), model.with_name(NAME)]
    if model.is_dir():
        places.insert(0, model / NAME)
    return next((place for place in places if place.is_file()), None)


def read_sidecar(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Surroundings:
    """Read the file and check it against the model's specs.

    Raises:
        DataError: unreadable, no TOML, an unknown key (named by its path), or a value that does not fit the model.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise DataError(f"{path} holds {len(data)} bytes; a preprocessing file has at most {MAX_BYTES}")
        document = tomllib.loads(data.decode())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no TOML: {error}") from error
    _only(document, ("inputs", "outputs"), "", path)
    images = tuple(_image(name, table, inputs, path) for name, table in _tables(document, "inputs", path))
    post: list[OutputStep] = []
    labels: dict[str, tuple[str, ...]] = {}
    for name, table in _tables(document, "outputs", path):
        spec = _spec(name, outputs, f"outputs.{name}", path)
        _only(table, _OUTPUT_KEYS, f"outputs.{name}", path)
        names = _labels(table, f"outputs.{name}", path)
        if names and spec.shape and spec.shape[-1] not in {DYNAMIC, len(names)}:
            raise DataError(
                f"{path}: outputs.{name} names {len(names)} classes, the model gives {spec.shape[-1]}; name each one"
            )
        if names:
            labels[name] = names
        post.extend(_steps(name, table, outputs, path))
    return Surroundings(images, tuple(post), labels)


def with_labels(specs: Sequence[TensorSpec], labels: dict[str, tuple[str, ...]]) -> tuple[TensorSpec, ...]:
    """Return the specs with class names attached."""
    return tuple(replace(spec, labels=labels[spec.name]) if spec.name in labels else spec for spec in specs)


def _image(name: str, table: dict[str, Any], inputs: Sequence[TensorSpec], path: Path) -> ImageInput:
    where = f"inputs.{name}"
    spec = _spec(name, inputs, where, path)
    _only(table, _INPUT_KEYS, where, path)
    if table.get("source") != "image":
        raise DataError(f'{path}: {where}.source is {table.get("source")!r}; the only known source is "image"')
    if len(spec.shape) != 4:
        raise DataError(f"{path}: {where} is fed images, which needs 4 axes; the model's input is {spec}")
    layout = _choice(table, "layout", ("NCHW", "NHWC"), layout_of(spec), where, path)
    channels = _choice(table, "channels", _CHANNELS, "RGB", where, path)
    depth = 1 if channels == "GRAY" else 3
    net_depth = spec.shape[1 if layout == "NCHW" else 3]
    if net_depth not in {DYNAMIC, depth}:
        raise DataError(f"{path}: {where} gives {depth} channel(s) ({channels}, {layout}), the model takes {net_depth}")
    own = spec.shape[2:] if layout == "NCHW" else spec.shape[1:3]
    height, width = _pair(table, "size", where, path) or (own[0], own[1])
    if DYNAMIC in {height, width}:
        raise DataError(f"{path}: {where}.size is missing, and the model's own height or width is free; give both")
    for axis, wanted, has in (("height", height, own[0]), ("width", width, own[1])):
        if has not in {DYNAMIC, wanted}:
            raise DataError(f"{path}: {where}.size has {axis} {wanted}, the model takes {has}")
    shorter = table.get("resize_shorter")
    if shorter is not None and (not isinstance(shorter, int) or shorter < min(height, width)):
        raise DataError(f"{path}: {where}.resize_shorter is {shorter!r}; give at least {min(height, width)} pixels")
    if shorter is not None and "resize" in table:
        raise DataError(f"{path}: {where} has both resize and resize_shorter; keep one")
    resize = _pair(table, "resize", where, path)
    if resize and (resize[0] < height or resize[1] < width):
        raise DataError(f"{path}: {where}.resize {list(resize)} is smaller than the size {[height, width]} cut from it")
    return ImageInput(
        input=name,
        height=height,
        width=width,
        channels=channels,
        source_channels=_choice(table, "source_channels", _CHANNELS, "GRAY" if depth == 1 else "RGB", where, path),
        mean=_numbers(table, "mean", depth, where, path),
        scale=_numbers(table, "scale", depth, where, path),
        layout=layout,
        resize=resize,
        resize_shorter=shorter,
        crop=_choice(table, "crop", ("center", "none"), "center", where, path),
    )


def layout_of(spec: TensorSpec) -> str:
    """Return the layout a 4-axis image input most likely has: the channels are the axis of 1 or 3."""
    return "NHWC" if spec.shape[3] in {1, 3} and spec.shape[1] not in {1, 3} else "NCHW"


def _steps(name: str, table: dict[str, Any], outputs: Sequence[TensorSpec], path: Path) -> list[OutputStep]:
    where = f"outputs.{name}"
    asked = table.get("postprocess", "none")
    steps = []
    for kind in asked if isinstance(asked, list) else [asked]:
        known = ("softmax", "sigmoid", "top_k", "nms", "none")
        if kind not in known:
            raise DataError(f"{path}: {where}.postprocess is {kind!r}{_meant(str(kind), known)}")
        if kind == "none":
            continue
        step = OutputStep(name, kind)
        if kind in {"top_k", "nms"}:
            k = table.get("k", _KEPT[kind])
            if not isinstance(k, int) or k < 1:
                raise DataError(f"{path}: {where}.k is {k!r}; it must be a whole number of at least 1")
            step = replace(step, k=k)
        if kind == "nms":
            boxes = table.get("boxes", "")
            if boxes not in {spec.name for spec in outputs}:
                raise DataError(f"{path}: {where}.boxes is {boxes!r}; it must name the output that holds the boxes")
            iou = _share(table, "iou_threshold", step.iou_threshold, where, path)
            score = _share(table, "score_threshold", step.score_threshold, where, path)
            step = replace(step, boxes=boxes, iou_threshold=iou, score_threshold=score)
        steps.append(step)
    return steps


def _labels(table: dict[str, Any], where: str, path: Path) -> tuple[str, ...]:
    if "classes" in table and "labels" in table:
        raise DataError(f"{path}: {where} has both classes and labels; keep one")
    if "classes" in table:
        classes = table["classes"]
        if not isinstance(classes, list) or not all(isinstance(item, str) for item in classes):
            raise DataError(f"{path}: {where}.classes must be a list of names")
        return tuple(classes)
    if "labels" not in table:
        return ()
    file = path.parent / str(table["labels"])
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise DataError(f"{path}: {where}.labels leads to {file}, outside the model's folder; keep the file beside it")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {where}.labels names {file}, which cannot be read as text: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _tables(document: dict[str, Any], section: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = document.get(section, {})
    if not isinstance(found, dict) or not all(isinstance(table, dict) for table in found.values()):
        raise DataError(f"{path}: [{section}] must hold one table a tensor, such as [{section}.NAME]")
    return list(found.items())


def _spec(name: str, specs: Sequence[TensorSpec], where: str, path: Path) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    names = [spec.name for spec in specs]
    raise DataError(f"{path}: {where} names no tensor of the model{_meant(name, names)}; it has {', '.join(names)}")


def _only(table: dict[str, Any], known: Sequence[str], where: str, path: Path) -> None:
    for key in table:
        if key not in known:
            spot = f"{where}.{key}" if where else key
            raise DataError(f"{path}: {spot} is unknown{_meant(key, known)}; known are {', '.join(known)}")


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _choice(table: dict[str, Any], key: str, known: Sequence[str], default: str, where: str, path: Path) -> Any:
    value = table.get(key, default)
    if value not in known:
        raise DataError(f"{path}: {where}.{key} is {value!r}; it must be one of {', '.join(known)}")
    return value


def _pair(table: dict[str, Any], key: str, where: str, path: Path) -> tuple[int, int] | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, int) and 0 < v <= 16384 for v in value):
        raise DataError(f"{path}: {where}.{key} is {value!r}; give [height, width] in pixels, 1 to 16384")
    return value[0], value[1]


def _numbers(table: dict[str, Any], key: str, depth: int, where: str, path: Path) -> tuple[float, ...]:
    value = table.get(key, [])
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, int | float) and not isinstance(item, bool) for item in values):
        raise DataError(f"{path}: {where}.{key} is {value!r}; give one number, or one a channel")
    if len(values) == 1:
        values = values * depth
    if len(values) not in {0, depth}:
        raise DataError(f"{path}: {where}.{key} has {len(values)} values, the net takes {depth} channel(s)")
    if key == "scale" and 0 in values:
        raise DataError(f"{path}: {where}.scale holds 0, which would divide by zero")
    return tuple(float(item) for item in values)


def _share(table: dict[str, Any], key: str, default: float, where: str, path: Path) -> float:
    value = table.get(key, default)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{path}: {where}.{key} is {value!r}; it must lie between 0 and 1")
    return float(value)
