"""TensorFlow SavedModel, any signature, through OpenVINO's front end; TensorFlow is not needed.

The front end serves only the signature called ``serving_default``, takes every placeholder for an input, and folds a
``PlaceholderWithDefault`` into a constant unless that signature names it. So the wanted signature is first written
into a copy of ``saved_model.pb`` as the only one, with the graph around ``tf.Example`` parsers cut away; the variables
are linked beside it.
"""

from pathlib import Path

from whet.errors import ModelError, Unsupported
from whet.models.importers import openvino_front, tf_graph, tf_parse, tf_signature, wire
from whet.models.importers.base import Converted, Options
from whet.models.importers.reference import load_openvino
from whet.models.importers.tf_graph import encoded
from whet.models.importers.tf_signature import Signature, TensorInfo

_WRITERS = frozenset(
    {
        *(f"{op}{kind}" for op in ("Assign", "AssignAdd", "AssignSub") for kind in ("", "VariableOp")),
        *(f"{p}{op}" for p in ("Scatter", "ResourceScatter") for op in ("Update", "Add", "Sub", "NdUpdate", "NdAdd")),
        *(f"{p}{op}" for p in ("Apply", "ResourceApply") for op in ("GradientDescent", "Adam", "Momentum")),
    }
)
"""Operators that change what the next request sees."""


def sniff(path: Path) -> bool:
    """Recognise a folder with ``saved_model.pb``, or that file itself."""
    return (path / "saved_model.pb").is_file() or (path.name == "saved_model.pb" and path.is_file())


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert one signature to IR whose inputs and outputs carry the signature's names.

    Raises:
        UsageError: no such signature.
        Unsupported: the signature changes state, or uses what OpenVINO has no rule for.
        ModelError: damaged.
    """
    folder = path if path.is_dir() else path.parent
    file = folder / "saved_model.pb"
    what = f"SavedModel '{folder}'"
    meta = tf_signature.serving_graph(tf_signature.read_bounded(file), what)
    signatures = tf_signature.signatures_of(meta, what)
    chosen = tf_signature.choose(signatures, options.signature, what)
    rewritten, features = only(meta, chosen, what)
    copy = _write_copy(rewritten, folder, workdir)
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.Core().read_model(str(copy)), folder, "TensorFlow")
    _check_names(model, chosen, features, what)
    others = [signature.name for signature in signatures if signature.name != chosen.name]
    notes = [f"signature '{chosen.name}'" + (f"; it also has {', '.join(others)}" if others else "")]
    if features:
        notes.append(
            f"the signature takes serialized tf.Example; here its dense feature(s) {', '.join(features)} are the inputs"
        )
    return openvino_front.saved(model, workdir, tuple(notes), signature=chosen.name, method=chosen.method)


def only(meta: memoryview, chosen: Signature, what: str) -> tuple[bytes, tuple[str, ...]]:
    """Return the ``MetaGraphDef`` with one signature, and the features that became its inputs.

    Raises:
        Unsupported: the signature changes state, or uses sparse or ragged features.
        ModelError: damaged.
    """
    fields = list(wire.fields(meta, what))
    encoded_graph = next((wire.message(v, what) for n, _, v in fields if n == 2), None)
    if encoded_graph is None:
        raise ModelError(f"{what} holds no graph; export it again")
    graph = tf_graph.read_graph(encoded_graph, what)
    outputs = [info.tensor for info in chosen.outputs]
    _refuse_state(graph, chosen, what)
    changed = [tf_graph.cut(graph, info.tensor, info.dtype, info.shape) for info in chosen.inputs]
    features, renamed = tf_parse.features_for(graph, outputs)
    inputs = [info for info in chosen.inputs if not features or _still_used(graph, info, outputs, renamed)]
    inputs += [TensorInfo(f.name, f.tensor, f.dtype, f.shape) for f in features]
    results = [TensorInfo(i.key, renamed.get(i.tensor, i.tensor), i.dtype, i.shape) for i in chosen.outputs]
    parts = [encoded(n, v) for n, _, v in fields if n not in {2, 5}]
    # Untouched bytes where nothing was cut: large graphs are not encoded again.
    parts.append(encoded(2, tf_graph.write_graph(graph) if features or any(changed) else encoded_graph))
    signature = b"".join(
        [
            *(_entry(1, info) for info in inputs),
            *(_entry(2, info) for info in results),
            encoded(3, chosen.method.encode()),
        ]
    )
    parts.append(encoded(5, encoded(1, tf_signature.DEFAULT.encode()) + encoded(2, signature)))
    return b"".join(parts), tuple(feature.name for feature in features)


def _refuse_state(graph: tf_graph.TfGraph, chosen: Signature, what: str) -> None:
    nodes = tf_graph.reached(graph, [info.tensor for info in chosen.outputs])
    writers = sorted({f"{node.op} ('{name}')" for name, node in nodes.items() if node.op in _WRITERS})
    if writers:
        raise Unsupported(
            f"{what}: signature '{chosen.name}' changes the model's state by {', '.join(writers[:5])}; "
            "Whet serves functions of their inputs. Choose another --signature, or export one without it"
        )


def _still_used(graph: tf_graph.TfGraph, info: TensorInfo, outputs: list[str], renamed: dict[str, str]) -> bool:
    nodes = tf_graph.reached(graph, [renamed.get(tensor, tensor) for tensor in outputs])
    return tf_graph.node_of(info.tensor) in nodes


def _entry(number: int, info: TensorInfo) -> bytes:
    parts = [encoded(1, info.tensor.encode()), encoded(2, info.dtype)]
    if info.shape is not None:
        parts.append(encoded(3, b"".join(encoded(2, encoded(1, size)) for size in info.shape)))
    return encoded(number, encoded(1, info.key.encode()) + encoded(2, b"".join(parts)))


def _write_copy(meta: bytes, folder: Path, workdir: Path) -> Path:
    copy = workdir / "signature"
    copy.mkdir()
    (copy / "saved_model.pb").write_bytes(encoded(1, 1) + encoded(2, meta))
    variables = folder / "variables"
    if variables.is_dir():
        (copy / "variables").symlink_to(variables.resolve())
    return copy


def _check_names(model: object, chosen: Signature, features: tuple[str, ...], what: str) -> None:
    has = {port.any_name for port in model.inputs}  # type: ignore[attr-defined]
    wanted = set(features) or {info.key for info in chosen.inputs}
    if not wanted <= has and not has <= wanted | {info.key for info in chosen.inputs}:
        raise ModelError(f"{what}: signature '{chosen.name}' takes {sorted(wanted)}, the converted model {sorted(has)}")
