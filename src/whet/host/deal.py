"""The mechanics under :mod:`whet.host.placement`: usable slots, how many each node gives, lane after lane. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from whet.host.layout import Core
from whet.host.topology import Host


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: ``workers`` x (``streams`` x ``threads`` + ``front``) CPUs, siblings included or not."""

    workers: int
    streams: int
    threads: int
    front: int
    use_smt: bool

    @property
    def per_worker(self) -> int:
        """CPUs of one worker."""
        return self.streams * self.threads + self.front

    @property
    def total(self) -> int:
        """CPUs of all workers."""
        return self.workers * self.per_worker

    def __str__(self) -> str:
        front = f" + {self.front} front" if self.front else ""
        return f"workers {self.workers} x (streams {self.streams} x threads {self.threads}{front})"


@dataclass(frozen=True, slots=True)
class Slot:
    """A logical CPU that may be used, with what decides when.

    Attributes:
        cpu: its number.
        core: its physical core.
        group: (0 for performance or uniform cores and 1 for efficiency cores, first CPU of the L3 group or -1).
        sibling: 0 for the first allowed CPU of a core, 1 for the next.
    """

    cpu: int
    core: Core
    group: tuple[int, int]
    sibling: int


@dataclass(frozen=True, slots=True)
class Dealt:
    """The logical CPUs of one worker: one tuple per lane, and those of its front."""

    lanes: tuple[tuple[int, ...], ...]
    front: tuple[int, ...]


Nodes = dict[int, list[Slot]]
"""Slots of each NUMA node, in filling order."""


def usable_slots(host: Host, use_smt: bool) -> list[Slot]:
    """Return the usable CPUs in filling order: group by group, core by core, siblings together."""
    allowed = set(host.budget.cpus)
    last_level = {cpu: cache.cpus[0] for cache in host.caches_of(3) for cpu in cache.cpus}
    found = []
    for core in host.cores:
        group = (int(core.kind == "efficiency"), last_level.get(core.id, -1))
        cpus = [cpu for cpu in core.cpus if cpu in allowed]
        found += [Slot(cpu, core, group, index) for index, cpu in enumerate(cpus if use_smt else cpus[:1])]
    return sorted(found, key=lambda slot: (slot.group, slot.core.id, slot.sibling))


def supply_of(slots: list[Slot], request: Request) -> tuple[Nodes, dict[int, int]]:
    """Return the slots of each node that may be dealt out, and how many whole workers each node gets.

    Workers missing from the second have to span nodes. Siblings are dealt out only as far as cores run short.
    """
    nodes: Nodes = {}
    for slot in slots:
        nodes.setdefault(slot.core.node, []).append(slot)
    first = {node: [slot for slot in here if slot.sibling == 0] for node, here in nodes.items()}
    excess = request.total - sum(map(len, first.values()))
    if excess <= 0:
        return first, _whole({node: len(here) for node, here in first.items()}, request)
    # Every physical core is used and `excess` siblings besides; they go where they let workers stay within a node.
    counts = _balanced({node: (len(first[node]), len(here)) for node, here in nodes.items()}, request)
    if counts is not None:
        sizes = {node: count * request.per_worker for node, count in counts.items()}
    else:
        sizes = {}
        for node, here in nodes.items():
            extra = min(excess, len(here) - len(first[node]))
            sizes[node], excess = len(first[node]) + extra, excess - extra
        counts = _whole(sizes, request)
    return {node: _trimmed(here, sizes[node]) for node, here in nodes.items()}, counts


def _whole(sizes: Mapping[int, int], request: Request) -> dict[int, int]:
    """Return how many whole workers each node takes when the roomiest nodes are filled first."""
    counts, left = {}, request.workers
    for node in sorted(sizes, key=lambda node: (-sizes[node], node)):
        counts[node] = min(left, sizes[node] // request.per_worker)
        left -= counts[node]
    return counts


def _balanced(bounds: Mapping[int, tuple[int, int]], request: Request) -> dict[int, int] | None:
    """Return workers per node that use at least the lower and at most the upper number of CPUs there, or None."""
    size = request.per_worker
    least = {node: -(-low // size) for node, (low, _) in bounds.items()}
    most = {node: high // size for node, (_, high) in bounds.items()}
    left = request.workers - sum(least.values())
    if left < 0 or any(least[node] > most[node] for node in bounds) or request.workers > sum(most.values()):
        return None
    for node in bounds:
        more = min(left, most[node] - least[node])
        least[node], left = least[node] + more, left - more
    return least


def _trimmed(here: list[Slot], size: int) -> list[Slot]:
    """Return ``size`` of a node's slots in filling order, first siblings before second ones."""
    kept = {slot.cpu for slot in sorted(here, key=lambda slot: slot.sibling)[:size]}
    return [slot for slot in here if slot.cpu in kept]


class _Dealer:
    """Hands out free CPUs lane by lane."""

    def __init__(self, host: Host, supply: Nodes) -> None:
        self.distances = {node.id: dict(node.distances) for node in host.nodes}
        self.groups: dict[int, list[list[int]]] = {}
        for node, here in supply.items():
            groups: dict[tuple[int, int], list[int]] = {}
            for slot in here:
                groups.setdefault(slot.group, []).append(slot.cpu)
            self.groups[node] = list(groups.values())

    def free(self, node: int) -> int:
        """Return the number of free CPUs of a node."""
        return sum(map(len, self.groups[node]))

    def around(self, home: int | None) -> list[int]:
        """Return the nodes from ``home``, or from the one with most room, outwards."""
        start = home if home is not None else min(self.groups, key=lambda node: (-self.free(node), node))
        far = self.distances.get(start, {})
        return sorted(self.groups, key=lambda node: (node != start, far.get(node, 1 << 16), node))

    def take(self, count: int, nodes: list[int]) -> tuple[int, ...]:
        """Take ``count`` CPUs: of one L3 group, else of one node, else of several, in the order of ``nodes``."""
        for node in nodes:
            whole = next((group for group in self.groups[node] if len(group) >= count), None)
            if whole is not None:
                return self._gather(count, [whole])
            if self.free(node) >= count:
                return self._gather(count, self.groups[node])
        return self._gather(count, [group for node in nodes for group in self.groups[node]])

    @staticmethod
    def _gather(count: int, groups: Iterable[list[int]]) -> tuple[int, ...]:
        taken: list[int] = []
        for group in groups:
            part = count - len(taken)
            taken += group[:part]
            del group[:part]
        return tuple(sorted(taken))


def deal(host: Host, slots: list[Slot], request: Request) -> list[Dealt]:
    """Return the CPUs of each worker: first those that fit a node, node by node, then those that span nodes.

    ``slots`` must hold at least ``request.total`` entries.
    """
    supply, counts = supply_of(slots, request)
    homes: list[int | None] = [node for node in sorted(counts) for _ in range(counts[node])]
    homes += [None] * (request.workers - len(homes))
    dealer = _Dealer(host, supply)
    workers = []
    for home in homes:
        around = dealer.around(home)
        lanes = tuple(dealer.take(request.threads, around) for _ in range(request.streams))
        workers.append(Dealt(lanes, dealer.take(request.front, around) if request.front else ()))
    return workers
