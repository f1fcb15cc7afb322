"""What serves after a bundle's plan was measured here beside plain f32. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whet.stats import Interval

CARRIED, PLAIN = "carried over", "plain f32"


@dataclass(frozen=True, slots=True)
class Standing:
    """How the plan fares here.

    Attributes:
        holds: it may serve here, and is worth what it was where that is known.
        label: of what serves.
        ratio: how much better that (or the plan that did not win) is than plain f32, or None where nothing was paired.
        words: all of it in a sentence.
    """

    holds: bool
    label: str
    ratio: Interval | None
    words: str


def settle(
    ratios: Mapping[str, Interval | None], refused: str, before: Mapping[str, Any] | None, *, same: bool
) -> Standing:
    """Decide.

    A plan wins when the lower end of its ratio over plain f32 is above 1: what cannot be told from plain f32 is not
    worth its risk. On a known host it holds unless the upper end lies below the lower end of what was recorded.

    Args:
        ratios: candidate -> how much better than plain f32.
        refused: why the carried plan is not among them, or empty.
        before: the ratio recorded on this very host, with ``value``, ``low`` and ``high``; None elsewhere.
        same: the carried plan is the plain plan.
    """
    if same:
        return Standing(True, PLAIN, None, "holds: it is the plain f32 plan, as this host can run it")
    able = {label: ratio for label, ratio in ratios.items() if ratio is not None}
    if not able:
        why = refused or "it could not be measured"
        return Standing(False, PLAIN, None, f"does not hold here: {why}; plain f32 serves")
    label = max(able, key=lambda one: able[one].value)
    ratio = able[label]
    said = f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] plain f32"
    if ratio.low <= 1.0:
        told = "is slower than" if ratio.high < 1.0 else "cannot be told from"
        words = f"does not win here: it {told} plain f32, {said}; plain f32 serves"
        return Standing(False, PLAIN, ratio, words if before is None else f"does not hold: {said}, {_was(before)}")
    if before is not None and ratio.high < float(before["low"]):
        return Standing(False, label, ratio, f"is worth less than it was: {said}, {_was(before)}; optimize again")
    known = f", {_was(before)}" if before is not None else ""
    shape = "" if label == CARRIED else f" ({label})"
    return Standing(True, label, ratio, f"holds here{shape}: {said}{known}")


def _was(before: Mapping[str, Any]) -> str:
    return f"{before['value']:.2f}x [{before['low']:.2f}, {before['high']:.2f}] when it was found"
