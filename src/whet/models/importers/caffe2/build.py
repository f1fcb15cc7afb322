"""From a predict_net and the filled blobs to an ONNX graph: inputs, operators in order, external outputs."""

from collections import Counter
from collections.abc import Mapping

from whet.errors import ModelError, Unsupported, UsageError
from whet.models.importers.caffe2.fills import Blobs
from whet.models.importers.caffe2.layers import DETECTORS, SUPPORTED, Context
from whet.models.importers.caffe2.netdef import NetDef
from whet.models.importers.onnx_graph import UNKNOWN, Graph, Value


def build(net: NetDef, blobs: Blobs, shapes: Mapping[str, tuple[int, ...]], extra: int = 0) -> Graph:
    """Convert a predict_net.

    Args:
        net: the operators.
        blobs: arrays of the init_net by name.
        shapes: what the user said, by input name ("" is the only input).
        extra: added to the first axis of every input.

    Raises:
        Unsupported: operators Whet does not read, all at once.
        ModelError: shapes that do not fit, an input without a shape, missing weights; names the operator.
        UsageError: ``shapes`` names no input.
    """
    _refuse_unknown(net)
    graph = Graph(net.name)
    values: dict[str, Value] = {
        name: graph.input(name, (shape[0] + extra, *shape[1:]))
        for name, shape in input_shapes(net, blobs, shapes).items()
    }
    c = Context(graph, blobs, values)
    beside: set[str] = set()  # second outputs: masks and old shapes, which inference does not need
    for op in net.operators:
        graph.where, graph.scope = op.where, op.outputs[0] if op.outputs else op.type
        if not op.outputs:
            raise ModelError(f"{op.where} writes nothing; the file is damaged")
        value = SUPPORTED[op.type](c, op)
        values[op.outputs[0]] = Value(value.name, value.shape, op.where)
        beside.update(op.outputs[1:])
    wanted = [name for name in net.outputs if name not in beside or name in values]
    missing = [name for name in wanted if name not in values]
    if missing or not wanted:
        raise ModelError(f"the net's outputs {missing or list(net.outputs)} are written by no operator")
    for name in wanted:
        graph.output(name, values[name])
    return graph


def input_shapes(net: NetDef, blobs: Blobs, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input.

    The inputs are those the user names, else external inputs the init_net does not fill, else the first external
    input: an init_net may fill the input too, with a sample.

    Raises:
        ModelError: an input without a shape.
        UsageError: a name that is no external input, or a variable axis other than the first.
    """
    written = {name for op in net.operators for name in op.outputs}
    read = {name for op in net.operators for name in op.inputs}
    outside = list(dict.fromkeys([*net.inputs, *(n for op in net.operators for n in op.inputs if n not in written)]))
    outside = [name for name in outside if name in read]
    unfilled = [name for name in outside if name not in blobs]
    named = [name for name in given if name in outside]
    names = list(dict.fromkeys([*unfilled, *named])) or outside[:1]
    told = dict(given)
    if "" in told and len(names) == 1:
        told.setdefault(names[0], told.pop(""))
    unknown = sorted(told.keys() - set(names))
    if unknown:
        said = f"'{unknown[0]}'" if unknown[0] else "an unnamed shape"
        raise UsageError(f"--input-shape gives {said}, but the net's inputs are {names}; name one of them")
    shapes = {}
    for name in names:
        shape = tuple(told.get(name, blobs[name].shape if name in blobs else ()))
        if not shape or min(shape[1:], default=1) < 1 or shape[0] < UNKNOWN or shape[0] == 0:
            raise ModelError(
                f"input '{name}' has no complete shape: a NetDef holds none. Give it: --input-shape {name}=1,3,224,224;"
                " or, if it is a weight, name the init_net: --weights FILE"
            )
        shapes[name] = (1, *shape[1:]) if shape[0] == UNKNOWN else shape
    if not shapes:
        raise ModelError("the net reads no external input; it is an init_net or damaged")
    return shapes


def _refuse_unknown(net: NetDef) -> None:
    counts = Counter(op.type for op in net.operators if op.type not in SUPPORTED)
    if not counts:
        return
    why = ""
    if any(kind in DETECTORS for kind in counts):
        why = " It is a detector that branches on what it finds; export it from its source framework."
    elif any(kind.startswith("Int8") for kind in counts):
        why = " It is quantised to int8; import the float32 net and let Whet quantise it."
    listed = ", ".join(f"{kind} ({count})" for kind, count in counts.most_common())
    raise Unsupported(f"the net has operators Whet does not read: {listed}.{why} docs/formats.md lists what is read")
