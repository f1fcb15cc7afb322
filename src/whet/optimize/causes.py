"""Why a compressed plan does not win: the causes that measured facts can show, dearest first. Pure.

A cause is named only where a number shows it; with none the answer says so, and shows the two times. Layer times come
from the runtime's own profile of both nets (:mod:`whet.optimize.look`), in milliseconds of one run; lower is faster.

====================== ===============================================================================================
cause                  shown by
====================== ===============================================================================================
no-instructions        the processor's flags, and the plan's instruction-set ceiling
bf16-faster            the uncompressed net in bf16, measured beside the candidate
not-executed           no computing layer of the executed graph is in int8
left-in-float          computing layers of the executed graph that are not, and their time
unfused-qdq            quantizing and dequantizing layers that are executed on their own, and their time
conversions            reorders and casts that the float net does not have, and their time
small-layers           computing layers so short that a call costs more than what it computes
int8-not-faster        computing layers take as long in int8 as they took in float
little-arithmetic      Amdahl's bound: what is left when computing layers cost nothing
weights-bound          reading weights limits the float net already, and int8 activations do not shrink that further
====================== ===============================================================================================
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from whet.engine.layers import Layer
from whet.stats import Interval

_OPENVINO = "Convolution Deconvolution FullyConnected MatMul RNNSeq RNNCell ScaledDotProductAttention MHA"
_ONNXRUNTIME = """
    Conv FusedConv ConvTranspose QLinearConv ConvInteger Gemm FusedGemm QGemm FusedMatMul MatMulInteger
    MatMulIntegerToFloat QLinearMatMul DynamicQuantizeMatMul LSTM GRU RNN DynamicQuantizeLSTM Attention QAttention
"""
COMPUTING = frozenset((_OPENVINO + _ONNXRUNTIME).split())
"""Executed layers that do the arithmetic int8 could speed up."""
QUANTIZING = frozenset(
    {"FakeQuantize", "Quantize", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantize"}
)
CONVERTING = frozenset({"Reorder", "Convert", "Cast", "ReorderInput", "ReorderOutput"})
INT8 = frozenset({"int8", "uint8", "i8", "u8"})
SMALL_MS = 0.02
"""A computing layer below this is mostly the cost of calling it: dispatch, scratch memory, waking threads."""
TELLING = 0.05
"""Shares of the time below this are not named as a cause."""
WITHOUT_INT8 = frozenset({"SSE41", "AVX", "AVX2", "AVX512_CORE"})
"""oneDNN's ceilings below VNNI ..."""
WITHOUT_FLOATS = frozenset({"AVX2_VNNI", "AVX512_CORE_VNNI"})
"""... and those with it, but without bf16."""
MOST_TOLD = 3
"""Causes told in a refusal."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason, and the number that shows it.

    Attributes:
        slug: stable name, a row of the table above.
        words: for people.
        cost_ms: what it costs per run, milliseconds, where that is a time; else None.
    """

    slug: str
    words: str
    cost_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured of a candidate that does not win.

    Attributes:
        native: number formats with instructions of their own under the ceiling, see :func:`native`.
        ceiling: the plan's instruction-set ceiling, or None.
        before: executed layers of the best float plan; empty where they could not be read.
        after: those of the candidate.
        bf16: throughput of the uncompressed net in bf16 over the candidate's, paired, where that is no slower.
        precision: what its layers were to compute in: ``int8``, ``bf16``, or ``f32`` where weights alone are smaller.
        bound: what limits the float service: ``compute``, ``memory``, ``queue`` or ``unknown``.
    """

    native: tuple[str, ...]
    ceiling: str | None = None
    before: tuple[Layer, ...] = ()
    after: tuple[Layer, ...] = ()
    bf16: Interval | None = None
    bound: str = "unknown"
    precision: str = "int8"


def native(formats: tuple[str, ...], ceiling: str | None) -> tuple[str, ...]:
    """Return those of a processor's own number formats that are left below an instruction-set ceiling."""
    gone = {"int8"} if ceiling in WITHOUT_INT8 else set()
    gone |= {"bf16", "f16"} if ceiling in WITHOUT_INT8 | WITHOUT_FLOATS else set()
    return tuple(one for one in formats if one not in gone)


def causes(facts: Facts) -> list[Cause]:
    """Return the causes the facts show: what holds for the whole host first, then by their cost."""
    found = []
    if facts.precision not in {*facts.native, "f32"}:
        where = f"below the ceiling {facts.ceiling}" if facts.ceiling else "on this processor"
        names = "VNNI, AMX" if facts.precision == "int8" else "AVX512-BF16, AMX"
        told = f"there are no {facts.precision} instructions ({names}) {where}: wider ones emulate them"
        found.append(Cause("no-instructions", told))
    if facts.bf16 is not None:
        found.append(Cause("bf16-faster", f"bf16 without compression is {_times(facts.bf16)} as fast already"))
    timed = [*_left_in_float(facts), *_conversions(facts), *_arithmetic(facts), *_bound(facts)]
    found.extend(sorted(timed, key=lambda one: -(one.cost_ms or 0.0)))
    return found


def words(found: Sequence[Cause], facts: Facts) -> str:
    """Return the causes in a sentence; where none shows, say that, with the times that were compared."""
    if found:
        return "; ".join(one.words for one in found[:MOST_TOLD])
    if facts.before and facts.after:
        return (
            f"no cause shows in the layers: {_ms(facts.before):.2f} ms in float, {_ms(facts.after):.2f} ms compressed"
        )
    return "the layers could not be read, so no cause can be shown"


def executed(layers: Sequence[Layer]) -> dict[str, int]:
    """Return how many computing layers are executed in each precision; ``int8`` counts signed and unsigned."""
    found = Counter("int8" if one.precision in INT8 else one.precision for one in layers if one.type in COMPUTING)
    return dict(sorted(found.items()))


def _left_in_float(facts: Facts) -> list[Cause]:
    wanted = INT8 if facts.precision == "int8" else {facts.precision}
    computing = [one for one in facts.after if one.type in COMPUTING]
    floats = [one for one in computing if one.precision not in wanted]
    if not computing or not floats:
        return []
    cost, total = _ms(floats), _ms(facts.after)
    said = ", ".join(f"{count} {kind}" for kind, count in Counter(one.type for one in floats).most_common(3))
    if len(floats) == len(computing):
        return [
            Cause("not-executed", f"not one computing layer is executed in {facts.precision}: {said} are not", cost)
        ]
    if cost < TELLING * total:
        return []
    told = f"{len(floats)} of {len(computing)} computing layers are not executed in {facts.precision} ({said})"
    return [Cause("left-in-float", f"{told} and take {_part(cost, total)}", cost)]


def _conversions(facts: Facts) -> list[Cause]:
    """Return what quantizing, dequantizing, reordering and casting cost beyond what the float net has of them."""
    found, total = [], _ms(facts.after)
    for slug, kinds, what in (
        ("unfused-qdq", QUANTIZING, "layers quantize or dequantize on their own, fused into none,"),
        ("conversions", CONVERTING, "conversions between layers"),
    ):
        new = [one for one in facts.after if one.type in kinds]
        cost = _ms(new) - _ms([one for one in facts.before if one.type in kinds])
        if new and total and cost >= TELLING * total:
            found.append(Cause(slug, f"{len(new)} {what} cost {_part(cost, total)}", cost))
    return found


def _arithmetic(facts: Facts) -> list[Cause]:
    """Compare the computing layers of both nets."""
    before = [one for one in facts.before if one.type in COMPUTING]
    after = [one for one in facts.after if one.type in COMPUTING]
    if not before or not after:
        return []
    small = _ms(before) / len(before)
    if small < SMALL_MS:
        told = (
            f"the {len(before)} computing layers take {1e3 * small:.0f} us each in float: calling them costs more than"
        )
        return [Cause("small-layers", f"{told} {facts.precision} could save", _ms(after))]
    if _ms(after) >= (1 - TELLING) * _ms(before) and executed(after).get(facts.precision):
        slow = _slowest(before, after)
        told = f"the computing layers take {_ms(after):.2f} ms, in float {_ms(before):.2f} ms{slow}"
        return [Cause("int8-not-faster", told, _ms(after) - (1 - TELLING) * _ms(before))]
    return []


def _slowest(before: Sequence[Layer], after: Sequence[Layer]) -> str:
    """Return the layer that lost most, where both nets have it under one name."""
    known = {one.name: one.time_ms for one in before}
    lost = [(one.time_ms - known[one.name], one) for one in after if one.name in known]
    if not lost:
        return ""
    most, layer = max(lost, key=lambda pair: pair[0])
    if most <= 0:
        return ""
    return f" (most lost: {layer.type} {layer.name}, {known[layer.name]:.3f} -> {layer.time_ms:.3f} ms)"


def _bound(facts: Facts) -> list[Cause]:
    total = _ms(facts.before)
    if not total:
        return []
    moved = [one for one in facts.before if one.type not in COMPUTING]
    share, found = _ms(moved) / total, []
    if share > 0.5:
        kinds = Counter[str]()
        for one in moved:
            kinds[one.type] += round(1e6 * one.time_ms)
        said = ", ".join(f"{kind} {100 * nanos / 1e6 / total:.0f} %" for kind, nanos in kinds.most_common(3))
        told = f"only {100 * (1 - share):.0f} % of the float net's time is arithmetic, the rest moves data ({said}):"
        found.append(
            Cause("little-arithmetic", f"{told} {facts.precision} could gain {1 / share:.2f}x at most", _ms(moved))
        )
    if facts.bound == "memory":
        found.append(
            Cause("weights-bound", "reading the weights limits the net already, and every layer waits for them")
        )
    return found


def _ms(layers: Sequence[Layer]) -> float:
    return sum(one.time_ms for one in layers)


def _part(cost: float, total: float) -> str:
    return f"{cost:.2f} of {total:.2f} ms ({100 * cost / total:.0f} %)"


def _times(ratio: Interval) -> str:
    return f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
