"""What control groups allow a process: CPUs, CPU quota, memory, and how often the quota has throttled it.

A limit may sit on any group between the process and the root, and the tightest one holds, so every level is read.
Where the groups are mounted, and which part of the tree a mount shows, comes from ``mountinfo``:

- a host: the group ``/a/b`` is ``<mount point>/a/b``;
- a container whose mount shows its own group only: mount root ``/docker/x``, group ``/docker/x``: ``<mount point>``;
- a private cgroup namespace: mount root ``/``, group ``/``: ``<mount point>``;
- a namespace under a mount made outside it: mount root ``/../..``, group ``/``. The names between are hidden, so the
  group that lists the process among its members is looked for at that depth.

Versions 1 and 2 may be there together; both are read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from whet.host.files import Tree, to_int

_NO_LIMIT = 1 << 60
"""Memory limits of version 1 at or past this mean none; the kernel writes 2**63 rounded down to pages."""

_MOST_FOLDERS = 4096
"""Groups looked at when the own one has to be searched for."""


@dataclass(frozen=True, slots=True)
class Level:
    """One group on the way from a process's own group up to the top of what is visible.

    Attributes:
        path: the group's folder, without leading slash.
        version: 1 or 2.
    """

    path: str
    version: int


@dataclass(frozen=True, slots=True)
class Throttle:
    """Counters of one group that has a CPU quota; they only grow, and are zero until the quota first binds.

    Attributes:
        path: the group's folder.
        quota: CPUs the group may use, a fraction.
        periods: enforcement periods in which the group ran.
        throttled: periods in which it was stopped because the quota was used up.
        throttled_ns: nanoseconds its CPUs stood still for that, summed over CPUs.
    """

    path: str
    quota: float
    periods: int
    throttled: int
    throttled_ns: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kernel lets a process use. ``None`` means no limit, or none that could be read.

    Attributes:
        affinity: logical CPUs of the process's mask.
        cpuset: logical CPUs of its cpuset.
        memory_nodes: NUMA nodes it may take memory from.
        quota: CPUs' worth of time it may use per period, the tightest on the path; may be a fraction.
        quota_path: folder of the group that sets the quota, or empty.
        memory_bytes: the tightest memory limit on the path.
        memory_path: folder of the group that sets it, or empty.
        throttles: counters of every group on the path that has a quota, innermost first.
        cgroups: ``v1``, ``v2``, ``v1+v2`` or empty, by the versions on which CPU, cpuset or memory groups were found.
    """

    affinity: tuple[int, ...] | None
    cpuset: tuple[int, ...] | None
    memory_nodes: tuple[int, ...] | None
    quota: float | None
    quota_path: str
    memory_bytes: int | None
    memory_path: str
    throttles: tuple[Throttle, ...]
    cgroups: str


@dataclass(frozen=True, slots=True)
class _Mount:
    root: str
    point: str
    version: int
    controllers: frozenset[str]


def read_limits(tree: Tree, pid: int | None = None) -> Limits:
    """Return the limits of process ``pid``, or of the calling process."""
    process = f"proc/{pid or 'self'}"
    status = tree.pairs(f"{process}/status")
    groups = {name: levels(tree, name, pid) for name in ("cpu", "cpuset", "memory")}
    quotas = [(quota, level.path) for level in groups["cpu"] if (quota := read_quota(tree, level)) is not None]
    limits = [(limit, level.path) for level in groups["memory"] if (limit := _memory(tree, level)) is not None]
    quota, quota_path = min(quotas, default=(None, ""))
    memory, memory_path = min(limits, default=(None, ""))
    versions = sorted({level.version for found in groups.values() for level in found})
    return Limits(
        affinity=_allowed(tree, status, "Cpus_allowed_list", process),
        cpuset=_cpuset(tree, groups["cpuset"]),
        memory_nodes=_allowed(tree, status, "Mems_allowed_list", process),
        quota=quota,
        quota_path=quota_path,
        memory_bytes=memory,
        memory_path=memory_path,
        throttles=read_throttles(tree, groups["cpu"]),
        cgroups="+".join(f"v{version}" for version in versions),
    )


def levels(tree: Tree, controller: str, pid: int | None = None) -> tuple[Level, ...]:
    """Return the groups that may limit a process through ``controller`` (``cpu``, ...), innermost first."""
    found: dict[str, Level] = {}
    mounts = _mounts(tree)
    for line in tree.lines(f"proc/{pid or 'self'}/cgroup"):
        _, names, path = ([*line.split(":", 2), "", ""])[:3]
        version = 1 if names else 2
        if version == 1 and controller not in names.split(","):
            continue
        wanted = [
            mount for mount in mounts if mount.version == version and (names == "" or controller in mount.controllers)
        ]
        for level in _best(tree, wanted, path.removesuffix(" (deleted)"), pid):
            found.setdefault(level.path, level)
    return tuple(found.values())


def read_quota(tree: Tree, level: Level) -> float | None:
    """Return the CPUs one group may use (1.5 = three halves of a period's length), or ``None`` for no quota."""
    if level.version == 1:
        quota = tree.number(f"{level.path}/cpu.cfs_quota_us")
        period = tree.number(f"{level.path}/cpu.cfs_period_us")
    else:
        # "max 100000", or "150000 100000": microseconds of CPU time per period, then the period.
        words = (tree.text(f"{level.path}/cpu.max") or "").split()
        quota, period = (to_int(words[0]), to_int(words[1])) if len(words) == 2 else (None, None)
    return quota / period if quota and period and quota > 0 and period > 0 else None


def read_throttles(tree: Tree, groups: tuple[Level, ...]) -> tuple[Throttle, ...]:
    """Return the throttling counters of those ``groups`` that have a quota, in their order."""
    return tuple(_throttle(tree, level, quota) for level in groups if (quota := read_quota(tree, level)) is not None)


def _throttle(tree: Tree, level: Level, quota: float) -> Throttle:
    stat = {key: to_int(value) or 0 for key, value in tree.pairs(f"{level.path}/cpu.stat", None).items()}
    nanoseconds = stat["throttled_time"] if "throttled_time" in stat else stat.get("throttled_usec", 0) * 1000
    return Throttle(level.path, quota, stat.get("nr_periods", 0), stat.get("nr_throttled", 0), nanoseconds)


def _memory(tree: Tree, level: Level) -> int | None:
    name = "memory.limit_in_bytes" if level.version == 1 else "memory.max"
    limit = tree.number(f"{level.path}/{name}")
    return limit if limit is not None and 0 < limit < _NO_LIMIT else None


def _cpuset(tree: Tree, groups: tuple[Level, ...]) -> tuple[int, ...] | None:
    """Return the innermost effective cpuset: it already is what all groups above leave over."""
    for level in groups:
        names = ("cpuset.effective_cpus", "cpuset.cpus") if level.version == 1 else ("cpuset.cpus.effective",)
        for name in names:
            if cpus := tree.numbers(f"{level.path}/{name}"):
                return cpus
    return None


def _allowed(tree: Tree, status: dict[str, str], key: str, process: str) -> tuple[int, ...] | None:
    if key not in status:
        tree.note(f"/{process}/status has no {key}: no mask is assumed")
        return None
    return tree.listed(status[key], f"{key} of /{process}/status") or None


def _mounts(tree: Tree) -> list[_Mount]:
    """Return the visible cgroup mounts; a later mount hides an earlier one at the same place."""
    found: dict[str, _Mount] = {}
    for line in tree.lines("proc/self/mountinfo"):
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not dash or len(fields) < 5 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4]).strip("/")
        found[point] = _Mount(root, point, 1 if kind[0] == "cgroup" else 2, frozenset(kind[2].split(",")))
    return list(found.values())


def _unescape(text: str) -> str:
    """Undo mountinfo's octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _best(tree: Tree, mounts: list[_Mount], path: str, pid: int | None) -> tuple[Level, ...]:
    """Return the levels as seen through the mount that shows most of the way up to the root."""
    best: tuple[Level, ...] = ()
    for mount in mounts:
        inner = _below(tree, mount, path, pid)
        steps = [step for step in inner.split("/") if step]
        folders = ["/".join([mount.point, *steps[:depth]]) for depth in range(len(steps), -1, -1)]
        seen = tuple(Level(folder, mount.version) for folder in folders if tree.exists(folder))
        best = max(best, seen, key=len)
    if mounts and not best:
        tree.note(f"control group {path} is not visible below {mounts[0].point}: its limits are unknown")
    return best


def _below(tree: Tree, mount: _Mount, path: str, pid: int | None) -> str:
    """Return the path of the group ``path`` relative to the mount point, empty for the mount point itself."""
    root = mount.root.rstrip("/")
    if path == root or path.startswith(f"{root}/"):
        inner = path[len(root) :].strip("/")
        if ".." not in inner.split("/"):
            return inner
    # Outside what the two paths can tell: look for the group that has the process as a member.
    ups, downs = root.split("/").count(".."), path.split("/").count("..")
    depth = ups - downs + len([step for step in path.split("/") if step not in {"", ".."}])
    number = pid if pid is not None else to_int(tree.pairs("proc/self/status").get("Tgid"))
    if ups and depth > 0 and number is not None:
        for folder in _folders(tree, mount.point, depth):
            if str(number) in tree.lines(f"{folder}/cgroup.procs"):
                return folder[len(mount.point) :].strip("/")
    tree.note(f"control group {path} lies outside the mount /{mount.point}: only what the mount shows is read")
    return ""


def _folders(tree: Tree, top: str, depth: int) -> Iterator[str]:
    """Yield the folders exactly ``depth`` levels below ``top``, looking at no more than ``_MOST_FOLDERS``."""
    here = [top]
    looked = 0
    for _ in range(depth):
        below = []
        for folder in here:
            names = [name for name in tree.names(folder) if tree.is_folder(f"{folder}/{name}")]
            below += [f"{folder}/{name}" for name in names]
            looked += len(names)
            if looked > _MOST_FOLDERS:
                tree.note(f"more than {_MOST_FOLDERS} control groups below /{top}: the own one was not looked for")
                return
        here = below
    yield from here
