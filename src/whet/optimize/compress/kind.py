"""What kind of net an artifact holds, told from its operators: recipes and their presets are chosen by it. Pure."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from whet.models.artifact import Artifact

Kind = Literal["recurrent", "transformer", "cnn", "other"]
RECURRENT = frozenset(
    {"LSTMSequence", "GRUSequence", "RNNSequence", "LSTMCell", "GRUCell", "RNNCell", "Loop", "TensorIterator"}
    | {"LSTM", "GRU", "RNN", "Scan"}
)
"""Operators that carry a state from step to step, in OpenVINO's and in ONNX's names."""
ATTENTION = ("Softmax", "SoftMax", "ScaledDotProductAttention", "Attention", "MultiHeadAttention")
NORMALISED = ("MVN", "RMS", "LayerNormalization", "RMSNormalization", "SkipLayerNormalization", "ReduceMean")
PRODUCTS = ("MatMul", "Gemm")
CONVOLUTIONS = ("Convolution", "GroupConvolution", "Conv")


def kind_of(operators: Mapping[str, int]) -> Kind:
    """Return the kind of a net that holds each operator so many times."""
    if RECURRENT.intersection(operators):
        return "recurrent"

    def count(names: tuple[str, ...]) -> int:
        return sum(operators.get(name, 0) for name in names)

    attention = count(ATTENTION)
    if attention >= 2 and (count(NORMALISED) >= 2 or count(PRODUCTS) >= 4 * attention):
        return "transformer"
    return "cnn" if count(CONVOLUTIONS) else "other"


def operators(artifact: Artifact) -> Counter[str]:
    """Return how often each operator stands in an artifact's graph; empty for formats that no recipe takes."""
    if artifact.format == "onnx":
        import onnx

        return Counter(node.op_type for node in onnx.load(artifact.path, load_external_data=False).graph.node)
    if artifact.format == "ir":
        return Counter(re.findall(r'<layer [^>]*type="(\w+)"', artifact.path.read_text(encoding="utf-8")))
    return Counter()
