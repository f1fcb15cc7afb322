"""A host in plain words, for people. Pure: rows of (label, value) for whatever prints them."""

from collections import Counter

from whet.host.files import brief_list
from whet.host.topology import Host

_NO_SMT = {"off": "SMT switched off", "forceoff": "SMT switched off for good"}
_STANDS_FOR = {"bf16": "bf16", "f16": "f16", "int8": "int8 dot products"}


def describe(host: Host) -> list[tuple[str, str]]:
    """Return what matters to inference, most important first; a row whose facts are unknown is left out."""
    rows = [
        ("CPU", _cpu(host)),
        ("Budget", _budget(host)),
        ("Instruction sets", ", ".join(host.processor.isa)),
        ("Native precisions", ", ".join(["f32", *(_STANDS_FOR[name] for name in host.processor.native)])),
        ("Cores", _cores(host)),
        ("Caches", _caches(host)),
        ("NUMA", _numa(host)),
        ("Clock", _clock(host)),
        ("Limits", _limits(host)),
        ("Throttling", _throttling(host)),
        ("Memory", _memory(host)),
        ("Load", _load(host)),
        ("Runs in", _virtual(host)),
        ("Kernel", host.kernel),
        ("Fingerprint", host.fingerprint),
        *(("Note", note) for note in host.notes),
    ]
    return [(label, value) for label, value in rows if value]


def size(count: int) -> str:
    """Return bytes in binary units with three significant digits: ``27.5 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if value < 1000 else f"{value:.0f} TiB"


def _cpu(host: Host) -> str:
    names = [host.processor.model or "unknown model", host.processor.arch]
    return ", ".join(name for name in names if name)


def _budget(host: Host) -> str:
    budget = host.budget
    cores = f"{budget.cores} core{'s' if budget.cores > 1 else ''}"
    if budget.physical != budget.cores:
        cores = f"{budget.cores} logical CPUs on {budget.physical} physical cores"
    return f"{cores} ({budget.reason})"


def _cores(host: Host) -> str:
    kinds = Counter(core.kind for core in host.cores)
    parts = [f"{len(host.cores)} physical"]
    if len(kinds) > 1:
        parts = [f"{count} {kind}" for kind, count in sorted(kinds.items(), reverse=True)]
    sockets = len(host.sockets)
    smt = f"{host.threads_per_core} threads a core" if host.threads_per_core > 1 else _NO_SMT.get(host.smt, "no SMT")
    return f"{' + '.join(parts)}, {len(host.online)} logical, {sockets} socket{'s' if sockets > 1 else ''}, {smt}"


def _caches(host: Host) -> str:
    """Return each kind of cache once: ``L2 40 x 1 MiB, L3 2 x 27.5 MiB (20 cores each)``."""
    core_of = host.core_of()
    kinds = Counter((cache.level, cache.bytes, len({core_of[cpu] for cpu in cache.cpus})) for cache in host.caches)
    parts = []
    for (level, held, cores), count in sorted(kinds.items(), key=lambda item: item[0][0]):
        each = f"{count} x {size(held)}" if held is not None else f"{count} of unknown size"
        parts.append(f"L{level} {each}" + (f" ({cores} cores each)" if cores > 1 else ""))
    return ", ".join(parts)


def _numa(host: Host) -> str:
    if len(host.nodes) == 1:
        return "one node"
    parts = []
    for node in host.nodes:
        held = f", {size(node.memory_bytes)}" if node.memory_bytes is not None else ""
        parts.append(f"node {node.id}: CPUs {brief_list(node.cpus) or 'none'}{held}")
    farthest = max((far for node in host.nodes for _, far in node.distances), default=10)
    return f"{len(host.nodes)} nodes, farthest {farthest / 10:g} x local ({'; '.join(parts)})"


def _clock(host: Host) -> str:
    clocks = (("now", host.processor.current_mhz), ("base", host.processor.base_mhz), ("max", host.processor.max_mhz))
    return ", ".join(f"{name} {mhz / 1000:.2f} GHz" for name, mhz in clocks if mhz is not None)


def _limits(host: Host) -> str:
    limits = host.limits
    parts = []
    if limits.quota is not None:
        parts.append(f"quota {limits.quota:g} CPUs (/{limits.quota_path})")
    if limits.affinity is not None and set(limits.affinity) != set(host.online):
        parts.append(f"mask {brief_list(limits.affinity)}")
    if limits.cpuset is not None and set(limits.cpuset) != set(host.online):
        parts.append(f"cpuset {brief_list(limits.cpuset)}")
    if limits.memory_bytes is not None:
        parts.append(f"memory {size(limits.memory_bytes)} (/{limits.memory_path})")
    return "; ".join(parts) or "none"


def _throttling(host: Host) -> str:
    parts = [
        f"/{one.path}: {one.throttled} of {one.periods} periods, {one.throttled_ns / 1e9:.3g} s"
        for one in host.limits.throttles
    ]
    return "; ".join(parts)


def _memory(host: Host) -> str:
    total, available = host.memory.total_bytes, host.memory.available_bytes
    if total is None:
        return ""
    return size(total) + (f", {size(available)} available" if available is not None else "")


def _load(host: Host) -> str:
    load = host.load
    parts = []
    if load.average is not None:
        parts.append("average " + " ".join(f"{value:.2f}" for value in load.average))
    if load.cpu_pressure is not None:
        parts.append(f"tasks waited for a CPU in {load.cpu_pressure:g} % of the last 10 s")
    if load.steal_share:
        parts.append(f"{100 * load.steal_share:.2g} % of CPU time stolen by the hypervisor since boot")
    return ", ".join(parts)


def _virtual(host: Host) -> str:
    virtual = host.virtual
    machine = f"virtual machine ({virtual.product})" if virtual.product else "virtual machine"
    parts = [machine if virtual.machine else "", f"{virtual.container} container" if virtual.container else ""]
    return ", ".join(part for part in parts if part)
