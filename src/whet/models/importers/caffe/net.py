"""From a parsed prototxt to a list of layers in today's form (Caffe's V2), for the TEST phase.

V0 (2013: ``layers { layer { type: "conv" ... } }``) and V1 (2014: ``layers { type: CONVOLUTION ... }``) are upgraded
as Caffe's ``util/upgrade_proto.cpp`` does. Which layers take part follows ``Net::FilterNet``: ``include`` and
``exclude`` rules with phase, level and stages.
"""

from dataclasses import dataclass, field

from whet.errors import ModelError
from whet.models.importers.caffe.prototxt import Message, Scalar

MAX_LAYERS = 20_000

V1_TYPES = {
    **{word.upper(): word for word in ("Accuracy", "ArgMax", "BNLL", "Concat", "Convolution", "Data", "Deconvolution")},
    **{word.upper(): word for word in ("Dropout", "Eltwise", "Exp", "Flatten", "Im2col", "LRN", "MVN", "Pooling")},
    **{word.upper(): word for word in ("Power", "ReLU", "Sigmoid", "Silence", "Softmax", "Split", "Slice", "TanH")},
    "ABSVAL": "AbsVal",
    "THRESHOLD": "Threshold",
    "INNER_PRODUCT": "InnerProduct",
    "IMAGE_DATA": "ImageData",
    "DUMMY_DATA": "DummyData",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "MEMORY_DATA": "MemoryData",
    "WINDOW_DATA": "WindowData",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "HINGE_LOSS": "HingeLoss",
    "INFOGAIN_LOSS": "InfogainLoss",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
}
"""V1's enum ``V1LayerParameter.LayerType`` to V2's type names."""

V0_TYPES = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "window_data": "WindowData",
    "padding": "Padding",
}
"""V0's type names to V2's; ``Padding`` is merged into the convolution behind it."""

_V0_BLOCKS = {
    "Convolution": "convolution_param",
    "InnerProduct": "inner_product_param",
    "Pooling": "pooling_param",
    "Dropout": "dropout_param",
    "LRN": "lrn_param",
    "Concat": "concat_param",
    **dict.fromkeys(("Data", "ImageData", "WindowData"), "transform_param"),
}
_V0_FIELDS = {"biasterm": "bias_term", "kernelsize": "kernel_size", "meanfile": "mean_file", "cropsize": "crop_size"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in V2's form.

    Attributes:
        name: its name; weights are found by it.
        type: V2's type name.
        bottoms: names of the tensors it reads.
        tops: names of the tensors it writes; one that is also a bottom is written in place.
        message: the layer's block.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    message: Message

    @property
    def where(self) -> str:
        """Names the layer in messages."""
        return f"layer '{self.name}' ({self.type})"

    def param(self, block: str) -> Message:
        """Return a block of parameters, or an empty one."""
        return self.message.message(block)


@dataclass(frozen=True, slots=True)
class Net:
    """A net for the TEST phase.

    Attributes:
        name: its name, may be empty.
        inputs: shape by name of the inputs declared outside the layers.
        layers: in the order they run.
        version: 0, 1 or 2, the oldest form found.
        skipped: layers of the file that take no part, by type.
    """

    name: str
    inputs: dict[str, tuple[int, ...]]
    layers: tuple[Layer, ...]
    version: int
    skipped: dict[str, int] = field(default_factory=dict)


def read_net(root: Message, what: str) -> Net:
    """Read the layers of a net, upgraded and filtered.

    Raises:
        ModelError: no layers, too many, or one without a type; a solver file is told apart.
    """
    blocks = [*root.messages("layers"), *root.messages("layer")]
    if not blocks:
        solver = "net" in root or "base_lr" in root
        hint = "it is a solver file: give the prototxt its 'net' names" if solver else "give the deploy prototxt"
        raise ModelError(f"{what} holds no layers; {hint}")
    if len(blocks) > MAX_LAYERS:
        raise ModelError(f"{what} has {len(blocks)} layers, more than the {MAX_LAYERS} Whet reads")
    versions = [_version(block) for block in blocks]
    layers = [(_LAYER_OF[version])(block) for version, block in zip(versions, blocks, strict=True)]
    kept: list[Layer] = []
    skipped: dict[str, int] = {}
    for block, layer in zip(blocks, layers, strict=True):
        if _takes_part(block, root.message("state")):
            kept.append(layer)
        else:
            skipped[layer.type] = skipped.get(layer.type, 0) + 1
    return Net(root.text("name"), _inputs(root, what), tuple(_merge_padding(kept)), min(versions), skipped)


def _inputs(root: Message, what: str) -> dict[str, tuple[int, ...]]:
    root.where = root.where or what
    names = root.texts("input")
    dims = root.integers("input_dim", 1)
    shapes = [tuple(block.integers("dim", 1)) for block in root.messages("input_shape")]
    if not shapes:
        shapes = [tuple(dims[start : start + 4]) for start in range(0, len(dims), 4)]
    if len(names) != len(shapes) and (shapes or dims):
        raise ModelError(
            f"{what} declares {len(names)} inputs {names[:5]} but {len(shapes)} shapes; give each input one input_shape"
        )
    return dict(zip(names, shapes, strict=True)) if shapes else dict.fromkeys(names, ())


def _version(block: Message) -> int:
    if block.messages("layer"):
        return 0
    kinds = block.scalars("type")
    if not kinds or kinds[-1].quoted:
        return 2
    return 1 if kinds[-1].raw in V1_TYPES else 2


def _layer(block: Message, kind: str, name: str) -> Layer:
    layer = Layer(name, kind, tuple(block.texts("bottom")), tuple(block.texts("top")), block)
    if not kind:
        raise ModelError(f"line {block.line}: layer '{name}' has no type")
    block.where = layer.where
    return layer


def _layer_v2(block: Message) -> Layer:
    return _layer(block, block.text("type"), block.text("name"))


def _layer_v1(block: Message) -> Layer:
    """Upgrade V1: the type's name, and data_param's mean and scale, which moved to transform_param."""
    layer = _layer(block, V1_TYPES[block.text("type")], block.text("name"))
    moved = {"scale", "mean_file", "crop_size", "mirror"}
    for name in ("data_param", "image_data_param", "window_data_param"):
        for old in block.messages(name):
            found = {key: values for key, values in old.fields.items() if key in moved}
            if found:
                target = Message(old.line, fields={**found, **block.message("transform_param").fields})
                block.fields["transform_param"] = [target]
    return layer


def _layer_v0(block: Message) -> Layer:
    """Upgrade V0: its fields lie flat in the nested ``layer`` and move to the block of their type."""
    inner = block.message("layer")
    kind = V0_TYPES.get(inner.text("type"), inner.text("type"))
    fields: dict[str, list[Scalar | Message]] = {
        _V0_FIELDS.get(key, key): values for key, values in inner.fields.items() if key not in ("name", "type")
    }
    upgraded = Message(block.line, fields={key: block.fields[key] for key in ("bottom", "top") if key in block})
    upgraded.fields[_V0_BLOCKS.get(kind, "v0_param")] = [Message(inner.line, fields=fields)]
    layer = _layer(upgraded, kind, inner.text("name"))
    if kind == "Padding":
        upgraded.where = layer.where
    return layer


_LAYER_OF = {0: _layer_v0, 1: _layer_v1, 2: _layer_v2}


def _merge_padding(layers: list[Layer]) -> list[Layer]:
    """Give a V0 padding layer's pad to the layer that reads it, as ``UpgradeV0PaddingLayers`` does."""
    paddings = {top: layer for layer in layers if layer.type == "Padding" for top in layer.tops}
    merged = []
    for layer in layers:
        if layer.type == "Padding":
            continue
        padding = next((paddings[name] for name in layer.bottoms if name in paddings), None)
        if padding is None:
            merged.append(layer)
            continue
        if layer.type not in ("Convolution", "Pooling") or len(padding.bottoms) != 1:
            raise ModelError(f"{padding.where} pads the input of {layer.where}; only convolution and pooling take that")
        layer.param(_V0_BLOCKS[layer.type]).fields["pad"] = list(padding.param("v0_param").scalars("pad"))
        merged.append(Layer(layer.name, layer.type, padding.bottoms, layer.tops, layer.message))
    return merged


def _takes_part(block: Message, state: Message) -> bool:
    includes, excludes = block.messages("include"), block.messages("exclude")
    if includes:
        return any(_meets(rule, state) for rule in includes)
    return not any(_meets(rule, state) for rule in excludes)


def _meets(rule: Message, state: Message) -> bool:
    """``Net::StateMeetsRule`` for the phase TEST, with the level and the stages the file's ``state`` gives."""
    level, stages = state.integer("level", 0, -(1 << 31)), set(state.texts("stage"))
    return (
        rule.text("phase", "TEST") in ("TEST", "1")
        and rule.integer("min_level", level, -(1 << 31)) <= level <= rule.integer("max_level", level, -(1 << 31))
        and stages.issuperset(rule.texts("stage"))
        and stages.isdisjoint(rule.texts("not_stage"))
    )
