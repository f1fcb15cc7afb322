"""Cuts ``tf.Example`` parsing out of a TensorFlow graph, so that its dense features are the inputs.

OpenVINO has no rule for ``ParseExample``. Its dense outputs are what a model computes from, so a ``Placeholder`` a
feature takes its place. Where parsing happens inside a function (TensorFlow 2), the calls that lead to it are inlined
first. Everything else in the graph stays byte for byte.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from whet.errors import ModelError, Unsupported
from whet.models.importers import wire
from whet.models.importers.tf_graph import Node, TfGraph, called, functions_of, node_of, placeholder, reached
from whet.models.importers.tf_signature import shape_of

PARSERS = frozenset({"ParseExample", "ParseExampleV2"})
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
MAX_INLINED = 64
"""Calls inlined for one signature; an exporter wraps a parser in two or three, a graph that wants more calls itself."""
# Operators with several named outputs; in a function body they are told by name, in a graph by position.
_OUTPUTS = {
    **dict.fromkeys(
        ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        ("y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2", "reserve_space_3"),
    ),
    "TopKV2": ("values", "indices"),
    "Unique": ("y", "idx"),
    "Switch": ("output_false", "output_true"),
    "Merge": ("output", "value_index"),
}


@dataclass(frozen=True, slots=True)
class Feature:
    """A dense feature of ``tf.Example`` that became an input.

    Attributes:
        name: the feature's key.
        tensor: the placeholder's tensor.
        dtype: number in ``types.proto``.
        shape: of one example's feature, batch axis in front.
    """

    name: str
    tensor: str
    dtype: int
    shape: tuple[int, ...]


def features_for(graph: TfGraph, outputs: Iterable[str]) -> tuple[tuple[Feature, ...], dict[str, str]]:
    """Replace each ``tf.Example`` parser that ``outputs`` depend on; return the features and renamed tensors.

    Raises:
        Unsupported: a sparse or ragged feature is used, which has no tensor a request could carry.
    """
    renamed = _inline_parsers(graph, list(outputs))
    wanted = [renamed.get(tensor, tensor) for tensor in outputs]
    features: dict[str, Feature] = {}
    live = {name for name in reached(graph, wanted) if name in graph.nodes}
    for parser in [graph.nodes[name] for name in live if graph.nodes[name].op in PARSERS]:
        _replace_parser(graph, parser, live, features)
    return tuple(features.values()), renamed


def _inline_parsers(graph: TfGraph, outputs: list[str]) -> dict[str, str]:
    """Inline each reached call whose function parses examples; return what call outputs are now called."""
    renamed: dict[str, str] = {}
    for _ in range(MAX_INLINED):
        wanted = [renamed.get(tensor, tensor) for tensor in outputs]
        call = next((node for node in reached(graph, wanted).values() if _parses(graph, node)), None)
        if call is None:
            return renamed
        moved = _inline(graph, call)
        renamed = {tensor: moved.get(now, now) for tensor, now in renamed.items()}
        renamed.update({tensor: now for tensor, now in moved.items() if tensor not in renamed})
    raise ModelError(f"the graph nests more than {MAX_INLINED} calls around a tf.Example parser; it calls itself")


def _parses(graph: TfGraph, node: Node) -> bool:
    if node.op not in CALLS or node.name not in graph.nodes:
        return False
    return any(inner.op in PARSERS for name in called(graph, node, set()) for inner in graph.functions[name].nodes)


def _inline(graph: TfGraph, call: Node) -> dict[str, str]:
    name = next(iter(functions_of(call)))
    if name not in graph.functions:
        raise ModelError(f"the graph is damaged: '{call.name}' calls '{name}', which its library does not hold")
    function = graph.functions[name]
    given = [source for source in call.inputs if not source.startswith("^")]
    arguments = dict(zip(function.arguments, given, strict=False))
    body = {node.name: node for node in function.nodes}

    def place(source: str) -> str:
        if source.startswith("^"):
            return f"^{call.name}/{source[1:]}"
        name, _, spot = source.partition(":")
        if name in arguments:
            return arguments[name]
        return f"{call.name}/{name}:{_position(body[name], spot)}" if name in body else f"{call.name}/{source}"

    del graph.nodes[call.name]
    for node in function.nodes:
        inner = f"{call.name}/{node.name}"
        graph.nodes[inner] = Node(inner, node.op, tuple(map(place, node.inputs)), node.attrs, node.rest)
    moved = {f"{call.name}:{index}": place(result) for index, result in enumerate(function.results)}
    _rewire(graph, _by_tensor(moved))
    return moved


def _position(node: Node, spot: str) -> int:
    """Return the flat index of ``output:index`` among a node's outputs."""
    name, _, index = spot.partition(":")
    offset = _index(index, node.name)
    if node.op in PARSERS and name == "dense_values":
        return offset + 3 * _sparse_count(node)
    names = _OUTPUTS.get(node.op, ())
    return names.index(name) if name in names else offset


def _index(digits: str, what: str) -> int:
    """Return an output's number; absent, it is the first."""
    if digits and not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise ModelError(f"the graph is damaged: '{what}' has no output '{digits[:40]}'")
    return int(digits or 0)


def _by_tensor(moved: Mapping[str, str]) -> Callable[[str], str]:
    def rename(source: str) -> str:
        if source.startswith("^"):
            return source
        return moved.get(source if ":" in source else f"{source}:0", source)

    return rename


def _rewire(graph: TfGraph, rename: Callable[[str], str]) -> None:
    for name, node in graph.nodes.items():
        # A control edge to a node that was replaced has nothing left to wait for.
        inputs = tuple(rename(s) for s in node.inputs if not s.startswith("^") or s[1:] in graph.nodes)
        if inputs != node.inputs:
            graph.nodes[name] = Node(name, node.op, inputs, node.attrs, node.rest)


def _replace_parser(graph: TfGraph, parser: Node, live: set[str], features: dict[str, Feature]) -> None:
    """Let the ``live`` nodes read placeholders; the parser stays, for nodes of other signatures, and is not reached."""
    keys, first = _dense_keys(graph, parser), 3 * _sparse_count(parser)
    types = [number for part in _list_attr(parser, "Tdense", 6) for number in wire.integers(part, parser.name)]
    shapes = [wire.message(part, parser.name) for part in _list_attr(parser, "dense_shapes", 7)]
    moved: dict[str, str] = {}
    used = {source for name in live for source in graph.nodes[name].inputs if node_of(source) == parser.name}
    for source in sorted(used):
        if source.startswith("^"):
            continue
        index = _index(source.partition(":")[2], parser.name) - first
        if not 0 <= index < len(keys):
            raise Unsupported(
                f"the graph uses a sparse or ragged feature of tf.Example (output {index + first} of '{parser.name}'); "
                "only dense features can be sent as tensors. Choose another signature or export one with dense inputs"
            )
        key = keys[index]
        if key not in features:
            if index >= min(len(types), len(shapes)):
                raise ModelError(f"the graph is damaged: '{parser.name}' gives feature '{key}' no type or no shape")
            dims = shape_of(shapes[index], parser.name) or ()
            features[key] = Feature(key, f"whet_feature_{len(features)}:0", types[index], (-1, *dims))
            name = node_of(features[key].tensor)
            graph.nodes[name] = placeholder(name, features[key].dtype, features[key].shape)
        moved[source if ":" in source else f"{source}:0"] = features[key].tensor
    _rewire(graph, _by_tensor(moved))


def _sparse_count(parser: Node) -> int:
    attr = parser.attrs.get("Nsparse", parser.attrs.get("num_sparse", b""))
    return next((int(v) for n, _, v in wire.fields(memoryview(attr), parser.name) if n == 3 and isinstance(v, int)), 0)


def _dense_keys(graph: TfGraph, parser: Node) -> list[str]:
    if parser.op == "ParseExampleV2":  # serialized, names, sparse_keys, dense_keys, ragged_keys, defaults...
        if len(parser.inputs) < 4:
            raise ModelError(f"the graph is damaged: '{parser.name}' has {len(parser.inputs)} inputs, no dense keys")
        return _strings(graph, parser.inputs[3])
    types = _list_attr(parser, "Tdense", 6)
    count = sum(len(wire.integers(part, parser.name)) for part in types)
    start = 2 + _sparse_count(parser)
    return [key for source in parser.inputs[start : start + count] for key in _strings(graph, source)]


def _strings(graph: TfGraph, source: str) -> list[str]:
    """Return the texts of a ``Const`` node: ``AttrValue.tensor`` (8), its ``string_val`` (8)."""
    node = graph.nodes.get(node_of(source))
    for _ in graph.nodes:  # a longer way through identities is a ring
        if node is None or node.op != "Identity" or not node.inputs:
            break
        node = graph.nodes.get(node_of(node.inputs[0]))
    found = []
    for number, _, value in wire.fields(memoryview(node.attrs.get("value", b"") if node else b""), source):
        if number == 8:
            found += [wire.text(v, source) for n, _, v in wire.fields(wire.message(value, source), source) if n == 8]
    return found


def _list_attr(node: Node, name: str, field: int) -> list[int | memoryview]:
    """Return one field of ``AttrValue.list`` (1): types (6, perhaps packed) or shapes (7)."""
    items: list[int | memoryview] = []
    for number, _, value in wire.fields(memoryview(node.attrs.get(name, b"")), node.name):
        if number == 1:
            parts = wire.fields(wire.message(value, node.name), node.name)
            items += [part for inner, _, part in parts if inner == field]
    return items
