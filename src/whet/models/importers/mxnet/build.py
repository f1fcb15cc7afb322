"""From a symbol and its arrays to an ONNX graph: inputs, nodes in order, heads."""

from collections import Counter
from collections.abc import Mapping

from whet.errors import ModelError, Unsupported, UsageError
from whet.models.importers.mxnet.context import Context, Operand, Weight
from whet.models.importers.mxnet.ndarray import Params
from whet.models.importers.mxnet.symbol import Node, Symbol
from whet.models.importers.mxnet.table import LABELLED, SUPPORTED
from whet.models.importers.onnx_graph import UNKNOWN, Graph, Value

_LEARNED = ("_weight", "_bias", "_gamma", "_beta", "_mean", "_var")


def build(
    symbol: Symbol, params: Params, params_said: str, shapes: Mapping[str, tuple[int, ...]], extra: int = 0
) -> Graph:
    """Convert a symbol.

    Args:
        symbol: the nodes.
        params: arrays by name.
        params_said: where they come from, or why there are none; for messages.
        shapes: what the user said, by input name ("" is the only input).
        extra: added to the first axis of every input.

    Raises:
        Unsupported: operators Whet does not read, all at once.
        ModelError: shapes that do not fit, an input without a shape, missing weights; names the node.
        UsageError: ``shapes`` names no input.
    """
    used = _reached(symbol)
    _refuse_unknown(symbol, used)
    graph = Graph("net")
    c = Context(graph, params)
    inputs = input_shapes(symbol, params, params_said, shapes)
    outputs: dict[tuple[int, int], Operand] = {}
    for index in used:
        node = symbol.nodes[index]
        if node.op == "null":
            if node.name in inputs:
                first, *rest = inputs[node.name]
                outputs[index, 0] = graph.input(node.name, (first + extra, *rest))
            else:
                outputs[index, 0] = Weight(node.name, params[node.name])
            continue
        graph.where, graph.scope = node.where, node.name
        given = [_operand(node, pair, symbol, outputs) for pair in _data(node)]
        for place, value in enumerate(SUPPORTED[node.op](c, node, given)):
            outputs[index, place] = Value(value.name, value.shape, f"node '{node.name}'")
    widths = Counter(index for index, _ in outputs)
    for pair in symbol.heads:
        node = symbol.nodes[pair[0]]
        operand = _operand(node, pair, symbol, outputs)
        many = widths[pair[0]] > 1
        graph.where, graph.scope = node.where, node.name
        graph.output(f"{node.name}_output{pair[1] if many else ''}", c.value(operand))
    return graph


def input_shapes(
    symbol: Symbol, params: Params, params_said: str, given: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input: what the user said, else what the variable declares; a variable batch is 1.

    Raises:
        ModelError: an input without a shape, or a weight that is missing.
        UsageError: a name that is no input, or a variable axis other than the first.
    """
    free = [symbol.nodes[i] for i in _reached(symbol) if symbol.nodes[i].op == "null"]
    free = [node for node in free if node.name not in params]
    missing = [node.name for node in free if node.name.endswith(_LEARNED) and node.name not in given]
    if missing:
        raise ModelError(f"{params_said} lack {len(missing)} arrays the net needs: {', '.join(missing[:8])}")
    names = [node.name for node in free]
    named = dict(given)
    if "" in named and len(names) == 1:
        named.setdefault(names[0], named.pop(""))
    unknown = sorted(named.keys() - set(names))
    if unknown:
        said = f"'{unknown[0]}'" if unknown[0] else "an unnamed shape"
        raise UsageError(f"--input-shape gives {said}, but the net's inputs are {names}; name one of them")
    shapes = {}
    for node in free:
        shape = tuple(named.get(node.name, node.integers("__shape__")))
        if not shape or min(shape[1:], default=1) < 1 or shape[0] < UNKNOWN or shape[0] == 0:
            raise ModelError(
                f"input '{node.name}' has no complete shape: a symbol holds none. Give it: --input-shape"
                f" {node.name}=1,3,224,224"
            )
        shapes[node.name] = (1, *shape[1:]) if shape[0] == UNKNOWN else shape
    return shapes


def _data(node: Node) -> tuple[tuple[int, int], ...]:
    """Return what a node reads at inference: labels are dropped."""
    return node.inputs[:1] if node.op in LABELLED else node.inputs


def _reached(symbol: Symbol) -> list[int]:
    """Return the nodes the heads need, in order."""
    todo, found = [index for index, _ in symbol.heads], set[int]()
    while todo:
        index = todo.pop()
        if index not in found:
            found.add(index)
            todo += [source for source, _ in _data(symbol.nodes[index])]
    return sorted(found)


def _operand(node: Node, pair: tuple[int, int], symbol: Symbol, outputs: Mapping[tuple[int, int], Operand]) -> Operand:
    if pair not in outputs:
        raise ModelError(f"{node.where} uses output {pair[1]} of {symbol.nodes[pair[0]].where}, which is not computed")
    return outputs[pair]


def _refuse_unknown(symbol: Symbol, used: list[int]) -> None:
    counts = Counter(symbol.nodes[i].op for i in used if symbol.nodes[i].op not in SUPPORTED)
    counts.pop("null", None)
    if counts:
        listed = ", ".join(f"{op} ({count})" for op, count in counts.most_common())
        raise Unsupported(
            f"the net has operators Whet does not read: {listed}. Export it with MXNet's own onnx module, or replace"
            " them; docs/formats.md lists what is read"
        )
