"""Which layer types are read: type name -> the function that adds it. The documentation is generated from this."""

from whet.models.importers.caffe import pointwise, rearrange, spatial, ssd
from whet.models.importers.caffe.context import LayerFunction

SUPPORTED: dict[str, LayerFunction] = {
    "Convolution": spatial.convolution,
    "DepthwiseConvolution": spatial.depthwise_convolution,
    "ConvolutionDepthwise": spatial.depthwise_convolution,
    "Deconvolution": spatial.deconvolution,
    "Pooling": spatial.pooling,
    "InnerProduct": spatial.inner_product,
    "LRN": spatial.lrn,
    "BatchNorm": pointwise.batch_norm,
    "BN": pointwise.fork_bn,
    "Scale": pointwise.scale,
    "Bias": pointwise.bias,
    "Eltwise": pointwise.eltwise,
    "Softmax": pointwise.softmax,
    "ReLU": pointwise.relu,
    "PReLU": pointwise.prelu,
    "ELU": pointwise.elu,
    "ReLU6": pointwise.relu6,
    "Clip": pointwise.clip,
    "Swish": pointwise.swish,
    "Sigmoid": pointwise.simple("Sigmoid", "``1 / (1 + exp(-x))``."),
    "TanH": pointwise.simple("Tanh", "Hyperbolic tangent."),
    "AbsVal": pointwise.simple("Abs", "Absolute value."),
    "BNLL": pointwise.simple("Softplus", "``log(1 + exp(x))``."),
    "Power": pointwise.power,
    "Exp": pointwise.exponential,
    "Log": pointwise.logarithm,
    "Threshold": pointwise.threshold,
    "MVN": pointwise.mvn,
    "Normalize": pointwise.normalize,
    "Axpy": pointwise.axpy,
    "Concat": rearrange.concat,
    "Slice": rearrange.slice_,
    "Split": rearrange.passing,
    "Dropout": rearrange.passing,
    "Silence": rearrange.silence,
    "Flatten": rearrange.flatten,
    "Reshape": rearrange.reshape,
    "Permute": rearrange.permute,
    "Crop": rearrange.crop,
    "Tile": rearrange.tile,
    "ArgMax": rearrange.argmax,
    "Reduction": rearrange.reduction,
    "Embed": rearrange.embed,
    "Interp": rearrange.interp,
    "Upsample": rearrange.upsample,
    "ShuffleChannel": rearrange.shuffle_channel,
    "PriorBox": ssd.prior_box,
    "DetectionOutput": ssd.detection_output,
}
"""Layer type -> function. ``Input`` and the data layers are read where the net's inputs are declared."""

DATA = frozenset(("Input", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", "AnnotatedData", "DummyData"))
"""Layers that bring the input; their tops become the net's inputs, but for labels that nothing at inference reads."""

SKIPPED = frozenset(("Accuracy", "HDF5Output", "DetectionEvaluate", "MultiBoxLoss"))
"""Layers that only matter in training or measuring, besides every type that ends in ``Loss``."""

REFUSED = {
    "Reorg": "its forks disagree on the order of the elements",
    "Python": "it is code outside the file",
    "ROIPooling": "its boxes come from a layer written in Python in every published net",
    "Proposal": "it is code of one fork",
    "SPP": "its windows depend on the input size in a way runtimes cannot express",
}
"""Layers known and refused: type -> why."""
