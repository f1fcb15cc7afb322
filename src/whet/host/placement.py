"""Which cores each worker and each of its lanes gets. Pure: a function of the host and the request, no clock, no I/O.

Rules, the earlier one winning:

1. No core twice, none outside the budget, never more than ``budget.cores`` in all. A request past that is refused.
2. A physical core before an SMT sibling: siblings are used only with ``use_smt`` and when every allowed physical core
   is in use already; then the siblings of one core go to the same lane as far as its width allows.
3. One NUMA node before two: a worker stays within a node, and the workers together take as few nodes as they fit in.
4. A lane stays within one L3 group and one kind of core (hybrid processors) where it fits; groups are filled in order,
   performance cores first, so that whatever stays free is whole groups.

What stays free is listed with its reason. Filling in order leaves room to others on the machine; a plan that wants
every cache and memory channel asks for every core.
"""

from dataclasses import dataclass

from whet.errors import PlanRefused
from whet.host.budget import whole
from whet.host.deal import Dealt, Request, Slot, deal, usable_slots
from whet.host.topology import Host


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Where one worker process runs.

    Attributes:
        cpus: logical CPUs it computes on: its lanes' and its front's, ascending. The mask to set before exec.
        nodes: NUMA nodes those belong to, ascending; the nodes to take memory from.
        lanes: logical CPUs of each lane, ``streams`` tuples of ``threads`` CPUs.
        front: logical CPUs left to the event loop; empty where it shares the lanes' cores.
        roam: wider mask for use in place of ``cpus`` when :attr:`Placement.shared` is set; all allowed CPUs of its
            nodes.
    """

    cpus: tuple[int, ...]
    nodes: tuple[int, ...]
    lanes: tuple[tuple[int, ...], ...]
    front: tuple[int, ...]
    roam: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unused:
    """Allowed logical CPUs that no worker uses, and why.

    Attributes:
        cpus: ascending.
        reason: in words.
    """

    cpus: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Cores of all workers.

    Attributes:
        workers: one entry per worker process.
        unused: allowed CPUs that stay free; together with the workers' CPUs they are the budget's CPUs.
        shared: a quota allows fewer cores than the mask, so other groups run on these CPUs as well. ``cpus`` then
            cannot be throttled by running too wide, but neighbours that fix their choice alike would all sit on the
            same cores: choose as many of ``roam`` by measured idleness (:mod:`whet.host.quietest`).
    """

    workers: tuple[WorkerPlace, ...]
    unused: tuple[Unused, ...]
    shared: bool

    @property
    def cpus(self) -> tuple[int, ...]:
        """All CPUs in use, ascending."""
        return tuple(sorted(cpu for worker in self.workers for cpu in worker.cpus))


def place(
    host: Host, workers: int, streams: int, threads_per_stream: int, *, front_cores: int = 0, use_smt: bool = False
) -> Placement:
    """Give every worker and lane its cores.

    Args:
        host: the host with its budget; narrow it with :meth:`Host.limited` to place within a share.
        workers: worker processes.
        streams: lanes per worker.
        threads_per_stream: compute threads, and so CPUs, per lane.
        front_cores: CPUs per worker kept free of compute for its event loop.
        use_smt: count SMT siblings as cores; else one thread per physical core.

    Raises:
        PlanRefused: a number below 1 (``front_cores``: below 0), or more cores than the budget has. Nothing is ever
            clamped silently.
    """
    request = Request(workers, streams, threads_per_stream, front_cores, use_smt)
    slots = usable_slots(host, use_smt)
    usable = min(host.budget.cores, len(slots))
    _check(host, request, usable, len(slots))
    workers_placed = tuple(_worker(host, dealt) for dealt in deal(host, slots, request))
    budget = host.budget
    return Placement(
        workers=workers_placed,
        unused=_unused(host, request, slots, workers_placed),
        shared=budget.quota is not None and whole(budget.quota) < len(budget.cpus),
    )


def _worker(host: Host, dealt: Dealt) -> WorkerPlace:
    node_of = host.node_of()
    cpus = tuple(sorted([*(cpu for lane in dealt.lanes for cpu in lane), *dealt.front]))
    nodes = tuple(sorted({node_of[cpu] for cpu in cpus}))
    roam = tuple(cpu for cpu in host.budget.cpus if node_of[cpu] in nodes)
    return WorkerPlace(cpus, nodes, dealt.lanes, dealt.front, roam)


def _check(host: Host, request: Request, usable: int, slots: int) -> None:
    """Refuse what cannot be honoured, with the numbers."""
    named = {"workers": request.workers, "streams": request.streams, "threads_per_stream": request.threads}
    for name, value in named.items():
        if value < 1:
            raise PlanRefused(f"placement: {name} is {value}; it must be at least 1")
    if request.front < 0:
        raise PlanRefused(f"placement: front_cores is {request.front}; it must not be negative")
    if request.total <= usable:
        return
    budget = host.budget
    # The tighter of the two bounds is what has to give.
    if slots < budget.cores and not request.use_smt:
        bound = f"{usable} physical cores of the budget ({budget.cores} logical CPUs: {budget.reason}; use_smt is off)"
    else:
        bound = f"budget of {usable} core{'s' if usable > 1 else ''} ({budget.reason})"
    raise PlanRefused(
        f"placement: {request} needs {request.total} cores, more than the {bound}; "
        "lower workers, streams or threads, or widen the mask or quota"
    )


def _unused(host: Host, request: Request, slots: list[Slot], workers: tuple[WorkerPlace, ...]) -> tuple[Unused, ...]:
    """Account for every allowed CPU that no worker has."""
    budget = host.budget
    used = {cpu for worker in workers for cpu in worker.cpus}
    left = [slot.cpu for slot in slots if slot.cpu not in used]
    usable = min(budget.cores, len(slots))
    spare = usable - request.total
    siblings = set(budget.cpus).difference(slot.cpu for slot in slots)
    kinds = (
        (left[:spare], f"the request {request} uses {request.total} of {usable} cores"),
        (left[spare:], f"{budget.reason}: no more than {budget.cores} may be busy at once"),
        (siblings, "SMT siblings of cores that are counted once; use_smt is off"),
    )
    return tuple(Unused(tuple(sorted(cpus)), reason) for cpus, reason in kinds if cpus)
