"""Hosts built in memory, for properties that need hundreds of different ones."""

from collections.abc import Iterable

from whet.host.budget import Allowance, make_budget
from whet.host.cgroups import Limits
from whet.host.isa import Processor
from whet.host.layout import Cache, Core, Node
from whet.host.system import Load, Memory, Virtual
from whet.host.topology import Host

PROCESSOR = Processor("x86_64", "GenuineIntel", "synthetic", ("avx2",), (), None, None, None)
LOAD = Load(None, None, None, None, None, None)


def synthetic(
    nodes: int = 1,
    cores_per_node: int = 4,
    threads: int = 1,
    *,
    l3_cores: int = 4,
    allowed: Iterable[int] | None = None,
    quota: float | None = None,
    efficiency: int = 0,
) -> Host:
    """Return a host whose siblings are numbered after all first threads; nodes are sockets too.

    efficiency: the last so many cores of every node are efficiency cores (of one thread each).
    """
    total = nodes * cores_per_node
    cores = []
    for core in range(total):
        little = core % cores_per_node >= cores_per_node - efficiency
        width = 1 if little else threads
        kind = ("efficiency" if little else "performance") if efficiency else ""
        cpus = tuple(core + thread * total for thread in range(width))
        cores.append(Core(core, cpus, core // cores_per_node, core // cores_per_node, kind))
    online = tuple(sorted(cpu for core in cores for cpu in core.cpus))
    groups: dict[tuple[int, int], list[int]] = {}
    for core in cores:
        groups.setdefault((core.node, core.id % cores_per_node // l3_cores if l3_cores else 0), []).extend(core.cpus)
    caches = tuple(Cache(3, 32 << 20, tuple(sorted(cpus))) for cpus in groups.values()) if l3_cores else ()
    affinity = None if allowed is None else tuple(sorted(allowed))
    budget, _ = make_budget(
        Allowance(online, affinity, None, quota), {cpu: core.id for core in cores for cpu in core.cpus}
    )
    return Host(
        processor=PROCESSOR,
        online=online,
        cores=tuple(cores),
        caches=caches,
        nodes=tuple(
            Node(
                node,
                tuple(sorted(cpu for core in cores if core.node == node for cpu in core.cpus)),
                64 << 30,
                tuple((other, 10 if other == node else 20 + abs(other - node)) for other in range(nodes)),
            )
            for node in range(nodes)
        ),
        smt="on" if threads > 1 else "off",
        limits=Limits(affinity, None, None, quota, "", None, "", (), ""),
        memory=Memory(nodes * 64 << 30, nodes * 60 << 30),
        load=LOAD,
        virtual=Virtual(machine=False, product="", container=""),
        kernel="6.1.0",
        budget=budget,
    )
