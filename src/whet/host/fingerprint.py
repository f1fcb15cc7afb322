"""What decides whether a plan tuned on one host fits another, as a short hash and as a distance. Pure.

Left out on purpose: clocks, load, memory size, kernel and names. They change between two boots of one machine, and
none of them makes a plan illegal.
"""

import hashlib
import math
from collections.abc import Mapping

import msgspec

FieldValue = str | int | list[str] | None
Fields = dict[str, FieldValue]
"""Fingerprint fields: ``arch``, ``vendor``, ``model``, ``isa``, ``cores`` and ``physical`` (of the budget), ``smt``
(threads a core), ``sockets`` and ``nodes`` (that the budget needs), ``l3_bytes`` (of one group), ``l3_cores`` (physical
cores of the budget that share one)."""

_DIFFERENT = {"arch": 64.0, "vendor": 4.0, "model": 1.0, "smt": 1.0}
"""Cost of a field that differs. Another architecture outweighs everything else together."""

_DOUBLED = {"cores": 4.0, "physical": 2.0, "sockets": 1.0, "nodes": 2.0, "l3_bytes": 0.5, "l3_cores": 0.5}
"""Cost of a number twice as large; 4 against 8 cores is as far as 32 against 64."""

_ISA = 16.0
"""Cost of instruction sets that have nothing in common: kernels, and so the best precision, follow the ISA."""


def digest(fields: Mapping[str, FieldValue]) -> str:
    """Return twelve hex digits of the sha256 over ``fields``, whatever their order."""
    return hashlib.sha256(msgspec.json.encode(dict(fields), order="sorted")).hexdigest()[:12]


def distance(a: Mapping[str, FieldValue], b: Mapping[str, FieldValue]) -> float:
    """Return how far apart two hosts are for the purpose of carrying a plan over; 0 is the same, lower is nearer.

    Symmetric. A sum over fields: a fixed cost where names differ, a cost per doubling for numbers, and the Jaccard
    distance of the instruction sets. A field only one side knows costs as much as one that differs or doubles; unknown
    fields are ignored, so bundles of later versions can be compared.
    """
    total = sum(cost for name, cost in _DIFFERENT.items() if a.get(name) != b.get(name))
    total += sum(cost * _doublings(a.get(name), b.get(name)) for name, cost in _DOUBLED.items())
    return total + _ISA * _jaccard(a.get("isa"), b.get("isa"))


def _doublings(a: FieldValue, b: FieldValue) -> float:
    if a == b:
        return 0.0
    if not isinstance(a, int) or not isinstance(b, int) or a < 1 or b < 1:
        return 1.0
    return abs(math.log2(a / b))


def _jaccard(a: FieldValue, b: FieldValue) -> float:
    one = set(a) if isinstance(a, (list, tuple)) else set()
    two = set(b) if isinstance(b, (list, tuple)) else set()
    return 1 - len(one & two) / len(one | two) if one | two else 0.0


def differences(there: Mapping[str, FieldValue], here: Mapping[str, FieldValue]) -> tuple[str, ...]:
    """Return what differs between the host of a plan and this one, in words, what matters most first."""
    found = [f"{one} there, {other} here" for one, other in _named(there, here)]
    one, two = there.get("isa"), here.get("isa")
    theirs, ours = (set(side) if isinstance(side, list | tuple) else set() for side in (one, two))
    found += [f"no {', '.join(sorted(theirs - ours))} here"] if theirs - ours else []
    found += [f"{', '.join(sorted(ours - theirs))} only here"] if ours - theirs else []
    for name, (unit, scale) in _COUNTED.items():
        a, b = there.get(name), here.get(name)
        if isinstance(a, int) and isinstance(b, int) and a != b:
            found.append(f"{a // scale} {unit} there, {b // scale} here")
    return tuple(found)


_COUNTED = {
    "cores": ("cores", 1), "physical": ("physical cores", 1), "smt": ("threads a core", 1), "sockets": ("sockets", 1),
    "nodes": ("NUMA nodes", 1), "l3_bytes": ("MiB of L3", 1 << 20), "l3_cores": ("cores an L3", 1),
}  # fmt: skip


def _named(there: Mapping[str, FieldValue], here: Mapping[str, FieldValue]) -> list[tuple[str, str]]:
    names = ("arch", "model") if there.get("model") and here.get("model") else ("arch", "vendor")
    pairs = [(there.get(name), here.get(name)) for name in names]
    return [(str(one or "unknown"), str(other or "unknown")) for one, other in pairs if one != other]
