"""The artifact: a model file in a runnable format with its specs, what surrounds the net, its hash and its lineage.

On disk an artifact is a folder named by its hash that holds ``artifact.json`` and the model's files. It is written
beside its final place and renamed, so a half-written artifact never has the name of a whole one.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from whet.errors import BundleError, OutputError
from whet.tensors import TensorSpec

MANIFEST = "artifact.json"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """What turns a ``uint8`` image into what the net takes. Only per-pixel work is here: it is what a graph can fuse.

    The service's input becomes ``UINT8 [N, height, width, channels]`` in ``source_channels`` order; the net receives
    ``(x[..., channels] - mean) / scale`` as float, in ``layout``. Resizing and cropping happen before, where the image
    is decoded (``resize``, ``crop`` say how).

    Attributes:
        input: name of the net's input.
        height: pixels, as the net takes them.
        width: pixels.
        channels: order the net expects, ``RGB``, ``BGR`` or ``GRAY``.
        source_channels: order in which the service takes images.
        mean: subtracted, one value a channel of the net, in 0..255 units; empty for none.
        scale: then divided by, one value a channel of the net; empty for none.
        layout: layout the net expects, ``NCHW`` or ``NHWC``.
        resize: (height, width) to resize to before the crop, or None to resize straight to the net's size.
        resize_shorter: resize the shorter side to this many pixels before the crop instead, or None.
        crop: ``center`` or ``none``.
    """

    input: str
    height: int
    width: int
    channels: Literal["RGB", "BGR", "GRAY"] = "RGB"
    source_channels: Literal["RGB", "BGR", "GRAY"] = "RGB"
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    resize: tuple[int, int] | None = None
    resize_shorter: int | None = None
    crop: Literal["center", "none"] = "center"


@dataclass(frozen=True, slots=True)
class OutputStep:
    """What turns one raw output into what the service answers.

    Attributes:
        output: name of the net's output.
        kind: ``softmax`` or ``sigmoid`` (same shape), ``top_k`` (adds ``<output>_labels``), ``nms`` (boxes in, kept
            boxes out, with ``<output>_labels``).
        k: how many classes ``top_k`` keeps, how many boxes ``nms`` keeps at most.
        boxes: for ``nms``, the name of the output that holds boxes ``[N, boxes, 4]`` as (x1, y1, x2, y2).
        iou_threshold: for ``nms``, boxes that overlap more than this with a better one are dropped.
        score_threshold: for ``nms``, boxes below it are dropped.
    """

    output: str
    kind: Literal["softmax", "sigmoid", "top_k", "nms"]
    k: int = 5
    boxes: str = ""
    iou_threshold: float = 0.5
    score_threshold: float = 0.05


@dataclass(frozen=True, slots=True)
class Lineage:
    """One step of how an artifact came to be, oldest first.

    Attributes:
        action: ``import``, ``quantize``, ``prune``, ...
        source: sha256 (or path, for the first step) of what went in.
        recipe: the recipe or converter, with version.
        settings: the recipe's settings, including seeds and calibration hashes.
    """

    action: str
    source: str
    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model that a runtime can open.

    Attributes:
        folder: where the files are.
        model: the main file's name within ``folder`` (``model.onnx``, ``model.xml``, ``model.pt2``, ...).
        format: ``onnx``, ``ir``, ``torchscript``, ``pt2``, ``savedmodel``.
        sha256: over the model's files and everything below.
        inputs: what the net takes (before preprocessing), batch axis as -1 in front when ``batched``.
        outputs: what the net gives (before postprocessing).
        batched: axis 0 of every input and output is a batch axis, and rows do not influence each other.
        precision: of the weights: ``f32``, ``f16``, ``bf16``, ``int8`` or ``mixed``.
        images: preprocessing of image inputs.
        post: postprocessing steps, in order.
        lineage: how it came to be.
        notes: handicaps and peculiarities of the file, in words ("lists its 244 initializers as inputs").
    """

    folder: Path
    model: str
    format: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    precision: str = "f32"
    images: tuple[ImageInput, ...] = ()
    post: tuple[OutputStep, ...] = ()
    lineage: tuple[Lineage, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The main file."""
        return self.folder / self.model

    @property
    def service_inputs(self) -> tuple[TensorSpec, ...]:
        """What a request carries: image inputs as ``UINT8 [N, height, width, channels]``, the others as the net's."""
        images = {image.input: image for image in self.images}
        return tuple(_image_spec(spec, images[spec.name]) if spec.name in images else spec for spec in self.inputs)


def _image_spec(spec: TensorSpec, image: ImageInput) -> TensorSpec:
    depth = 1 if image.source_channels == "GRAY" else 3
    return TensorSpec(spec.name, "UINT8", (spec.shape[0], image.height, image.width, depth))


def seal(artifact: Artifact, files: Iterable[Path], store: Path) -> Artifact:
    """Move ``files`` and the manifest into ``store/<sha256>/`` and return the artifact as it lies there.

    The hash covers the files' names and bytes and every field but ``folder`` and ``sha256``; sealing the same content
    twice gives the same folder and writes nothing the second time.

    Raises:
        OutputError: the store cannot be written (permission, space).
    """
    files = sorted(files, key=lambda path: path.name)
    described = replace(artifact, folder=Path(), sha256="")
    digest = hashlib.sha256(msgspec.json.encode(described, enc_hook=str, order="sorted"))
    for path in files:
        digest.update(path.name.encode() + b"\0")
        digest.update(bytes.fromhex(hash_path(path)))
    sealed = replace(artifact, folder=store / digest.hexdigest(), sha256=digest.hexdigest())
    if (sealed.folder / MANIFEST).exists():
        return sealed
    try:
        store.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=store))
        try:
            for path in files:
                target = beside / path.name
                shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target)
            manifest = replace(sealed, folder=Path())
            (beside / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest, enc_hook=str), indent=1))
            beside.chmod(0o755)
            beside.rename(sealed.folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        if (sealed.folder / MANIFEST).exists():  # another process sealed the same content first
            return sealed
        raise OutputError(
            f"cannot write artifact to {store}: {error.strerror}; free space or choose another -o"
        ) from error
    return sealed


def load_artifact(folder: Path) -> Artifact:
    """Read the artifact in ``folder``.

    Raises:
        BundleError: no manifest, a damaged one, or files that are missing.
    """
    try:
        document = (folder / MANIFEST).read_bytes()
        artifact = msgspec.json.decode(document, type=Artifact, dec_hook=lambda kind, value: kind(value))
    except OSError as error:
        raise BundleError(f"{folder} holds no readable {MANIFEST}: {error.strerror}; it is no artifact") from error
    except msgspec.DecodeError as error:
        raise BundleError(f"{folder / MANIFEST} is damaged: {error}; import the model again") from error
    artifact = replace(artifact, folder=folder)
    if not artifact.path.exists():
        raise BundleError(f"{artifact.path} is missing although {MANIFEST} names it; import the model again")
    return artifact


def hash_path(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes, or of a folder's relative names and bytes in sorted order."""
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for child in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(child.relative_to(path)).encode() + b"\0" + bytes.fromhex(hash_path(child)))
    return digest.hexdigest()
