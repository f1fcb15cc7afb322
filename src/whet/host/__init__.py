"""What a host really offers a process, and which of its cores go to whom.

Reading and deciding are apart. Files are read once into frozen values; decisions are pure functions of those values;
a few thin shells touch the machine:

- :mod:`topology`: :func:`read_host` -> :class:`Host`, with its :class:`Budget` and fingerprint. Helpers: :mod:`files`,
  :mod:`isa`, :mod:`layout` (cores, caches, NUMA), :mod:`cgroups` (limits on the whole path), :mod:`system`,
  :mod:`budget`, :mod:`fingerprint`.
- :mod:`placement`: :func:`place` (host x workers x streams x threads -> CPU sets), with :mod:`deal` beneath it;
  :mod:`sharing`: workers of a host, cores of co-hosted models. Pure.
- :mod:`counters`: throttling, stolen time, CPU time, memory and threads of a process, for honest measurements.
- :mod:`quietest`: the CPUs to keep to under a quota that is narrower than the mask. Pure but for one reader.
- :mod:`apply`: CPU mask, memory policy and open files of a worker; :mod:`masks`: holds masks against runtimes.
  :mod:`roofline`: measured peaks. All three act on the machine.
- :mod:`describe`: the host in words.

Every reader takes ``root``, so a recorded ``/proc`` and ``/sys`` stands in for a machine one does not have. Importing
the package imports neither numpy nor any runtime, and starts nothing.
"""

from whet.host.apply import confined, inherited, room_for, set_affinity, set_memory
from whet.host.budget import Budget
from whet.host.cgroups import Limits, Throttle
from whet.host.counters import Counters, Memory, ThreadCpu, delta, memory, read_counters, thread_cpus
from whet.host.describe import describe
from whet.host.fingerprint import differences, distance
from whet.host.isa import Processor
from whet.host.layout import Cache, Core, Node
from whet.host.placement import Placement, Unused, WorkerPlace, place
from whet.host.roofline import Peak, bound_s, memory_copy, memory_read, rate, together
from whet.host.sharing import default_workers, shares
from whet.host.topology import Host, read_host

__all__ = [
    "Budget",
    "Cache",
    "Core",
    "Counters",
    "Host",
    "Limits",
    "Memory",
    "Node",
    "Peak",
    "Placement",
    "Processor",
    "ThreadCpu",
    "Throttle",
    "Unused",
    "WorkerPlace",
    "bound_s",
    "confined",
    "default_workers",
    "delta",
    "describe",
    "differences",
    "distance",
    "inherited",
    "memory",
    "memory_copy",
    "memory_read",
    "place",
    "rate",
    "read_counters",
    "read_host",
    "room_for",
    "set_affinity",
    "set_memory",
    "shares",
    "thread_cpus",
    "together",
]
