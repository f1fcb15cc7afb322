"""A profile as the evidence holds it: layers beside their f32 parents, and where plans lie under the roofs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whet.engine.layers import Layer
from whet.host.roofline import Peak
from whet.optimize.profile_words import Profile

BITS = {"int8": "int8", "uint8": "int8", "bf16": "bf16", "f16": "f16"}
"""Executed precision -> the peak that bounds it; f32 bounds the others."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What one plan did.

    Attributes:
        label: of the plan.
        artifact: which it runs.
        per_s: samples a second.
        batch: its largest.
        layers: executed at that batch, empty where they are not known.
    """

    label: str
    artifact: str
    per_s: float
    batch: int
    layers: Sequence[Layer]


def layer_rows(profile: Profile | None) -> list[dict[str, Any]]:
    """Return the layers of the chosen plan, slowest first, each with the f32 parent's layer of the same name."""
    if profile is None:
        return []
    parents = {layer.name: layer for layer in profile.parent}
    rows = []
    for layer in profile.layers:
        parent = parents.get(layer.name)
        rows.append(
            {
                "name": layer.name,
                "type": layer.type,
                "precision": layer.precision,
                "time_ms": layer.time_ms,
                "share": layer.share,
                "moved_bytes": layer.moved_bytes,
                "parent_ms": parent.time_ms if parent is not None else None,
                "parent_precision": parent.precision if parent is not None else None,
            }
        )
    return rows


def roofline(profile: Profile | None, reached: Sequence[Reached]) -> dict[str, Any] | None:
    """Return peaks, and for each plan operations and bytes a second and its share of the roof over it.

    The roof of a plan is the lower of its precision's compute peak and of bandwidth times intensity; what is left is
    the inverse of the share, at most::

        share = flops x samples a second / min(compute peak, bandwidth x flops / bytes)

    The precision is the one in which most of the plan's time is spent; peaks are the best slices of what was measured
    as plans run (:mod:`whet.engine.peaks`, :mod:`whet.host.roofline`). Bytes are what its layers read and write, so
    that what caches keep counts too: the memory roof is drawn lower than it is, never higher.
    """
    if profile is None or profile.bandwidth is None or not profile.peaks:
        return None
    rows = [row for one in reached if (row := _achieved(profile, one)) is not None]
    return {
        "peaks": [_peak(name, peak) for name, peak in profile.peaks.items()],
        "bandwidth": _peak("memory read", profile.bandwidth),
        "achieved": rows,
        "words": _words(rows[0]) if rows and reached[0].label == rows[0]["label"] else "",
    }


def main_precision(layers: Sequence[Layer]) -> str:
    """Return the precision in which most of the time of a plan's layers is spent: whose peak bounds it."""
    spent: dict[str, float] = {}
    for layer in layers:
        name = BITS.get(layer.precision, "f32")
        spent[name] = spent.get(name, 0.0) + layer.time_ms
    return max(spent, key=lambda name: spent[name], default="f32")


def _achieved(profile: Profile, one: Reached) -> dict[str, Any] | None:
    flops = profile.flops.get(one.artifact)
    if not flops or profile.bandwidth is None:
        return None
    name = main_precision(one.layers)
    peak = profile.peaks.get(name) or profile.peaks["f32"]
    moved = sum(layer.moved_bytes for layer in one.layers) / one.batch or None
    gflops, bandwidth = flops * one.per_s / 1e9, profile.bandwidth.best
    memory = flops / moved * bandwidth if moved else None
    bound, roof = (memory, "memory") if memory is not None and memory < peak.best else (peak.best, f"{name} compute")
    return {
        "label": one.label,
        "gflops": gflops,
        "gbs": moved * one.per_s / 1e9 if moved else None,
        "intensity": flops / moved if moved else None,
        "roof": roof,
        "share": gflops / bound,
    }


def _words(row: dict[str, Any]) -> str:
    """Return what is left to the chosen plan in words."""
    moved = f" and moves {row['gbs']:.1f} GB/s through its layers" if row["gbs"] is not None else ""
    said = f"The chosen plan computes {row['gflops']:.3g} billion operations a second{moved}"
    if row["share"] >= 1:
        return (
            f"{said}, more than its {row['roof']} roof as measured: caches served it, or the machine was slower while "
            "the roof was measured than while the plan was. How much is left cannot be told."
        )
    return (
        f"{said}: {100 * row['share']:.0f} % of its {row['roof']} roof. Not more than {1 / row['share']:.1f} times is "
        "left on this host, and no net of many small layers gets all of it."
    )


def _peak(name: str, peak: Peak) -> dict[str, Any]:
    return {
        "name": name, "value": peak.value, "low": peak.low, "high": peak.high, "best": peak.best, "how": peak.how,
    }  # fmt: skip
