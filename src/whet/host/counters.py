"""Cheap snapshots that say whether a measurement can be trusted: throttling, stolen time, load, CPU time, memory.

Take one before and one after a block and print the :func:`delta`; a snapshot costs well under a millisecond and
nothing stays open. All of it is about one process and its control groups, read from files under an injectable root.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from whet.host.cgroups import Throttle, levels, read_throttles
from whet.host.files import Tree, kilobytes, to_int
from whet.host.system import read_average, read_pressure, read_steal
from whet.host.topology import ROOT

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# Positions in /proc/PID/stat counted from the field after the name in parentheses (proc(5), fields 14-17 and 39).
_UTIME, _STIME, _CUTIME, _CSTIME, _CPU = 11, 12, 13, 14, 36


@dataclass(frozen=True, slots=True)
class Counters:
    """One snapshot, or the growth between two. ``None`` where the kernel does not say.

    Attributes:
        at_s: monotonic clock, seconds; in a delta, the seconds between the snapshots.
        throttles: counters of every control group on the process's path that has a CPU quota, innermost first.
        steal_s: CPU seconds of the whole host in which a virtual CPU was ready and the hypervisor ran something else.
        load1: run-queue average over the last minute, tasks; in a delta, the later one.
        cpu_pressure_s: seconds in which some task of the host waited for a CPU.
        cpu_s: CPU seconds, user and system, of the process and its descendants, living and reaped.
        voluntary: times its living threads gave up the CPU to wait for something.
        involuntary: times its living threads were made to give it up.
    """

    at_s: float
    throttles: tuple[Throttle, ...]
    steal_s: float | None
    load1: float | None
    cpu_pressure_s: float | None
    cpu_s: float | None
    voluntary: int | None
    involuntary: int | None

    @property
    def worst(self) -> Throttle | None:
        """The group that was throttled longest, or None where no quota applies; levels are never added up."""
        return max(self.throttles, key=lambda one: (one.throttled_ns, one.throttled, -one.quota), default=None)

    @property
    def throttled_share(self) -> float | None:
        """Fraction of the worst group's periods that ended throttled, 0 to 1; None without a quota or any period."""
        worst = self.worst
        return worst.throttled / worst.periods if worst is not None and worst.periods else None


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one process in bytes; ``None`` where the kernel does not tell.

    Attributes:
        rss: all pages in memory.
        pss: the same with each shared page divided by the number of processes that share it.
        uss: pages no other process has: what would be freed if it ended.
    """

    rss: int | None
    pss: int | None
    uss: int | None


@dataclass(frozen=True, slots=True)
class ThreadCpu:
    """Where one thread ran.

    Attributes:
        tid: thread id; equal to the process id for the main thread.
        name: the kernel's 15-character name of it.
        cpu: logical CPU it last ran on.
        affinity: logical CPUs it may run on.
        cpu_s: CPU seconds it has used.
    """

    tid: int
    name: str
    cpu: int
    affinity: tuple[int, ...]
    cpu_s: float


def read_counters(pid: int | None = None, root: Path = ROOT) -> Counters:
    """Return a snapshot for process ``pid``, or for the caller. A process that is gone has ``cpu_s`` None."""
    tree = Tree(root)
    steal, _ = read_steal(tree)
    average = read_average(tree)
    _, stalled_us = read_pressure(tree, "cpu")
    voluntary, involuntary = _switches(tree, f"proc/{pid or 'self'}")
    return Counters(
        at_s=time.monotonic(),
        throttles=read_throttles(tree, levels(tree, "cpu", pid)),
        steal_s=steal,
        load1=average[0] if average else None,
        cpu_pressure_s=None if stalled_us is None else stalled_us / 1e6,
        cpu_s=_cpu_seconds(tree, str(pid or "self")),
        voluntary=voluntary,
        involuntary=involuntary,
    )


def delta(before: Counters, after: Counters) -> Counters:
    """Return the growth from ``before`` to ``after``; groups match by path, and a new one counts from zero."""
    start = {one.path: one for one in before.throttles}
    grown = []
    for one in after.throttles:
        base = start.get(one.path, Throttle(one.path, one.quota, 0, 0, 0))
        counts = (one.periods - base.periods, one.throttled - base.throttled, one.throttled_ns - base.throttled_ns)
        grown.append(Throttle(one.path, one.quota, *counts))
    return Counters(
        at_s=after.at_s - before.at_s,
        throttles=tuple(grown),
        steal_s=_minus(after.steal_s, before.steal_s),
        load1=after.load1,
        cpu_pressure_s=_minus(after.cpu_pressure_s, before.cpu_pressure_s),
        cpu_s=_minus(after.cpu_s, before.cpu_s),
        voluntary=_whole_minus(after.voluntary, before.voluntary),
        involuntary=_whole_minus(after.involuntary, before.involuntary),
    )


def memory(pid: int | None = None, root: Path = ROOT) -> Memory:
    """Return the memory of process ``pid``, or of the caller; another user's process shows its ``rss`` alone."""
    tree = Tree(root)
    folder = f"proc/{pid or 'self'}"
    rollup = tree.pairs(f"{folder}/smaps_rollup")
    private = [kilobytes(rollup.get(name)) for name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb")]
    uss = sum(size or 0 for size in private) if private[0] is not None else None
    rss = kilobytes(rollup.get("Rss"))
    if rss is None:
        rss = kilobytes(tree.pairs(f"{folder}/status").get("VmRSS"))
    return Memory(rss, kilobytes(rollup.get("Pss")), uss)


def thread_cpus(pid: int | None = None, root: Path = ROOT) -> tuple[ThreadCpu, ...]:
    """Return where each living thread of process ``pid``, or of the caller, last ran; ending ones are left out."""
    tree = Tree(root)
    folder = f"proc/{pid or 'self'}/task"
    found = []
    for tid in sorted(int(name) for name in tree.names(folder) if name.isdigit()):
        stat = _stat(tree, f"{folder}/{tid}")
        affinity = tree.pairs(f"{folder}/{tid}/status").get("Cpus_allowed_list")
        if stat is None or affinity is None:
            continue
        name, numbers = stat
        # Nanoseconds on a CPU where the kernel keeps them; else ticks of 10 ms.
        precise = to_int((tree.text(f"{folder}/{tid}/schedstat") or "").partition(" ")[0])
        seconds = precise / 1e9 if precise else (numbers[_UTIME] + numbers[_STIME]) / _TICKS_PER_S
        found.append(ThreadCpu(tid, name, numbers[_CPU], tree.listed(affinity, f"task {tid}") or (), seconds))
    return tuple(found)


def _stat(tree: Tree, folder: str) -> tuple[str, list[int]] | None:
    """Return (name, numbers after it) of a stat file; the name may itself hold spaces and parentheses."""
    before, closing, after = (tree.text(f"{folder}/stat") or "").rpartition(") ")
    numbers = [to_int(word) or 0 for word in after.split()]
    return (before.partition("(")[2], numbers) if closing and len(numbers) > _CPU else None


def _cpu_seconds(tree: Tree, process: str) -> float | None:
    """Return CPU seconds of a process and its descendants: its own account has the reaped ones, a walk the living."""
    total, told = 0.0, False
    waiting, seen = [process], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or (stat := _stat(tree, f"proc/{name}")) is None:
            continue
        seen.add(name)
        told = told or name == process
        _, numbers = stat
        total += sum(numbers[field] for field in (_UTIME, _STIME, _CUTIME, _CSTIME)) / _TICKS_PER_S
        for tid in tree.names(f"proc/{name}/task"):
            waiting += (tree.text(f"proc/{name}/task/{tid}/children") or "").split()
    return total if told else None


def _switches(tree: Tree, folder: str) -> tuple[int | None, int | None]:
    """Return context switches summed over the living threads; a process's own status counts its main thread only."""
    statuses = [tree.pairs(f"{folder}/task/{tid}/status") for tid in tree.names(f"{folder}/task")]
    sums = []
    for key in ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"):
        counts = [count for status in statuses if (count := to_int(status.get(key))) is not None]
        sums.append(sum(counts) if counts else None)
    return sums[0], sums[1]


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _whole_minus(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
