"""The CPU budget: how many cores may be busy at once, on which CPUs, and why. Pure.

The budget is min(affinity, cpuset, quota rounded **down**), and at least 1. It counts *logical* CPUs: where both SMT
siblings of a core are allowed they count twice, since the kernel runs two threads on them and a quota charges them as
two. ``physical`` counts the cores behind them, which is what compute-bound plans are sized by; whether siblings are
worth using is a question for measurement, and a switch of :func:`whet.host.placement.place`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from whet.host.files import brief_list, format_list


@dataclass(frozen=True, slots=True)
class Budget:
    """The CPUs that may really be used.

    Attributes:
        cores: logical CPUs that may be busy at the same time, at least 1.
        cpus: logical CPUs the process may run on, ascending; more than ``cores`` when a quota is the tighter limit.
        physical: physical cores that may be busy at the same time: of those behind ``cpus``, at most ``cores``.
        quota: CPUs' worth of time the control groups grant, a fraction, or None.
        reason: what decided ``cores``, in words.
    """

    cores: int
    cpus: tuple[int, ...]
    physical: int
    quota: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Allowance:
    """What there is and what limits it; ``None`` means no such limit.

    Attributes:
        online: logical CPUs that are on, ascending.
        affinity: logical CPUs of the process's mask.
        cpuset: logical CPUs of its cpuset.
        quota: CPUs' worth of time per period.
        cap: most cores the caller wants to use, at least 1.
    """

    online: tuple[int, ...]
    affinity: tuple[int, ...] | None = None
    cpuset: tuple[int, ...] | None = None
    quota: float | None = None
    cap: int | None = None


def make_budget(allowance: Allowance, core_of: Mapping[int, int]) -> tuple[Budget, list[str]]:
    """Return the budget, and remarks on limits that contradict each other.

    Args:
        allowance: CPUs and limits.
        core_of: physical core of each logical CPU.
    """
    cpus, reason, remarks = _intersect(allowance)
    cores = len(cpus)
    if allowance.quota is not None and whole(allowance.quota) < cores:
        cores = max(1, whole(allowance.quota))
        reason = f"quota {allowance.quota:g} CPUs" + _rounding(allowance.quota)
    if allowance.cap is not None and allowance.cap < cores:
        cores, reason = allowance.cap, f"limited to {allowance.cap} as asked"
    physical = min(cores, len({core_of.get(cpu, cpu) for cpu in cpus}))
    return Budget(cores, cpus, physical, allowance.quota, reason), remarks


def whole(quota: float) -> int:
    """Return ``quota`` rounded down; the allowance is for quotients such as 300000/100000 kept as a float."""
    return int(quota + 1e-6)


def fewest(sizes: Iterable[int], wanted: int) -> int:
    """Return how many of the groups of these ``sizes`` are needed, largest first, to hold ``wanted``; at least 1."""
    held = used = 0
    for size in sorted(sizes, reverse=True):
        if held >= wanted:
            break
        held, used = held + size, used + 1
    return max(1, used)


def _rounding(quota: float) -> str:
    if quota < 1:
        return ": less than one core, so one is used and will be throttled"
    return "" if abs(quota - whole(quota)) < 1e-6 else " rounded down"


def _intersect(allowance: Allowance) -> tuple[tuple[int, ...], str, list[str]]:
    """Return (allowed CPUs, reason, remarks). A limit that would leave nothing is set aside and remarked on."""
    # The kernel keeps the mask within the cpuset, so the cpuset is named first where both say the same.
    cpus: tuple[int, ...] = allowance.online
    reason, remarks = f"all {len(cpus)} online CPUs", []
    for name, limit in (("cpuset", allowance.cpuset), ("affinity mask", allowance.affinity)):
        if limit is None:
            continue
        kept = _common(cpus, limit)
        if not kept:
            remarks.append(f"{name} {format_list(limit)} shares no CPU with {format_list(cpus)}: it is set aside")
        elif len(kept) < len(cpus):
            cpus, reason = kept, f"{name} {brief_list(kept)}: {len(kept)} of {len(allowance.online)} online CPUs"
    return cpus, reason, remarks


def _common(cpus: tuple[int, ...], limit: Collection[int]) -> tuple[int, ...]:
    allowed = set(limit)
    return tuple(cpu for cpu in cpus if cpu in allowed)
