"""How many channels each layer keeps. Pure.

Runtimes compute convolutions over blocks of channels as wide as a vector register: oneDNN lays f32 activations out as
``nChw16c`` with AVX-512 and ``nChw8c`` with AVX2, and *pads* what is left over, so 17 channels cost what 32 do
(https://uxlfoundation.github.io/oneDNN/dev_guide_understanding_memory_formats.html). Its int8 weights are blocked as
``OIhw4i16o4i`` with VNNI: 16 outputs, which are the 16 sums of one 512-bit register, by 16 inputs; with AMX as
``OIhw16i16o4i``: 16 outputs by 64 inputs
(https://oneapi-src.github.io/oneDNN/v2.5/enum_dnnl_format_tag_t.html). So 16 suits f32, bf16 and int8 with AVX-512,
8 suits AVX2, and where a net is to run in int8 on AMX, 64 fills its tiles.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LANES = (("avx512f", 16), ("avx2", 8), ("sve", 8))
"""Instruction set -> f32 values in one of its registers, widest first (SVE: of Neoverse V1's 256 bits)."""
NARROWEST = 4
"""A 128-bit register: SSE, NEON."""


def multiple_for(isa: Iterable[str]) -> int:
    """Return the multiple of channels that fills the widest vector registers a host has."""
    has = set(isa)
    return next((lanes for name, lanes in LANES if name in has), NARROWEST)


@dataclass(frozen=True, slots=True)
class Width:
    """A number of channels that may shrink; layers that are tied (by a sum, say) share one.

    Attributes:
        original: channels of the unpruned net.
        scores: how much each channel that is left matters, higher is more. With ``groups`` one entry a place within a
            group: groups lose the same places.
        groups: all groups of a grouped convolution keep the same number of channels; 1 where there are none.
    """

    original: int
    scores: tuple[float, ...]
    groups: int = 1

    @property
    def channels(self) -> int:
        """Channels that are left."""
        return len(self.scores) * self.groups


def legal(width: Width, multiple: int) -> list[int]:
    """Return the widths it may take, ascending: multiples (of the groups too) below what it has, and what it has."""
    unit = math.lcm(multiple, width.groups)
    return [*range(unit, width.channels, unit), width.channels]


def each(widths: Sequence[Width], ratio: float, multiple: int) -> list[int]:
    """Return how many channels each width keeps when every one loses the same share.

    The legal width nearest to ``original * (1 - ratio)``; of two as near, the wider.
    """
    return [
        min(legal(width, multiple), key=lambda kept, w=width: (abs(kept - w.original * (1.0 - ratio)), -kept))  # type: ignore[misc]
        for width in widths
    ]


def together(widths: Sequence[Width], ratio: float, multiple: int) -> list[int]:
    """Return how many channels each width keeps when the least important of all leave, wherever they are.

    Blocks of ``multiple`` channels leave in the order of their mean score until the share that is left is as near to
    ``1 - ratio`` of the originals as whole blocks allow. No width loses its last block.
    """
    wanted = sum(width.original for width in widths) * (1.0 - ratio)
    kept = [width.channels for width in widths]
    steps = [legal(width, multiple)[:-1] for width in widths]
    ranked = [sorted(width.scores) for width in widths]

    def block(place: int) -> tuple[float, int, int]:
        """Return (mean score, place, new width) of the next block to leave."""
        width, below = widths[place], steps[place][-1]
        gone, going = width.channels - kept[place], kept[place] - below
        scores = ranked[place][gone // width.groups : (gone + going) // width.groups]
        return sum(scores) / len(scores), place, below

    heap = [block(place) for place in range(len(widths)) if steps[place]]
    heapq.heapify(heap)
    left = float(sum(kept))
    while heap and left > wanted:
        _, place, below = heapq.heappop(heap)
        going = kept[place] - below
        if abs(left - going - wanted) >= abs(left - wanted):
            continue  # too big a block of this layer; a smaller one elsewhere may still fit
        left, kept[place] = left - going, below
        steps[place].pop()
        if steps[place]:
            heapq.heappush(heap, block(place))
    return kept
