"""Small surgery on a TensorFlow ``GraphDef``: read it, find what a signature reaches, cut it, write it again.

What is not changed stays byte for byte. Field numbers are those of ``graph.proto``, ``node_def.proto``,
``attr_value.proto``, ``function.proto`` and ``op_def.proto``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from whet.models.importers import wire
from whet.models.importers.tf_signature import map_entry


@dataclass(frozen=True, slots=True)
class Node:
    """One ``NodeDef``.

    Attributes:
        name: of the node.
        op: its operator.
        inputs: ``node``, ``node:index`` or ``^node`` (control).
        attrs: ``AttrValue`` by name.
        rest: the encoded fields that are none of the above (device, debug info).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, bytes]
    rest: bytes = b""


@dataclass(frozen=True, slots=True)
class Function:
    """One ``FunctionDef``.

    Attributes:
        arguments: names, in order.
        results: what each output is, in order: ``node:output:index`` or an argument's name.
        nodes: the body.
    """

    arguments: tuple[str, ...]
    results: tuple[str, ...]
    nodes: tuple[Node, ...]


@dataclass(slots=True)
class TfGraph:
    """A ``GraphDef`` that can be changed.

    Attributes:
        nodes: by name.
        functions: by name.
        rest: the encoded fields that are no nodes (library, versions).
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    rest: bytes = b""


def read_graph(graph: memoryview, what: str) -> TfGraph:
    """Read a ``GraphDef``.

    Raises:
        ModelError: damaged.
    """
    read = TfGraph()
    rest = bytearray()
    for number, _, value in wire.fields(graph, what):
        if number == 1:
            node = _node(wire.message(value, what), what)
            read.nodes[node.name] = node
        else:
            rest += encoded(number, value)
        if number == 2:
            for inner, _, part in wire.fields(wire.message(value, what), what):
                if inner == 1:
                    name, function = _function(wire.message(part, what), what)
                    read.functions[name] = function
    read.rest = bytes(rest)
    return read


def write_graph(graph: TfGraph) -> bytes:
    """Encode a ``GraphDef``."""
    return b"".join(encoded(1, _encode_node(node)) for node in graph.nodes.values()) + graph.rest


def reached(graph: TfGraph, tensors: Iterable[str]) -> dict[str, Node]:
    """Return every node that ``tensors`` depend on, bodies of called functions included (named ``function/node``)."""
    found: dict[str, Node] = {}
    waiting = [node_of(tensor) for tensor in tensors]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        node = graph.nodes.get(name)
        if node is None or name in found:
            continue
        found[name] = node
        waiting.extend(node_of(source) for source in node.inputs)
        for function in called(graph, node, seen):
            found.update({f"{function}/{inner.name}": inner for inner in graph.functions[function].nodes})
    return found


def cut(graph: TfGraph, tensor: str, dtype: int, shape: tuple[int, ...] | None) -> bool:
    """Make ``tensor`` a placeholder, so that nothing before it is computed; tell whether that changed the graph."""
    node = graph.nodes.get(node_of(tensor))
    if node is None or node.op == "Placeholder" or not tensor.endswith(":0"):
        return False
    graph.nodes[node.name] = placeholder(node.name, dtype, shape)
    return True


def node_of(tensor: str) -> str:
    """Return the node's name of ``node``, ``node:index`` or ``^node``."""
    return tensor.removeprefix("^").partition(":")[0]


def encoded(number: int, value: int | bytes | memoryview) -> bytes:
    """Encode one field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + bytes(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _node(node: memoryview, what: str) -> Node:
    name = op = ""
    inputs: list[str] = []
    attrs: dict[str, bytes] = {}
    rest = bytearray()
    for number, _, value in wire.fields(node, what):
        if number == 1:
            name = wire.text(value, what)
        elif number == 2:
            op = wire.text(value, what)
        elif number == 3:
            inputs.append(wire.text(value, what))
        elif number == 5:
            key, attr = map_entry(wire.message(value, what), what)
            attrs[key] = bytes(attr)
        else:
            rest += encoded(number, value)
    return Node(name, op, tuple(inputs), attrs, bytes(rest))


def _encode_node(node: Node) -> bytes:
    parts = [encoded(1, node.name.encode()), encoded(2, node.op.encode())]
    parts += [encoded(3, source.encode()) for source in node.inputs]
    parts += [encoded(5, encoded(1, key.encode()) + encoded(2, attr)) for key, attr in node.attrs.items()]
    return b"".join((*parts, node.rest))


def _function(function: memoryview, what: str) -> tuple[str, Function]:
    name = ""
    arguments: list[str] = []
    results: list[str] = []
    nodes: list[Node] = []
    returns: dict[str, str] = {}
    for number, _, value in wire.fields(function, what):
        if number == 1:
            for inner, _, part in wire.fields(wire.message(value, what), what):
                if inner == 1:
                    name = wire.text(part, what)
                elif inner in {2, 3}:
                    (arguments if inner == 2 else results).append(_argument(wire.message(part, what), what))
        elif number == 3:
            nodes.append(_node(wire.message(value, what), what))
        elif number == 4:
            key, tensor = map_entry(wire.message(value, what), what)
            returns[key] = bytes(tensor).decode(errors="replace")
    return name, Function(tuple(arguments), tuple(returns.get(key, key) for key in results), tuple(nodes))


def _argument(argument: memoryview, what: str) -> str:
    return next((wire.text(value, what) for number, _, value in wire.fields(argument, what) if number == 1), "")


def called(graph: TfGraph, node: Node, seen: set[str]) -> list[str]:
    """Return functions that ``node`` calls, directly or through others, that are not in ``seen``; adds them to it."""
    found: list[str] = []
    waiting = list(functions_of(node))
    while waiting:
        name = waiting.pop()
        if name in seen or name not in graph.functions:
            continue
        seen.add(name)
        found.append(name)
        for inner in graph.functions[name].nodes:
            waiting.extend(functions_of(inner))
    return found


def functions_of(node: Node) -> list[str]:
    """Return the functions a node's attributes name: ``AttrValue.func`` (10) and ``AttrValue.list.func`` (1, 9)."""
    names = []
    for attr in node.attrs.values():
        for number, _, value in wire.fields(memoryview(attr), node.name):
            lists = wire.fields(wire.message(value, node.name), node.name) if number == 1 else ()
            calls = [value] if number == 10 else [part for inner, _, part in lists if inner == 9]
            names += [_argument(wire.message(call, node.name), node.name) for call in calls]
    return names


def placeholder(name: str, dtype: int, shape: tuple[int, ...] | None) -> Node:
    """Return a ``Placeholder``; ``dtype`` is a number of ``types.proto``, a ``shape`` of None leaves the rank open."""
    dims = encoded(3, 1) if shape is None else b"".join(encoded(2, encoded(1, size)) for size in shape)
    return Node(name, "Placeholder", (), {"dtype": encoded(6, dtype % 100), "shape": encoded(7, dims)})
