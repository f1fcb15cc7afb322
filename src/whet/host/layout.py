"""How logical CPUs form cores, caches, sockets and NUMA nodes: read from ``/sys/devices/system``."""

from dataclasses import dataclass

from whet.host.files import Tree, kilobytes, parse_size, to_int
from whet.host.isa import max_mhz

_CPU = "sys/devices/system/cpu"
_NODE = "sys/devices/system/node"


@dataclass(frozen=True, slots=True)
class Core:
    """A physical core with the logical CPUs that are online on it.

    Attributes:
        id: its lowest online logical CPU; unique on the host (the kernel's core_id repeats per socket).
        cpus: its online logical CPUs (SMT siblings), ascending.
        socket: the kernel's physical package number.
        node: the NUMA node it belongs to.
        kind: ``performance`` or ``efficiency`` on a hybrid processor, else empty.
        max_mhz: its highest clock, or None.
    """

    id: int
    cpus: tuple[int, ...]
    socket: int
    node: int
    kind: str = ""
    max_mhz: float | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """A data or unified cache of level 2 or above, and who shares it.

    Attributes:
        level: 2, 3 or 4.
        bytes: its size, or None where the kernel does not say (some ARM firmware).
        cpus: online logical CPUs that share it, ascending.
    """

    level: int
    bytes: int | None
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node.

    Attributes:
        id: the kernel's number.
        cpus: its online logical CPUs; empty for memory without CPUs.
        memory_bytes: memory it owns, or None.
        distances: (node, distance) for every node, this one included; 10 means local, 20 twice as far.
    """

    id: int
    cpus: tuple[int, ...]
    memory_bytes: int | None
    distances: tuple[tuple[int, int], ...]


def read_online(tree: Tree, blocks: list[dict[str, str]]) -> tuple[int, ...]:
    """Return the online logical CPUs; falls back to /proc/cpuinfo, then to CPU 0 alone, with a remark."""
    if cpus := tree.numbers(f"{_CPU}/online"):
        return cpus
    if cpus := tuple(sorted({number for block in blocks if (number := to_int(block.get("processor"))) is not None})):
        tree.note(f"/{_CPU}/online cannot be read: online CPUs are taken from /proc/cpuinfo")
        return cpus
    tree.note(f"neither /{_CPU}/online nor /proc/cpuinfo can be read: one CPU is assumed")
    return (0,)


def read_nodes(tree: Tree, online: tuple[int, ...], memory: int | None) -> tuple[Node, ...]:
    """Return the NUMA nodes; one node with everything (``memory`` bytes), and a remark, where the kernel has none."""
    present = set(online)
    ids = tree.numbers(f"{_NODE}/online") or ()
    nodes = [_node(tree, number, ids, present) for number in ids]
    orphans = present.difference(*(node.cpus for node in nodes))
    if not nodes or orphans == present:
        tree.note(f"/{_NODE} describes no CPU: one NUMA node with all CPUs is assumed")
        return (Node(0, online, memory, ((0, 10),)),)
    if orphans:
        first = nodes[0]
        tree.note(f"CPUs {sorted(orphans)} are in no NUMA node: they are counted to node {first.id}")
        nodes[0] = Node(first.id, tuple(sorted({*first.cpus, *orphans})), first.memory_bytes, first.distances)
    return tuple(nodes)


def _node(tree: Tree, number: int, ids: tuple[int, ...], present: set[int]) -> Node:
    folder = f"{_NODE}/node{number}"
    memory = None
    for line in tree.lines(f"{folder}/meminfo"):
        before, found, amount = line.partition("MemTotal:")
        if found and before.split() == ["Node", str(number)]:
            memory = kilobytes(amount.strip())
    row = [
        distance for word in (tree.text(f"{folder}/distance") or "").split() if (distance := to_int(word)) is not None
    ]
    cpus = tuple(cpu for cpu in tree.numbers(f"{folder}/cpulist") or () if cpu in present)
    return Node(number, cpus, memory, tuple(zip(ids, row, strict=False)))


def read_cores(
    tree: Tree, online: tuple[int, ...], nodes: tuple[Node, ...], blocks: list[dict[str, str]]
) -> tuple[Core, ...]:
    """Return the physical cores by ascending id; where nothing tells siblings, each CPU is a core, with a remark."""
    node_of = {cpu: node.id for node in nodes for cpu in node.cpus}
    groups = _siblings(tree, online, blocks)
    kinds = _kinds(tree, [cpus[0] for cpus in groups])
    by_number = {to_int(block.get("processor")): block for block in blocks}
    cores = []
    for cpus in groups:
        first = cpus[0]
        socket = tree.number(f"{_CPU}/cpu{first}/topology/physical_package_id")
        if socket is None:
            socket = to_int(by_number.get(first, {}).get("physical id"))
        # -1 is the kernel's "firmware does not say".
        cores.append(
            Core(first, cpus, max(socket or 0, 0), node_of.get(first, 0), kinds.get(first, ""), max_mhz(tree, first))
        )
    return tuple(cores)


def _siblings(tree: Tree, online: tuple[int, ...], blocks: list[dict[str, str]]) -> list[tuple[int, ...]]:
    """Return the online CPUs of each physical core."""
    present, seen = set(online), set[int]()
    groups: list[tuple[int, ...]] = []
    told = False
    for cpu in online:
        if cpu in seen:
            continue
        folder = f"{_CPU}/cpu{cpu}/topology"
        listed = tree.numbers(f"{folder}/core_cpus_list") or tree.numbers(f"{folder}/thread_siblings_list")
        told = told or listed is not None
        members = ({cpu, *(listed or ())} & present) - seen
        seen |= members
        groups.append(tuple(sorted(members)))
    if told:
        return groups
    return _siblings_from_cpuinfo(tree, online, blocks)


def _siblings_from_cpuinfo(tree: Tree, online: tuple[int, ...], blocks: list[dict[str, str]]) -> list[tuple[int, ...]]:
    cores: dict[tuple[str, str], list[int]] = {}
    for block in blocks:
        number = to_int(block.get("processor"))
        if number is not None and number in online and "core id" in block:
            cores.setdefault((block.get("physical id", "0"), block["core id"]), []).append(number)
    if sum(map(len, cores.values())) == len(online):
        tree.note(f"/{_CPU}/cpu*/topology cannot be read: cores are taken from /proc/cpuinfo")
        return sorted(tuple(sorted(cpus)) for cpus in cores.values())
    tree.note(f"/{_CPU}/cpu*/topology cannot be read: every CPU is taken for a core of its own")
    return [(cpu,) for cpu in online]


def _kinds(tree: Tree, cpus: list[int]) -> dict[int, str]:
    """Return the kind of each CPU of a hybrid processor; nothing on a uniform one."""
    performance = tree.numbers("sys/devices/cpu_core/cpus")
    efficiency = tree.numbers("sys/devices/cpu_atom/cpus")
    if performance and efficiency:
        return {cpu: "performance" if cpu in performance else "efficiency" for cpu in cpus}
    capacity = {cpu: tree.number(f"{_CPU}/cpu{cpu}/cpu_capacity") or 0 for cpu in cpus}
    most = max(capacity.values(), default=0)
    # Favoured cores of one kind differ by a few percent; cores of another kind by half.
    if min(capacity.values(), default=0) > 0.75 * most or most == 0:
        return {}
    return {cpu: "performance" if value > 0.75 * most else "efficiency" for cpu, value in capacity.items()}


def read_caches(tree: Tree, online: tuple[int, ...], cores: tuple[Core, ...]) -> tuple[Cache, ...]:
    """Return the data and unified caches of level 2 and above, by level and CPU; a VM may have none (remarked)."""
    present = set(online)
    found: list[Cache] = []
    covered: dict[str, set[int]] = {}
    # One CPU per core is asked: siblings share all caches. Folders already covered by a sharer are not read again.
    for core in cores:
        folder = f"{_CPU}/cpu{core.id}/cache"
        for index in (name for name in tree.names(folder) if name.startswith("index")):
            if core.id in covered.setdefault(index, set()):
                continue
            level = tree.number(f"{folder}/{index}/level")
            if level is None or level < 2 or tree.text(f"{folder}/{index}/type") == "Instruction":
                continue
            shared = {core.id, *(tree.numbers(f"{folder}/{index}/shared_cpu_list") or core.cpus)} & present
            covered[index] |= shared
            found.append(Cache(level, parse_size(tree.text(f"{folder}/{index}/size") or ""), tuple(sorted(shared))))
    if not found:
        tree.note(f"/{_CPU}/cpu*/cache describes no L2 or L3: cores are grouped by NUMA node instead")
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.cpus)))
