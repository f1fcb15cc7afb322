"""How much arithmetic an operator does, from its shapes. Pure; the formulas are the documentation.

A multiply-accumulate (MAC) counts as two floating-point operations (FLOPs). With ``out`` and ``in`` the number of
elements of the output and the first input:

=====================  ==========================================================================================
operator               MACs
=====================  ==========================================================================================
convolution            ``out * channels_in / groups * kernel``; the bias adds ``out`` FLOPs
transposed             ``in * channels_out / groups * kernel`` (every input element is spread over a kernel)
matrix product         ``out * shared``, shared being the axis that is summed over
LSTM, GRU, RNN         ``directions * steps * batch * gates * hidden * (input + hidden)``, gates 4, 3, 1
=====================  ==========================================================================================

Operators without MACs cost FLOPs: pooling ``out * kernel``; one a result for elementwise arithmetic, comparison and
activation (an exponential counts as one, as tools of the field count it); softmax five (maximum, difference,
exponential, sum, quotient); normalisation by stored statistics two, by computed ones eight; a reduction ``in``.
Moving data (reshape, transpose, concat, cast, gather, ...) costs none.
"""

import math
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Arithmetic of one operator at one shape.

    Attributes:
        macs: multiply-accumulates.
        extra: FLOPs besides.
    """

    macs: int = 0
    extra: int = 0

    @property
    def flops(self) -> int:
        """FLOPs in all: two a MAC, and what is besides."""
        return 2 * self.macs + self.extra

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.extra + other.extra)


_BINARY = """
    Add Subtract Sub Multiply Mul Divide Div Power Pow Maximum Max Minimum Min Mod FloorMod Equal NotEqual Greater Less
    GreaterEqual LessEqual GreaterOrEqual LessOrEqual And Or Xor LogicalAnd LogicalOr LogicalXor SquaredDifference
    PRelu PReLU Sum Mean Where Select
"""
_UNARY = """
    Relu ReLU LeakyRelu Clip Clamp Sigmoid Tanh Exp Log Sqrt Abs Neg Negative Elu Selu Gelu HardSigmoid HardSwish
    HSwish HSigmoid Swish Mish Softplus SoftPlus Softsign SoftSign Erf Floor Ceil Ceiling Round Reciprocal Sin Cos Not
    LogicalNot ThresholdedRelu Sign FakeQuantize QuantizeLinear DequantizeLinear
"""
ELEMENTWISE = frozenset((_BINARY + _UNARY).split())
"""ONNX and OpenVINO operators that do one operation a result."""
SOFTMAX = frozenset({"Softmax", "SoftMax", "LogSoftmax", "LogSoftMax"})
STORED_NORM = frozenset({"BatchNormalization", "BatchNormInference"})
COMPUTED_NORM = frozenset(
    {
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "MVN",
        "LRN",
        "LpNormalization",
        "NormalizeL2",
    }
)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def conv(out: Shape, weight_per_result: Shape, *, bias: bool = False) -> Cost:
    """Convolution; ``weight_per_result`` is (channels in / groups, *kernel)."""
    size = math.prod(out)
    return Cost(size * math.prod(weight_per_result), size if bias else 0)


def deconv(data: Shape, weight_per_element: Shape, out: Shape, *, bias: bool = False) -> Cost:
    """Transposed convolution; ``weight_per_element`` is (channels out / groups, *kernel)."""
    return Cost(math.prod(data) * math.prod(weight_per_element), math.prod(out) if bias else 0)


def matmul(out: Shape, shared: int, *, bias: bool = False) -> Cost:
    """Matrix product that sums over ``shared`` elements for each result."""
    size = math.prod(out)
    return Cost(size * shared, size if bias else 0)


def pool(out: Shape, kernel: Shape) -> Cost:
    """Maximum or average over ``kernel`` elements for each result."""
    return Cost(extra=math.prod(out) * math.prod(kernel))


def recurrent(kind: str, rows: int, directions: int, hidden: int, width: int) -> Cost:
    """LSTM, GRU or RNN over ``rows`` = steps x batch, ``width`` inputs each."""
    return Cost(rows * directions * GATES[kind] * hidden * (width + hidden))


def simple(kind: str, data: Shape, out: Shape) -> Cost:
    """Every operator that needs no attribute: elementwise, softmax, normalisation, reduction; else nothing."""
    size = math.prod(out)
    if kind in ELEMENTWISE:
        return Cost(extra=size)
    if kind in SOFTMAX:
        return Cost(extra=5 * size)
    if kind in STORED_NORM:
        return Cost(extra=2 * size)
    if kind in COMPUTED_NORM:
        return Cost(extra=8 * size)
    if kind.startswith("Reduce") or kind in {"ArgMax", "ArgMin", "TopK", "GlobalAveragePool", "GlobalMaxPool"}:
        return Cost(extra=math.prod(data))
    return Cost()
