"""Numbers as people read them: as many digits as the interval supports, a unit, thin spaces between thousands."""

import math
from typing import Any

from whet.report.model import Estimate, Number, estimate

NONE = "not measured"
_THIN = "\u2009"


def number(value: float, digits: int = 3) -> str:
    """Return ``value`` with so many significant digits, thousands apart, whole numbers whole: ``1 234``, ``0.0123``."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    if rounded and math.floor(math.log10(abs(rounded))) > math.floor(math.log10(abs(value))):
        places -= 1  # 9.996 became 10.00
    return f"{value:,.{max(places, 0)}f}".replace(",", _THIN).replace("-", "\u2212")


def whole(count: int) -> str:
    """Return a count with its thousands apart: ``1 800``."""
    return f"{count:,}".replace(",", _THIN)


def given(value: float) -> str:
    """Return a number somebody chose, as short as it is exact: ``30``, ``0.01``."""
    return f"{value:,.10g}".replace(",", _THIN).replace("-", "\u2212")


def points(value: float) -> str:
    """Return an accuracy or a drop with four places, so that a column of them compares."""
    return f"{value:.4f}".replace("-", "\u2212")


def points_between(found: Number) -> str:
    """Return the interval of an accuracy or a drop, or an empty text."""
    known = estimate(found)
    return f"{points(known.ends[0])} to {points(known.ends[1])}" if known is not None and known.bounded else ""


def quantity(found: Number, unit: str = "", digits: int = 3) -> str:
    """Return the value with its unit, or "not measured"."""
    known = estimate(found)
    return NONE if known is None else f"{number(known.value, digits)} {unit}".rstrip()


def interval(found: Number, digits: int = 3) -> str:
    """Return ``low to high`` with as many places as the value has, or an empty text where there is no interval."""
    known = estimate(found)
    if known is None or not known.bounded:
        return ""
    low, high = known.ends
    return f"{number(low, digits)} to {number(high, digits)}"


def ratio(found: Number) -> str:
    """Return ``3.24x`` with a multiplication sign, or "not measured"."""
    known = estimate(found)
    return NONE if known is None else f"{number(known.value)}\u00d7"


def gain(found: Number) -> str:
    """Return a ratio as a signed percentage, 1.31 as ``+31 %``; from three times on as a factor."""
    known = estimate(found)
    if known is None:
        return NONE
    return signed(known.value - 1) if known.value < 3 else ratio(known)


def signed(share: float) -> str:
    """Return a share as a signed percentage with one digit after the point below ten per cent."""
    per_cent = share * 100
    places = 0 if abs(per_cent) >= 9.95 else 1
    text = f"{per_cent:+.{places}f}".replace("-", "\u2212")
    return f"{text}{_THIN}%"


def share(value: float | None, places: int = 1) -> str:
    """Return a share as a percentage."""
    return NONE if value is None else f"{value * 100:.{places}f}{_THIN}%"


def seconds(value: float | None) -> str:
    """Return a duration: ``48 s``, ``2 min 05 s``, ``1 h 10 min``."""
    if value is None:
        return NONE
    whole = round(value)
    if whole < 60:
        return f"{number(value, 2)} s" if value < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: Any) -> str:
    """Return any plain value of the evidence in one line: lists and tables inside become ``name value`` pairs."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4)
    if isinstance(value, dict):
        if set(value) == {"value", "low", "high"}:
            known = Estimate(value["value"], value["low"], value["high"])
            between = interval(known)
            return quantity(known) + (f" ({between})" if between else "")
        return ", ".join(f"{str(name).replace('_', ' ')} {plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def size(count: int) -> str:
    """Return bytes in binary units: ``32.0 MiB``."""
    power = min(max(count.bit_length() - 1, 0) // 10, 4)
    return f"{number(count / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def many(count: int, what: str) -> str:
    """Return ``1 trial``, ``2 trials``, ``2 classes``."""
    ending = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{whole(count)} {what}{ending}"


def distinguishable(found: Number, at: float = 1.0) -> bool | None:
    """Tell whether an interval excludes ``at``; None where there is no interval."""
    known = estimate(found)
    if known is None or not known.bounded:
        return None
    low, high = known.ends
    return not low <= at <= high
