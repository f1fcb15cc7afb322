"""What a format's file under ``importers/`` offers: two functions, ``sniff`` and ``convert``, and these values.

``sniff(path) -> bool`` recognises by content (magic bytes, fields), never by the file's ending alone, reads little and
raises nothing. Where a format has files that are no model by themselves and are recognised all the same, its module
also offers ``accompanies(path) -> bool``. ``convert(path, options, workdir) -> Converted`` writes a runnable model
(ONNX or OpenVINO IR, or the framework's own format where only that framework can run it) into ``workdir``.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from whet.models.artifact import ImageInput, OutputStep


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may say about a model on the command line.

    Attributes:
        weights: the file with the weights, where the format has two; found beside the model when None.
        input_shapes: shape by input name; the key ``""`` stands for the only input. ``-1`` is variable.
        signature: which signature of a SavedModel.
        to: wanted artifact format, or None for the format's natural one.
        allow_pickle: unpickle (and so run) what the file holds; scikit-learn and the like.
        allow_converter_env: make an environment of its own for a converter that needs one.
        preprocess: TOML that describes preprocessing and labels; looked for beside the model when None.
    """

    weights: Path | None = None
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    signature: str | None = None
    to: Literal["onnx", "ir"] | None = None
    allow_pickle: bool = False
    allow_converter_env: bool = False
    preprocess: Path | None = None


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion made.

    Attributes:
        model: the main file, in the work folder.
        files: every file of the model, ``model`` among them.
        format: ``onnx``, ``ir``, ``torchscript``, ``pt2`` or ``savedmodel``.
        recipe: the converter and its version, for the lineage.
        images: preprocessing the format carried.
        post: postprocessing the format carried.
        labels: class names by output, where the format carried them.
        notes: peculiarities and handicaps of the file, in words.
        settings: what the conversion did, for the lineage: plain JSON values.
    """

    model: Path
    files: tuple[Path, ...]
    format: str
    recipe: str
    images: tuple[ImageInput, ...] = ()
    post: tuple[OutputStep, ...] = ()
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the format table. The format's module is loaded when it is first asked, never before.

    Attributes:
        name: stable name, shown by ``whet inspect``.
        summary: one line for people: what is taken, or why it is refused.
        module: full name of the module or package that offers ``sniff`` and ``convert``.
        route: one line for people: what reads it and which runtimes the result opens in.
        needs: the optional package set its conversion needs, or empty.
        takes: which of ``weights`` and ``signature`` may be said about a model of this format.
    """

    name: str
    summary: str
    module: str
    route: str = ""
    needs: str = ""
    takes: tuple[str, ...] = ()

    def sniff(self, path: Path) -> bool:
        """Tell whether ``path`` looks like this format."""
        recognised: bool = importlib.import_module(self.module).sniff(path)
        return recognised

    def accompanies(self, path: Path) -> bool:
        """Tell whether ``path`` is no model by itself but lies beside one of this format: its weights."""
        check = getattr(importlib.import_module(self.module), "accompanies", None)
        return check is not None and bool(check(path))

    def convert(self, path: Path, options: Options, workdir: Path) -> Converted:
        """Write a runnable model into ``workdir``.

        Raises:
            Unsupported: recognised and refused; says why and what to do instead.
            ModelError: damaged.
        """
        converted: Converted = importlib.import_module(self.module).convert(path, options, workdir)
        return converted
