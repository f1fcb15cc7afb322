"""TensorFlow Lite: float, uint8 and int8, through OpenVINO's front end; what its metadata says is carried over."""

from pathlib import Path
from typing import Any

from whet.models.artifact import ImageInput
from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.peek import head
from whet.models.importers.reference import load_openvino, openvino_shape
from whet.models.importers.tflite_facts import TensorFacts, read_facts

_CHANNELS: dict[int, Any] = {1: "GRAY", 3: "RGB"}
_RANGES = {"u8": (0, 255), "i8": (-128, 127), "i16": (-32768, 32767)}


def sniff(path: Path) -> bool:
    """Recognise the flatbuffer identifier ``TFL3``."""
    return head(path, 8)[4:8] == b"TFL3"


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to IR. Quantised inputs and outputs keep their integer type, as in TensorFlow Lite.

    A ``uint8`` input of image shape takes pictures as they are: it becomes image preprocessing without arithmetic. A
    float input whose metadata gives a normalization becomes image preprocessing with that mean and scale, an ``int8``
    one with what takes pixels to its levels. Labels that the file carries become class names.

    Raises:
        Unsupported: operators OpenVINO has no rule for, named.
        ModelError: damaged.
    """
    del options
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.Core().read_model(str(path)), path, "TensorFlow Lite")
    inputs, outputs = (
        _paired(ports, facts) for ports, facts in zip((model.inputs, model.outputs), read_facts(path), strict=True)
    )
    quantised = {name: said for name, (_, said) in (inputs | outputs).items() if said.levels}
    images = tuple(image for port, said in inputs.values() if (image := _image(port, said)) is not None)
    notes = [_level_words(name, said) for name, said in quantised.items()]
    notes += [words for name, (port, said) in inputs.items() if (words := _normal_words(name, port, said))]
    labels = {name: said.labels for name, (port, said) in outputs.items() if _fits(port, said.labels)}
    settings = {
        name: {"levels": said.levels, "scale": said.scale, "zero_point": said.zero_point}
        for name, said in quantised.items()
    }
    converted = openvino_front.saved(model, workdir, tuple(notes), quantised=settings)
    return openvino_front.surrounded(converted, images, labels)


def _paired(ports: Any, facts: tuple[TensorFacts, ...]) -> dict[str, tuple[Any, TensorFacts]]:
    """Return each port with what the file says of it: by name, or by place where the front end renamed it."""
    by_name = {one.name: one for one in facts}
    found = {}
    for place, port in enumerate(ports):
        fallback = facts[place] if len(facts) == len(ports) else TensorFacts(port.any_name)
        found[port.any_name] = (port, by_name.get(port.any_name, fallback))
    return found


def _image(port: Any, said: TensorFacts) -> ImageInput | None:
    shape, kind = openvino_shape(port), port.element_type.to_string()
    if len(shape) != 4 or shape[3] not in _CHANNELS or min(shape[1:]) < 1:
        return None
    channels = _CHANNELS[shape[3]]
    if kind == "u8":
        return ImageInput(port.any_name, shape[1], shape[2], channels, channels, layout="NHWC")
    if kind not in {"f32", "i8"} or len(said.mean) not in {1, shape[3]} or (kind == "i8" and not said.scale):
        return None
    mean, std = (values * shape[3] if len(values) == 1 else values for values in (said.mean, said.std))
    if kind == "i8":
        mean, std = to_levels(mean, std, said)
    return ImageInput(port.any_name, shape[1], shape[2], channels, channels, mean=mean, scale=std, layout="NHWC")


def to_levels(
    mean: tuple[float, ...], std: tuple[float, ...], said: TensorFacts
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and scale that take pixels to an input's levels, from those that take them to its real values.

    ``(pixel - mean) / std / scale + zero_point`` is ``(pixel - (mean - zero_point * std * scale)) / (std * scale)``.
    """
    steps = tuple(one * said.scale for one in std)
    return tuple(m - said.zero_point * step for m, step in zip(mean, steps, strict=True)), steps


def _level_words(name: str, said: TensorFacts) -> str:
    if not said.scale:
        return f"tensor '{name}' is quantised: it carries {said.levels} levels, not real values"
    low, high = ((level - said.zero_point) * said.scale for level in _RANGES[said.levels])
    return (
        f"tensor '{name}' is quantised: it carries {said.levels} levels, value = (level - {said.zero_point}) * "
        f"{said.scale:.6g}, from {low:.4g} to {high:.4g}"
    )


def _normal_words(name: str, port: Any, said: TensorFacts) -> str:
    """Say what the metadata's normalization means where it is not carried out in front of the net."""
    if not said.mean:
        return ""
    normal = f"(pixel - {list(said.mean)}) / {list(said.std)}"
    kind = port.element_type.to_string()
    if kind == "u8":
        return f"input '{name}' takes pictures as they are; its quantization stands for the normalization {normal}"
    if kind == "i8" and _image(port, said):
        return f"input '{name}' takes pictures: they are normalized by {normal} and quantised in front of the net"
    return (
        "" if _image(port, said) else f"input '{name}' wants the normalization {normal}, which does not fit its shape"
    )


def _fits(port: Any, labels: tuple[str, ...]) -> bool:
    shape = openvino_shape(port)
    return bool(labels) and bool(shape) and shape[-1] == len(labels)
