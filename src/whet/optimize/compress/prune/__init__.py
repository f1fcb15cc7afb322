"""Structured pruning: whole channels leave a PyTorch net, step by step, with the user's own fine-tuning between steps.

================ ====================================================================================================
module           does
================ ====================================================================================================
``channels``     how many channels each layer keeps; pure, no framework
``groups``       which channels must leave together (torch-pruning's dependency graph), and their removal
``importance``   how much a channel matters, by the criterion of the user's choice
``samples``      what the user's fine-tune function is given
``export``       a module as ONNX
``process``      the process all of that runs in; this module holds what is said to it and what it answers
================ ====================================================================================================
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

Scope = Literal["layer", "global"]
CRITERIA = ("l2", "l1", "lamp", "bn-scale", "taylor", "random")
"""Names of the importances; :mod:`.importance` says what each is."""


class Export(msgspec.Struct, frozen=True, tag="export", tag_field="do"):
    """Write the module of ``module:function`` as ONNX.

    Attributes:
        entry: ``module:function``.
        shapes: of the inputs in their order, where the function returns no example; -1 is the batch.
        outputs: names of the outputs in their order; ``output_0``, ... when empty.
        file: where to.
    """

    entry: str
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[str, ...]
    file: Path


class Prune(msgspec.Struct, frozen=True, tag="prune", tag_field="do"):
    """Prune the module of ``module:function`` in steps.

    Attributes:
        entry: ``module:function``.
        shapes: as of :class:`Export`.
        outputs: as of :class:`Export`.
        digest: of the parameters when the unpruned net was exported; another one is a refusal.
        artifact: folder of the unpruned artifact, which says what is around the net.
        pool: folder of the samples for the importance and for fine-tuning, or None.
        output: index of the output that holds class scores, or None.
        finetune: ``module:function`` of the user, or empty.
        ratio: share of the channels that is gone after the last step.
        steps: in how many.
        importance: criterion, by name.
        scope: rank channels within their layer, or those of all layers together.
        multiple: widths are kept at multiples of it.
        keep: layers that are left as they are, by name.
        seed: of every draw.
        folder: where to write ``step-<n>.onnx``.
        threads: of PyTorch.
    """

    entry: str
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[str, ...]
    digest: str
    artifact: Path
    pool: Path | None
    output: int | None
    finetune: str
    ratio: float
    steps: int
    importance: str
    scope: Scope
    multiple: int
    keep: tuple[str, ...]
    seed: int
    folder: Path
    threads: int


class Layer(msgspec.Struct, frozen=True):
    """One width of the net, shared by every layer that is tied to it.

    Attributes:
        name: the first layer whose output has this width.
        before: channels of the unpruned net.
        after: channels now.
        layers: how many layers lost channels with it.
    """

    name: str
    before: int
    after: int
    layers: int


class Step(msgspec.Struct, frozen=True):
    """One pruned net.

    Attributes:
        index: from 1.
        ratio: share of the channels that was to be gone.
        removed: share that is, over the widths that may shrink.
        file: the ONNX file.
        layers: every width that may shrink.
        left: layers left as they are, with the reason.
        tool: library and version.
        finetuned: the user's function ran on it.
        seconds: it took, fine-tuning included.
    """

    index: int
    ratio: float
    removed: float
    file: Path
    layers: tuple[Layer, ...]
    left: dict[str, str]
    tool: str
    finetuned: bool
    seconds: float


class Told(msgspec.Struct, frozen=True):
    """What the process answers, one line at a time.

    Attributes:
        progress: what it is doing.
        step: a step that is done.
        digest: of the exported module's parameters, when the export is done.
        finished: there is no more to come.
        slug: of the error that ended it.
        reason: its message.
    """

    progress: str = ""
    step: Step | None = None
    digest: str = ""
    finished: bool = False
    slug: str = ""
    reason: str = ""


Work = Export | Prune


def encode(value: Any) -> bytes:
    """Return a message as one line of JSON."""
    return msgspec.json.encode(value, enc_hook=str)


def decode(line: bytes, kind: Any) -> Any:
    """Read a message."""
    return msgspec.json.decode(line, type=kind, dec_hook=lambda wanted, value: wanted(value))
