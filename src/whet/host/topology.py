"""One frozen value that says what a host really offers, read from ``/proc`` and ``/sys`` below an injectable root."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from whet.errors import PlanRefused
from whet.host.budget import Allowance, Budget, fewest, make_budget
from whet.host.cgroups import Limits, read_limits
from whet.host.files import Tree, format_list
from whet.host.fingerprint import Fields, digest
from whet.host.isa import Processor, cpuinfo, read_processor
from whet.host.layout import Cache, Core, Node, read_caches, read_cores, read_nodes, read_online
from whet.host.system import Load, Memory, Virtual, read_load, read_memory, read_virtual

ROOT = Path("/")
"""The live host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host as one process sees it. Plain values throughout: ``msgspec.to_builtins(host)`` and back is lossless.

    Attributes:
        processor: model and instruction sets.
        online: logical CPUs that are on, ascending.
        cores: physical cores, by their lowest logical CPU.
        caches: caches of level 2 and above; empty where the host hides them.
        nodes: NUMA nodes, at least one.
        smt: SMT switch as the kernel names it (``on``, ``off``, ``notsupported``, ...), or empty.
        limits: mask, cpuset, quota, memory limit and throttling counters.
        memory: main memory.
        load: how busy the host was.
        virtual: virtual machine and container hints.
        kernel: kernel release, or empty.
        budget: the CPUs that may really be used.
        fingerprint: twelve hex digits over ``fingerprint_fields``.
        fingerprint_fields: what decides whether a plan fits this host; see :func:`whet.host.fingerprint.distance`.
        notes: what could not be read, and what is assumed instead.
    """

    processor: Processor
    online: tuple[int, ...]
    cores: tuple[Core, ...]
    caches: tuple[Cache, ...]
    nodes: tuple[Node, ...]
    smt: str
    limits: Limits
    memory: Memory
    load: Load
    virtual: Virtual
    kernel: str
    budget: Budget
    fingerprint: str = ""
    fingerprint_fields: Fields = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()

    @property
    def sockets(self) -> tuple[int, ...]:
        """Physical package numbers, ascending."""
        return tuple(sorted({core.socket for core in self.cores}))

    @property
    def threads_per_core(self) -> int:
        """Most logical CPUs that are online on one physical core; 1 means SMT is off or absent."""
        return max(len(core.cpus) for core in self.cores)

    @property
    def memory_bytes(self) -> int | None:
        """Memory this process may use at most: the host's, or the tighter limit of its control groups."""
        known = [size for size in (self.memory.total_bytes, self.limits.memory_bytes) if size is not None]
        return min(known, default=None)

    def caches_of(self, level: int) -> tuple[Cache, ...]:
        """Return the caches of ``level`` 2, 3 or 4; each is a group of CPUs that share it."""
        return tuple(cache for cache in self.caches if cache.level == level)

    def core_of(self) -> dict[int, int]:
        """Return the physical core of every online logical CPU."""
        return {cpu: core.id for core in self.cores for cpu in core.cpus}

    def node_of(self) -> dict[int, int]:
        """Return the NUMA node of every online logical CPU."""
        return {cpu: node.id for node in self.nodes for cpu in node.cpus}

    def nodes_needed(self) -> int:
        """Return the fewest NUMA nodes that hold the budget, physical cores before siblings; at least 1."""
        return fewest(Counter(core.node for core in self.allowed_cores()).values(), self.budget.physical)

    def sockets_needed(self) -> int:
        """Return the fewest sockets that hold the budget, physical cores before siblings; at least 1."""
        return fewest(Counter(core.socket for core in self.allowed_cores()).values(), self.budget.physical)

    def allowed_cores(self) -> tuple[Core, ...]:
        """Return the physical cores of which the budget allows at least one logical CPU."""
        allowed = set(self.budget.cpus)
        return tuple(core for core in self.cores if allowed.intersection(core.cpus))

    def limited(self, cores: int | None = None, cpus: Iterable[int] | None = None) -> "Host":
        """Return this host as a process sees it that may use fewer CPUs: a share, or what a user set aside.

        Args:
            cores: most logical CPUs that may be busy at once; more than now changes nothing.
            cpus: the only logical CPUs allowed; those outside the present budget stay forbidden.

        Raises:
            PlanRefused: less than one core is asked for, or none of ``cpus`` is in the budget.
        """
        cap = self.budget.cores if cores is None else min(cores, self.budget.cores)
        if cap < 1:
            raise PlanRefused(f"host: a limit of {cores} cores leaves nothing to run on; give at least 1")
        affinity = self.limits.affinity
        if cpus is not None:
            wanted = set(cpus)
            affinity = tuple(cpu for cpu in self.budget.cpus if cpu in wanted)
            if not affinity:
                allowed = format_list(self.budget.cpus)
                raise PlanRefused(f"host: none of the CPUs {sorted(wanted)} is in the budget, which allows {allowed}")
        limits = replace(self.limits, affinity=affinity)
        budget, remarks = _budget(limits, self.online, self.cores, cap)
        notes = tuple(dict.fromkeys((*self.notes, *remarks)))
        return _sealed(replace(self, limits=limits, budget=budget, notes=notes))


def read_host(root: Path = ROOT, pid: int | None = None) -> Host:
    """Read a host. Never raises on missing or malformed files: ``notes`` says what could not be read.

    Takes a few milliseconds on small hosts; no process is started. The mask is that of the process's main thread.

    Args:
        root: where ``proc`` and ``sys`` are; another folder than ``/`` reads a recorded host.
        pid: process whose mask and control groups count; the caller when None.
    """
    tree = Tree(root)
    blocks = cpuinfo(tree)
    online = read_online(tree, blocks)
    memory = read_memory(tree)
    nodes = read_nodes(tree, online, memory.total_bytes)
    cores = read_cores(tree, online, nodes, blocks)
    flags = blocks[0].get("flags", "") if blocks else ""
    # The clock of the first CPU we may use: reading the clock of every one takes the kernel long on big hosts.
    limits = read_limits(tree, pid)
    first = next((cpu for cpu in limits.affinity or online if cpu in online), online[0])
    processor = read_processor(tree, blocks, first)
    budget, remarks = _budget(limits, online, cores)
    fastest = max((core.max_mhz for core in cores if core.max_mhz is not None), default=None)
    host = Host(
        processor=replace(processor, max_mhz=fastest),
        online=online,
        cores=cores,
        caches=read_caches(tree, online, cores),
        nodes=nodes,
        smt=tree.text("sys/devices/system/cpu/smt/control") or "",
        limits=limits,
        memory=memory,
        load=read_load(tree),
        virtual=read_virtual(tree, flags, tree.text(f"proc/{pid or 'self'}/cgroup") or ""),
        kernel=tree.text("proc/sys/kernel/osrelease") or "",
        budget=budget,
        notes=(*tree.notes, *remarks),
    )
    return _sealed(host)


def _budget(
    limits: Limits, online: tuple[int, ...], cores: tuple[Core, ...], cap: int | None = None
) -> tuple[Budget, list[str]]:
    allowance = Allowance(online, limits.affinity, limits.cpuset, limits.quota, cap)
    return make_budget(allowance, {cpu: core.id for core in cores for cpu in core.cpus})


def _sealed(host: Host) -> Host:
    """Return ``host`` with the fingerprint that follows from everything else."""
    fields = _fields(host)
    return replace(host, fingerprint=digest(fields), fingerprint_fields=fields)


def _fields(host: Host) -> Fields:
    """Return the fingerprint fields; sockets and nodes are counted as far as the budget needs them."""
    allowed = set(host.budget.cpus)
    groups = [cache for cache in host.caches_of(3) if allowed.intersection(cache.cpus)]
    core_of = host.core_of()
    sharing = [len({core_of[cpu] for cpu in cache.cpus if cpu in allowed}) for cache in groups]
    return {
        "arch": host.processor.arch,
        "vendor": host.processor.vendor,
        "model": host.processor.model,
        "isa": list(host.processor.isa),
        "cores": host.budget.cores,
        "physical": host.budget.physical,
        "smt": max(sum(cpu in allowed for cpu in core.cpus) for core in host.cores),
        "sockets": host.sockets_needed(),
        "nodes": host.nodes_needed(),
        "l3_bytes": max((cache.bytes for cache in groups if cache.bytes is not None), default=None),
        "l3_cores": max(sharing, default=None),
    }
