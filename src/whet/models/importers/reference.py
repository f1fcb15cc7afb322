"""Opens a model at explicit f32 to look at it and to run a few samples: specs, proofs, parity. Never to serve.

OpenVINO would pick bf16 by itself on a CPU that has it, so precision is always said.
"""

import ctypes
import gc
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import ModelError, Unsupported
from whet.models.importers.isolated import one_line
from whet.models.importers.peek import declared_opset
from whet.quiet import silence_telemetry
from whet.tensors import DYNAMIC, Array, TensorSpec

_OPENVINO_TYPES = {
    "f32": "FP32",
    "f64": "FP64",
    "f16": "FP16",
    "bf16": "BF16",
    "boolean": "BOOL",
    "string": "BYTES",
    **{f"{short}{bits}": f"{name}{bits}" for short, name in (("i", "INT"), ("u", "UINT")) for bits in (8, 16, 32, 64)},
}
_ORT_TYPES = {
    "float": "FP32",
    "double": "FP64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "bool": "BOOL",
    "string": "BYTES",
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


OLDEST_OPSET = 7
"""Below it ONNX Runtime has some operators and lacks others (its documentation promises 7 and up)."""
_UNCONVERTED = (
    re.compile(r"No conversion rule found for operations: (?P<ops>[^\n]+)"),
    re.compile(r"No translator found for (?P<ops>\S+) node"),
    re.compile(r"^-- (?P<ops>\S+) with a message", re.MULTILINE),
    re.compile(r"not supported ONNX operations: (?P<ops>[^\n]+)"),
)


@dataclass(frozen=True, slots=True)
class Runner:
    """A model opened in one runtime at f32.

    Attributes:
        runtime: ``openvino`` or ``onnxruntime``.
        inputs: specs as the runtime sees them, dimensions that are not fixed as -1.
        outputs: likewise; an output of unknown rank has shape ``()`` and stands in ``unranked``.
        unranked: names of outputs whose rank the runtime does not know before running.
        run: feeds by input name -> outputs by name.
    """

    runtime: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    unranked: frozenset[str]
    run: Callable[[Mapping[str, Array]], dict[str, Array]]


def load_openvino() -> Any:
    """Import openvino, its telemetry silenced, and return it."""
    silence_telemetry()
    import openvino

    return openvino


def open_openvino(model: Any, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> Runner:
    """Open a path or an ``openvino.Model`` in OpenVINO's CPU device at f32.

    Args:
        model: what to open.
        inputs: names by position, where the file's own are known (an ONNX tensor may have aliases in OpenVINO).
        outputs: likewise.

    Raises:
        ModelError: OpenVINO cannot read or compile it; carries its reason in one line.
    """
    ov = load_openvino()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    try:
        compiled = ov.Core().compile_model(str(model) if isinstance(model, Path) else model, "CPU", settings)
    except (RuntimeError, ValueError, TypeError) as error:
        lacking = unconverted(str(error))
        reason = f"it has no {', '.join(lacking)}" if lacking else one_line(error)
        raise ModelError(f"OpenVINO cannot open it: {reason}") from error
    let_go()  # of what reading the file took
    takes = _specs(compiled.inputs, inputs)
    gives = _specs(compiled.outputs, outputs)
    unranked = frozenset(
        spec.name for spec, port in zip(gives, compiled.outputs, strict=True) if port.partial_shape.rank.is_dynamic
    )

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        request = compiled.create_infer_request()
        try:
            request.infer([_owned(feeds[spec.name]) for spec in takes])
        except (RuntimeError, ValueError, TypeError) as error:
            raise ModelError(f"OpenVINO cannot run it: {one_line(error)}") from error
        return {
            spec.name: np.array(request.get_output_tensor(place).data, copy=True) for place, spec in enumerate(gives)
        }

    return Runner("openvino", takes, gives, unranked, run)


def let_go() -> None:
    """Give back what a runtime that is done with held, before the next large copy of the weights is made.

    A session lies in a ring with the function that runs it, and glibc keeps what was freed until it is asked.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def open_onnxruntime(path: Path) -> Runner:
    """Open an ONNX file in ONNX Runtime's CPU provider.

    Raises:
        ModelError: its opset is below :data:`OLDEST_OPSET`, or ONNX Runtime cannot build a session; carries its reason
            in one line.
    """
    opset = declared_opset(path)
    if 0 < opset < OLDEST_OPSET:
        raise ModelError(
            f"ONNX Runtime cannot open it: opset {opset} is below {OLDEST_OPSET}, the oldest whose operators it has"
        )
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    # Spinning threads would disturb whoever shares these cores; nothing here is timed.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A second, packed copy of the weights pays off over many runs, not over the few made here.
    settings.add_session_config_entry("session.disable_prepacking", "1")
    # Nor does another layout of them, which the optimisations past the basic ones make.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot open it: {one_line(error)}") from error
    inputs = tuple(_ort_spec(value) for value in session.get_inputs())
    outputs = tuple(_ort_spec(value) for value in session.get_outputs())
    names = [spec.name for spec in outputs]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot run it: {one_line(error)}") from error

    return Runner("onnxruntime", inputs, outputs, frozenset(), run)


def _specs(ports: Sequence[Any], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    if len(names) != len(ports):
        names = [port_name(port) for port in ports]
    return tuple(openvino_spec(port, name) for port, name in zip(ports, names, strict=True))


def _owned(value: Array) -> Any:
    """Return what OpenVINO takes: strings as an array of str, the rest C-contiguous."""
    return value.astype(str) if value.dtype == object else np.ascontiguousarray(value)


def unconverted(message: str) -> tuple[str, ...]:
    """Return the operators that OpenVINO's message says it has no rule for, in order, each once."""
    found: dict[str, None] = {}
    for pattern in _UNCONVERTED:
        for match in pattern.finditer(message):
            found.update(dict.fromkeys(name.strip() for name in match["ops"].split(",") if name.strip()))
    return tuple(found)


def openvino_spec(port: Any, name: str = "") -> TensorSpec:
    """Return the spec of an OpenVINO input or output port; an unknown rank gives shape ``()``.

    Raises:
        Unsupported: an element type that no request can carry.
    """
    name = name or port_name(port)
    return TensorSpec(name, _known(_OPENVINO_TYPES, port.element_type.to_string(), name), openvino_shape(port))


def port_name(port: Any) -> str:
    """Return a port's tensor name, or its node's name where the tensor has none (old IR files)."""
    names = sorted(port.get_names(), key=lambda name: (len(name), name))
    return str(names[0]) if names else str(port.get_node().get_friendly_name())


def openvino_shape(port: Any) -> tuple[int, ...]:
    """Return a port's shape with -1 for dimensions that are not fixed; ``()`` where the rank is unknown."""
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        return ()
    return tuple(DYNAMIC if dim.is_dynamic else int(dim.get_length()) for dim in shape)


def _ort_spec(value: Any) -> TensorSpec:
    kind = value.type.removeprefix("tensor(").removesuffix(")") if value.type.startswith("tensor(") else value.type
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else DYNAMIC for dim in value.shape or ())
    return TensorSpec(value.name, _known(_ORT_TYPES, kind, value.name), shape)


def _known(table: Mapping[str, str], kind: str, name: str) -> str:
    if kind not in table:
        raise Unsupported(
            f"tensor '{name}' has type '{kind}', which no request can carry; export the model so that its inputs and "
            f"outputs are plain tensors of {', '.join(sorted(set(table.values())))}"
        )
    return table[kind]


def random_feeds(inputs: tuple[TensorSpec, ...], rows: int, seed: int, free: int = 64) -> dict[str, Array]:
    """Return random inputs: floats standard normal, ``UINT8`` over its range, other integers 0 or 1, strings "a".

    Args:
        inputs: what to feed.
        rows: length of axis 0 where it is free or 1.
        seed: of the generator.
        free: length of every other axis that is not fixed.
    """
    generator = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in inputs:
        shape = tuple(free if dim == DYNAMIC else dim for dim in spec.shape)
        if shape and spec.shape[0] in {1, DYNAMIC}:
            shape = (rows, *shape[1:])
        if spec.datatype in {"FP16", "FP32", "FP64", "BF16"}:
            feeds[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(spec.dtype)
        elif spec.datatype == "BYTES":
            feeds[spec.name] = np.full(shape, b"a", dtype=object)
        elif spec.datatype == "UINT8":
            feeds[spec.name] = generator.integers(0, 256, shape).astype(np.uint8)
        else:
            feeds[spec.name] = generator.integers(0, 2, shape).astype(spec.dtype)
    return feeds


TOLERANCE = 1e-4
"""Largest :func:`difference` of two float outputs that count as the same at f32."""
INTEGER_TOLERANCE = 0.01
"""The same for integer outputs: share of elements."""


def agree(one: Array, other: Array, tolerance: float = TOLERANCE) -> bool:
    """Tell whether two outputs are the same up to float rounding, or up to a few rounding flips for integers."""
    bound = INTEGER_TOLERANCE if one.dtype.kind in "iub" else tolerance
    return difference(one, other) <= bound


def difference(one: Array, other: Array) -> float:
    """Return how far two arrays lie apart, relative to the larger of 1 and the greatest finite magnitude in ``one``.

    Infinity where shapes differ, or where one is NaN or infinite and the other is not the same; 0 or 1 for strings.
    For integers it is the share of elements that differ by more than one level, so a rounding flip of a quantised
    net does not count and an index that points elsewhere does.
    """
    if one.shape != other.shape:
        return float("inf")
    if one.size == 0:
        return 0.0
    if "O" in {one.dtype.kind, other.dtype.kind}:
        return float(not np.array_equal(one.astype(str), other.astype(str)))
    first, second = one.astype(np.float64), other.astype(np.float64)
    if one.dtype.kind in "iub":
        return float(np.mean(np.abs(first - second) > 1))
    finite = np.isfinite(first)
    if not np.array_equal(finite, np.isfinite(second)) or not np.array_equal(
        first[~finite], second[~finite], equal_nan=True
    ):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = max(1.0, float(np.max(np.abs(first[finite]))))
    return float(np.max(np.abs(first[finite] - second[finite]))) / largest
