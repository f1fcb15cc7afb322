"""Which operators are read: name -> the function that adds it. The documentation is generated from this."""

from whet.models.importers.mxnet import layers, tensors
from whet.models.importers.mxnet.context import OperatorFunction

_ADD = tensors.joined("Add", "Sum of tensors of one shape.")
_SUB = tensors.joined("Sub", "Difference of tensors of one shape.")
_MUL = tensors.joined("Mul", "Product of tensors of one shape.")
_DIV = tensors.joined("Div", "Quotient of tensors of one shape.")


def _scalars(camel: str, snake: str, function: OperatorFunction) -> dict[str, OperatorFunction]:
    return {camel: function, snake: function}


SUPPORTED: dict[str, OperatorFunction] = {
    "Convolution": layers.convolution,
    "Convolution_v1": layers.convolution,
    "Deconvolution": layers.deconvolution,
    "FullyConnected": layers.fully_connected,
    "BatchNorm": layers.batch_norm,
    "BatchNorm_v1": layers.batch_norm,
    "CuDNNBatchNorm": layers.batch_norm,
    "Pooling": layers.pooling,
    "Activation": layers.activation,
    "LeakyReLU": layers.leaky_relu,
    "LRN": layers.lrn,
    "InstanceNorm": layers.instance_norm,
    "L2Normalization": layers.l2_normalization,
    "softmax": layers.softmax,
    "log_softmax": layers.softmax,
    "SoftmaxActivation": layers.softmax_activation,
    "SoftmaxOutput": layers.softmax_output,
    "Softmax": layers.softmax_output,
    **dict.fromkeys(
        ("LinearRegressionOutput", "MAERegressionOutput", "LogisticRegressionOutput"), layers.regression_output
    ),
    "UpSampling": layers.up_sampling,
    "Embedding": layers.embedding,
    "relu": layers.simple("Relu", "``max(x, 0)``."),
    "sigmoid": layers.simple("Sigmoid", "``1 / (1 + exp(-x))``."),
    "tanh": layers.simple("Tanh", "Hyperbolic tangent."),
    "softsign": layers.simple("Softsign", "``x / (1 + abs(x))``."),
    "exp": layers.simple("Exp", "``e ** x``."),
    "log": layers.simple("Log", "Natural logarithm."),
    "sqrt": layers.simple("Sqrt", "Square root."),
    "abs": layers.simple("Abs", "Absolute value."),
    "negative": layers.simple("Neg", "``-x``."),
    "square": tensors.square,
    **dict.fromkeys(("Dropout", "identity", "_copy", "BlockGrad", "MakeLoss", "make_loss"), tensors.passing),
    **dict.fromkeys(("elemwise_add", "_Plus", "_plus", "_add", "ElementWiseSum", "add_n"), _ADD),
    **dict.fromkeys(("elemwise_sub", "_Minus", "_minus", "_sub"), _SUB),
    **dict.fromkeys(("elemwise_mul", "_Mul", "_mul"), _MUL),
    **dict.fromkeys(("elemwise_div", "_Div", "_div"), _DIV),
    **dict.fromkeys(("broadcast_add", "broadcast_plus"), tensors.joined("Add", "Sum, broadcast.", spread=True)),
    **dict.fromkeys(("broadcast_sub", "broadcast_minus"), tensors.joined("Sub", "Difference, broadcast.", spread=True)),
    "broadcast_mul": tensors.joined("Mul", "Product, broadcast.", spread=True),
    "broadcast_div": tensors.joined("Div", "Quotient, broadcast.", spread=True),
    "broadcast_maximum": tensors.joined("Max", "The larger, broadcast.", spread=True),
    **dict.fromkeys(("_maximum", "_Maximum"), tensors.joined("Max", "The larger of two tensors.")),
    **_scalars("_PlusScalar", "_plus_scalar", tensors.scalar("Add", "``x + scalar``.")),
    **_scalars("_MinusScalar", "_minus_scalar", tensors.scalar("Sub", "``x - scalar``.")),
    **_scalars("_RMinusScalar", "_rminus_scalar", tensors.scalar("Sub", "``scalar - x``.", turned=True)),
    **_scalars("_MulScalar", "_mul_scalar", tensors.scalar("Mul", "``x * scalar``.")),
    **_scalars("_DivScalar", "_div_scalar", tensors.scalar("Div", "``x / scalar``.")),
    **_scalars("_RDivScalar", "_rdiv_scalar", tensors.scalar("Div", "``scalar / x``.", turned=True)),
    **_scalars("_PowerScalar", "_power_scalar", tensors.scalar("Pow", "``x ** scalar``.")),
    **_scalars("_MaximumScalar", "_maximum_scalar", tensors.scalar("Max", "``max(x, scalar)``.")),
    **_scalars("_MinimumScalar", "_minimum_scalar", tensors.scalar("Min", "``min(x, scalar)``.")),
    "clip": tensors.clip,
    **dict.fromkeys(("Cast", "cast"), tensors.cast),
    **dict.fromkeys(("Flatten", "flatten"), tensors.flatten),
    **dict.fromkeys(("Reshape", "reshape"), tensors.reshape),
    "transpose": tensors.transpose,
    **dict.fromkeys(("SwapAxis", "swapaxes"), tensors.swap_axis),
    "expand_dims": tensors.expand_dims,
    "squeeze": tensors.squeeze,
    **dict.fromkeys(("Concat", "concat"), tensors.concat),
    **dict.fromkeys(("SliceChannel", "split"), tensors.slice_channel),
    "slice_axis": tensors.slice_axis,
    "Crop": tensors.crop,
    **dict.fromkeys(("Pad", "pad"), tensors.pad),
    "mean": tensors.reduction("ReduceMean", "Mean over axes."),
    **dict.fromkeys(("sum", "sum_axis"), tensors.reduction("ReduceSum", "Sum over axes.")),
    **dict.fromkeys(("max", "max_axis"), tensors.reduction("ReduceMax", "Largest over axes.")),
    **dict.fromkeys(("min", "min_axis"), tensors.reduction("ReduceMin", "Smallest over axes.")),
}
"""Operator -> function. Variables (``null``) are inputs or weights."""

LABELLED = frozenset(("SoftmaxOutput", "Softmax", "LinearRegressionOutput", "MAERegressionOutput")) | {
    "LogisticRegressionOutput"
}
"""Operators whose second input is a training label, which is dropped."""
