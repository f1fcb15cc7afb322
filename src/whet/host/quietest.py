"""Which CPUs to keep to where a quota grants fewer cores than the mask has: those least busy with others' work.

A process that computes on more CPUs than its quota has cores spends the quota early in a period and is stopped for the
rest of it. On just as many CPUs it cannot. Containers that share a host must not all choose the same ones, so the
choice goes by measured work of others, is made anew now and then, and differs between processes where all are idle.

Pure, but for :func:`read_busy`.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from math import ceil
from pathlib import Path

from whet.host.files import Tree, to_int
from whet.host.topology import ROOT

MOVE_GAIN = 0.25
"""How much less busy another CPU has to be, as a share of its time, before it is moved to: caches start cold there."""
_TIE = 0.1
"""CPUs whose shares differ by less count as equally busy."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)
"""Fields of a CPU's line in /proc/stat that are no work: idle and iowait."""


def read_busy(root: Path = ROOT) -> dict[int, float]:
    """Return for each logical CPU how long it has worked since boot, seconds; stolen time counts as work."""
    busy = {}
    for line in Tree(root).lines("proc/stat"):
        name, *words = line.split()
        if name.startswith("cpu") and name[3:].isdecimal():
            ticks = [to_int(word) or 0 for word in words[:8]]
            busy[int(name[3:])] = (
                sum(ticks) - sum(ticks[field] for field in _IDLE if field < len(ticks))
            ) / _TICKS_PER_S
    return busy


def widths(cpus: Iterable[int], quota: float) -> list[int]:
    """Return how many CPUs each worker keeps to, given how many the placement gives each.

    What a quota grants beyond those, a fraction of a core mostly, lets the first worker have one more: its event loop
    may use it.
    """
    found = list(cpus)
    if found and ceil(quota - 1e-6) > sum(found):
        found[0] += 1
    return found


def taken_by_others(worked: Mapping[int, float], own: Mapping[int, float], seconds: float) -> dict[int, float]:
    """Return for each CPU the share of its time that others used, 0 to 1.

    Args:
        worked: seconds each CPU worked.
        own: seconds of these that were the process's own.
        seconds: during which it did.
    """
    if seconds <= 0:
        return dict.fromkeys(worked, 0.0)
    return {cpu: min(max(busy - own.get(cpu, 0.0), 0.0) / seconds, 1.0) for cpu, busy in worked.items()}


def quietest(taken: Mapping[int, float], kept: Collection[int], count: int, salt: int = 0) -> tuple[int, ...]:
    """Return the ``count`` CPUs to keep to from now on, ascending; all there are if there are fewer.

    Args:
        taken: share of each allowed CPU's time that others use.
        kept: the CPUs kept to so far; one is left only for another that is less busy by :data:`MOVE_GAIN`.
        count: how many.
        salt: of this process: where CPUs are equally busy, processes with different salts choose different ones.
    """
    cpus = sorted(taken)
    turn = salt % len(cpus) if cpus else 0
    line = cpus[turn:] + cpus[:turn]
    chosen = [cpu for cpu in line if cpu in kept][:count]
    free = sorted((cpu for cpu in line if cpu not in chosen), key=lambda cpu: int(taken[cpu] / _TIE))  # stable
    while free and len(chosen) < count:
        chosen.append(free.pop(0))
    while free and chosen:
        worst = max(chosen, key=lambda cpu: taken[cpu])
        best = min(free, key=lambda cpu: taken[cpu])
        if taken[worst] - taken[best] < MOVE_GAIN:
            break
        chosen[chosen.index(worst)] = best
        free[free.index(best)] = worst
    return tuple(sorted(chosen))
