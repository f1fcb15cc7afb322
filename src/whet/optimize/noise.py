"""Which blocks count: decided by counters alone, never by what a block measured.

A block is disturbed when the hypervisor took CPU time away, when other processes used the cores, or when the quota
stopped us. Where neighbours are always there, "disturbed" means more than usual: otherwise nothing could be measured
at all. A discarded block is repeated once, and the repeat counts whatever happened: so at most half of all blocks, and
of any plan's blocks, are discarded, and every plan has a block in every round. The share is part of the evidence, and
so is the number of disturbed blocks that had to count.
"""

import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from whet.host.counters import Counters, delta, read_counters
from whet.host.files import Tree, to_int
from whet.host.topology import ROOT

STEAL = 0.05
"""Share of the budget's CPU time the hypervisor may take before a block is disturbed."""
OTHERS = 0.15
"""Share of the budget's CPU time other processes may use before a block is disturbed."""
MORE_THAN_USUAL = 1.5
"""Where others are always there: this many times the median of the blocks so far is disturbed."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters of this process's tree, and busy seconds of all CPUs of the host."""

    own: Counters
    busy_s: float | None


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happened on the machine during a block. Shares are of the budget's CPU time; None where unknown.

    Attributes:
        wall_s: length of the block with its surroundings, seconds.
        steal: share taken by the hypervisor.
        others: share used by processes that are not ours.
        throttled_ms: time the quota stopped us, milliseconds.
        pressure: share of the wall time in which some task waited for a CPU.
        load1: run-queue average over a minute.
    """

    wall_s: float
    steal: float | None
    others: float | None
    throttled_ms: float
    pressure: float | None
    load1: float | None


def snapshot(root: Path = ROOT) -> Snapshot:
    """Read the counters now; well under a millisecond."""
    busy = None
    for line in Tree(root).lines("proc/stat"):
        name, *words = line.split()
        if name == "cpu" and len(words) >= 7:
            ticks = [to_int(word) or 0 for word in words]
            busy = (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / TICKS_PER_S  # user nice system irq softirq
            break
    return Snapshot(read_counters(root=root), busy)


def between(before: Snapshot, after: Snapshot, cores: int) -> Disturbance:
    """Return what happened between two snapshots, against a budget of ``cores``."""
    grown = delta(before.own, after.own)
    room = max(grown.at_s * cores, 1e-9)
    others = None
    if before.busy_s is not None and after.busy_s is not None and grown.cpu_s is not None:
        others = max(0.0, after.busy_s - before.busy_s - grown.cpu_s) / room
    worst = grown.worst
    return Disturbance(
        wall_s=grown.at_s,
        steal=None if grown.steal_s is None else grown.steal_s / room,
        others=others,
        throttled_ms=worst.throttled_ns / 1e6 if worst is not None else 0.0,
        pressure=None if grown.cpu_pressure_s is None else grown.cpu_pressure_s / max(grown.at_s, 1e-9),
        load1=grown.load1,
    )


@dataclass(slots=True)
class Judge:
    """Decides which blocks count, and remembers how many did not.

    Attributes:
        seen: others' shares of the blocks so far.
        kept: blocks that count.
        discarded: blocks that do not.
        forced: blocks that count though they were disturbed, because their repeat was disturbed as well.
    """

    seen: list[float] = field(default_factory=list)
    kept: int = 0
    discarded: int = 0
    forced: int = 0

    @property
    def discarded_share(self) -> float:
        """Discarded blocks over all blocks, at most one half."""
        total = self.kept + self.discarded
        return self.discarded / total if total else 0.0

    @property
    def words(self) -> str:
        """What to say of the machine, or the empty string when it was quiet enough."""
        if not self.forced:
            return ""
        return (
            f"{self.forced} of {self.kept} blocks count though the machine was disturbed: their repeats were disturbed "
            "as well, and no more than half of the blocks may be discarded"
        )

    def keeps(self, block: Disturbance, *, repeat: bool = False) -> bool:
        """Tell whether a block counts, and count it; a ``repeat`` of a discarded block always does."""
        usual = statistics.median(self.seen) if len(self.seen) >= 5 else 0.0
        self.seen.append(block.others or 0.0)
        disturbed = (
            (block.steal or 0.0) > STEAL
            or (block.others or 0.0) > max(OTHERS, MORE_THAN_USUAL * usual)
            or block.throttled_ms > 0
        )
        if disturbed and not repeat:
            self.discarded += 1
            return False
        self.forced += disturbed
        self.kept += 1
        return True
