"""From a net and its weights to an ONNX graph: inputs, layers in order, outputs."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from whet.errors import ModelError, Unsupported, UsageError
from whet.models.importers.caffe.context import Context
from whet.models.importers.caffe.net import Layer, Net
from whet.models.importers.caffe.table import DATA, REFUSED, SKIPPED, SUPPORTED
from whet.models.importers.caffe.weights import Weights
from whet.models.importers.onnx_graph import UNKNOWN, Graph, Value


def build(
    net: Net, weights: Weights | None, weights_said: str, shapes: Mapping[str, tuple[int, ...]], extra: int = 0
) -> Graph:
    """Convert a net.

    Args:
        net: the layers.
        weights: learned blobs, or None.
        weights_said: where they come from, or why there are none; for messages.
        shapes: what the user said, by input name ("" is the only input).
        extra: added to the first axis of every input.

    Raises:
        Unsupported: layer types Whet does not read, all at once.
        ModelError: shapes that do not fit, parameters or weights that make no sense; names the layer.
        UsageError: ``shapes`` names no input.
    """
    _refuse_unknown(net)
    c = Context(Graph(net.name), weights, weights_said, extra)
    values = {
        name: c.graph.input(name, (shape[0] + extra, *shape[1:])) for name, shape in input_shapes(net, shapes).items()
    }
    free = dict.fromkeys(values)  # tops nothing has read yet, in order: what is left are the outputs
    for layer in net.layers:
        if _skipped(layer.type) or layer.type in DATA:
            continue
        c.graph.where, c.graph.scope = layer.where, layer.name
        bottoms = [_value(layer, name, values) for name in layer.bottoms]
        tops = SUPPORTED[layer.type](c, layer, bottoms)
        for name in layer.bottoms:
            free.pop(name, None)
        if len(tops) != len(layer.tops):
            raise ModelError(f"{layer.where} names {len(layer.tops)} tops, {len(tops)} belong there")
        for name, value in zip(layer.tops, tops, strict=True):
            values[name] = Value(value.name, value.shape, f"layer '{layer.name}'")
            free[name] = None
    outputs = [name for name in free if name not in c.graph.inputs or values[name].name != name]
    if not outputs:
        raise ModelError("the net has no outputs: every tensor is read again or it has no layers for inference")
    for name in outputs:
        c.graph.output(name, values[name])
    return c.graph


def input_shapes(net: Net, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input: what the user said, else what the file declares; a variable batch is 1 here.

    Raises:
        ModelError: an input without a shape.
        UsageError: a name that is no input, or a variable axis other than the first.
    """
    declared = dict(net.inputs)
    read = {name for layer in net.layers if not _skipped(layer.type) for name in layer.bottoms}
    for layer in net.layers:
        if layer.type in DATA:
            declared.update({top: shape for top, shape in _data_shapes(layer).items() if top in read})
    named = dict(given)
    if "" in named and len(declared) == 1:
        named.setdefault(next(iter(declared)), named.pop(""))
    unknown = sorted(named.keys() - declared.keys())
    if unknown:
        said = "an unnamed shape" if unknown == [""] else f"'{unknown[0]}'"
        raise UsageError(f"--input-shape gives {said}, but the net's inputs are {sorted(declared)}; name one of them")
    shapes = {}
    for name, shape in declared.items():
        wanted = tuple(named.get(name, shape))
        if not wanted:
            raise ModelError(f"input '{name}' has no shape in the file; give it: --input-shape {name}=1,3,224,224")
        if UNKNOWN in wanted[1:]:
            raise UsageError(f"--input-shape {name}: only the first axis can be variable, not {list(wanted)}")
        shapes[name] = (shape[0] if shape else 1, *wanted[1:]) if wanted[0] == UNKNOWN else wanted
    return shapes


def _data_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Return what a data layer says of its tops' shapes; empty where it says nothing."""
    if layer.type == "Input":
        shapes = [tuple(block.integers("dim", 1)) for block in layer.param("input_param").messages("shape")]
        shapes = shapes * len(layer.tops) if len(shapes) == 1 else shapes
        if shapes and len(shapes) != len(layer.tops):
            raise ModelError(f"{layer.where} has {len(layer.tops)} tops and {len(shapes)} shapes")
        return dict(zip(layer.tops, shapes or [()] * len(layer.tops), strict=True))
    shape: tuple[int, ...] = ()
    if layer.type == "MemoryData":
        block = layer.param("memory_data_param")
        shape = tuple(block.integer(name, 1, 1) for name in ("batch_size", "channels", "height", "width"))
    return dict(zip(layer.tops, [shape], strict=False)) | dict.fromkeys(layer.tops[1:], ())


def _skipped(kind: str) -> bool:
    return kind in SKIPPED or kind.endswith("Loss") or kind == "SoftmaxWithLoss"


def _refuse_unknown(net: Net) -> None:
    counts = Counter(
        layer.type
        for layer in net.layers
        if layer.type not in SUPPORTED and layer.type not in DATA and not _skipped(layer.type)
    )
    if counts:
        listed = ", ".join(
            f"{kind} ({count}{': ' + REFUSED[kind] if kind in REFUSED else ''})" for kind, count in counts.most_common()
        )
        raise Unsupported(
            f"the net has layers Whet does not read: {listed}. Convert it with the framework that made them, or replace"
            " them; docs/formats.md lists what is read"
        )


def _value(layer: Layer, name: str, values: Mapping[str, Value]) -> Value:
    if name not in values:
        raise ModelError(f"{layer.where} reads '{name}', which no layer before it writes and no input is called")
    return values[name]


def find_weights(model: Path, given: Path | None) -> tuple[Path | None, str]:
    """Return the caffemodel of a prototxt and words about it: the one given, of the same stem, or the only one.

    ``deploy`` in the prototxt's name does not count: ``X_deploy.prototxt`` belongs to ``X.caffemodel``.
    """
    if given is not None:
        return given, f"'{given.name}'"
    found = sorted(path for path in model.parent.glob("*.caffemodel") if path.is_file())
    for stem in (model.stem, *(model.stem.replace(word, "") for word in ("_deploy", "-deploy", ".deploy", "deploy_"))):
        for path in found:
            if path.stem == stem:
                return path, f"'{path.name}'"
    if len(found) == 1:
        return found[0], f"'{found[0].name}'"
    if not found:
        return None, "no caffemodel lies beside the prototxt; name it: --weights FILE"
    names = ", ".join(path.name for path in found[:8])
    return None, f"{len(found)} caffemodels lie beside the prototxt and none has its name: {names}; name one: --weights"
