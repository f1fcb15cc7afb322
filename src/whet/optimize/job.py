"""A job for the optimiser as a TOML file, flags over it, and what the kind of service says about the targets.

::

    data = "data/"              # relative paths count from the file's folder
    service = "online"
    budget = "120s"

    [targets]
    p99_ms = 30
    max_drop = 0.01
    metric = "my_metrics:iou"   # module:function(outputs, label) -> float, higher is better

    [variants]
    pruned30 = "pruned30.onnx"

Keys are the flags' names with underscores. A flag wins over the file, the file over what the service suggests. Unknown
keys are errors that name the path, as in :mod:`whet.settings`.
"""

import difflib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from whet.errors import UsageError
from whet.optimize.request import Service
from whet.plan import Targets

ONLINE_P99_MS = 100.0
"""What people still take for at once: a tenth of a second (Miller, Response time in man-computer conversational
transactions, 1968)."""
STREAM_PER_S = 25.0
"""Samples a second of a stream whose rate is not given: a camera's."""


Positive = Annotated[int, msgspec.Meta(ge=1)]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a file or the flags say about a job; what is None was not said.

    Attributes:
        data: as ``--data``.
        synthetic: as ``--synthetic``.
        service: kind of service.
        budget: a duration, ``120s``.
        runtimes: the only runtimes to consider.
        calibration: samples to calibrate with, at most.
        evaluation: samples to judge accuracy on, at most.
        allow_synthetic_calibration: calibrate and judge on noise.
        name: of the model when served.
        seed: of every draw.
        strategy: how plans to measure are chosen.
        journal: folder of a journal that several jobs share.
        targets: fields of :class:`whet.plan.Targets`, by name; never None.
        variants: further models that compete: label -> path.
    """

    data: str | None = None
    synthetic: Positive | None = None
    service: Service | None = None
    budget: str | None = None
    runtimes: tuple[str, ...] | None = None
    calibration: Positive | None = None
    evaluation: Positive | None = None
    allow_synthetic_calibration: bool | None = None
    name: str | None = None
    seed: int | None = None
    strategy: str | None = None
    journal: str | None = None
    targets: dict[str, Any] = {}
    variants: dict[str, str] = {}

    def over(self, other: "Job") -> "Job":
        """Return this job's word where it has one, else the other's; samples come from one of them, never from both."""
        said = {name: value for name in _PLAIN if (value := getattr(self, name)) is not None}
        below = {name: getattr(other, name) for name in _PLAIN if name not in said}
        if {"data", "synthetic"} & said.keys():
            below = {name: value for name, value in below.items() if name not in {"data", "synthetic"}}
        return Job(
            **below, **said, targets=other.targets | self.targets, variants=dict(other.variants) | dict(self.variants)
        )


_PLAIN = tuple(name for name in Job.__struct_fields__ if name not in {"targets", "variants"})
_TARGETS = typing.get_type_hints(Targets)


def read_job(path: Path) -> Job:
    """Read a job from a TOML file.

    Raises:
        UsageError: it cannot be read, a key is unknown, or a value does not fit; names the key's path.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read targets file {path}: {error.strerror}; check --targets") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"targets file {path} is no TOML: {error}") from error
    _refuse_strangers(document, Job.__struct_fields__, f"{path}: ")
    for name in ("targets", "variants"):
        if not isinstance(document.get(name, {}), dict):
            raise UsageError(f"{path}: '{name}' must be a table: write [{name}] above its keys")
    targets = document.get("targets", {})
    _refuse_strangers(targets, _TARGETS, f"{path}: targets.")
    document["targets"] = {
        name: _converted(value, _TARGETS[name], f"{path}: targets.{name}") for name, value in targets.items()
    }
    hints = typing.get_type_hints(Job, include_extras=True)
    values = {name: _converted(value, hints[name], f"{path}: {name}") for name, value in document.items()}
    for name in ("data", "journal"):
        if name in values:
            values[name] = _from(path.parent, values[name])
    if "variants" in values:
        values["variants"] = {label: _from(path.parent, where) for label, where in values["variants"].items()}
    return Job(**values)


def aimed(targets: Mapping[str, Any], service: Service | None) -> tuple[Targets, tuple[str, ...]]:
    """Return the targets, completed by what the kind of service suggests where nothing was said, and that in words.

    ``online``: callers wait, so p99 within :data:`ONLINE_P99_MS`. ``stream``: a sample must be done before the next
    one comes, so p99 within ``1000 / min_qps`` (of :data:`STREAM_PER_S` where no rate is given); with a rate the
    fewest cores that carry it are sought, without one the lowest latency. ``batch``: nobody waits, so throughput
    alone. Without a kind of service nothing is added.

    Args:
        targets: fields that were given, by name.
        service: the kind of service that was named, or None.
    """
    rate = targets.get("min_qps")
    suggested: dict[str, Any] = {}
    waits = targets.keys() & {"p99_ms", "p50_ms"}
    if service == "online" and not waits:
        suggested["p99_ms"] = ONLINE_P99_MS
    elif service == "stream":
        suggested |= {} if waits else {"p99_ms": round(1000.0 / (rate if rate and rate > 0 else STREAM_PER_S), 3)}
        suggested["objective"] = "cores" if rate else "latency"
    elif service == "batch":
        suggested["objective"] = "throughput"
    added = {name: value for name, value in suggested.items() if name not in targets}
    words = tuple(
        f"--{name.replace('_', '-')} {value if isinstance(value, str) else f'{value:g}'} (from --service {service})"
        for name, value in added.items()
    )
    return Targets(**{**targets, **added}), words


def _refuse_strangers(found: Iterable[str], known: Iterable[str], where: str) -> None:
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            meant = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"{where}{name} is unknown{meant}; `whet optimize --help` lists the settings")


def _converted(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where} is {value!r}: {error}") from None


def _from(folder: Path, text: str) -> str:
    """Return a path of the file as seen from here; ``module:function`` is no path."""
    return text if ":" in text and not (folder / text).exists() else str(folder / text)
