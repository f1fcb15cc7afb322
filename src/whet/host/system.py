"""The rest of a host: memory, load, pressure, stolen time, and whether it is a virtual machine or a container."""

import os
from dataclasses import dataclass

from whet.host.files import Tree, kilobytes, to_float, to_int

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_CONTAINER_FILES = (
    ("run/secrets/kubernetes.io", "kubernetes"),
    ("var/run/secrets/kubernetes.io", "kubernetes"),
    (".dockerenv", "docker"),
    ("run/.containerenv", "podman"),
    ("dev/lxd", "lxd"),
)
_CONTAINER_GROUPS = (("kubepods", "kubernetes"), ("libpod", "podman"), ("docker", "docker"), ("lxc", "lxc"))
_VIRTUAL_PRODUCTS = ("kvm", "qemu", "virtual", "vmware", "google compute engine", "openstack", "bochs", "xen", "hvm")


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory of the host, whatever the control groups allow.

    Attributes:
        total_bytes: memory the kernel manages, or None.
        available_bytes: the kernel's estimate of what can be had without swapping, or None.
    """

    total_bytes: int | None
    available_bytes: int | None


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the host was when it was read. ``None`` where the kernel does not say.

    Attributes:
        average: run-queue averages over 1, 5 and 15 minutes, tasks; None when unreadable.
        steal_s: CPU seconds since boot in which a virtual CPU was ready and the hypervisor ran something else.
        steal_share: the same as a fraction of all CPU time since boot.
        cpu_pressure: percent of the last 10 s in which some task waited for a CPU.
        memory_pressure: the same for memory.
        io_pressure: the same for storage.
    """

    average: tuple[float, ...] | None
    steal_s: float | None
    steal_share: float | None
    cpu_pressure: float | None
    memory_pressure: float | None
    io_pressure: float | None


@dataclass(frozen=True, slots=True)
class Virtual:
    """Whether the host is a virtual machine, and hints of a container.

    Attributes:
        machine: it is a virtual machine.
        product: vendor and product as the firmware names them; empty when hidden.
        container: ``docker``, ``kubernetes``, ``podman``, ``lxc``, ... or empty for none seen.
    """

    machine: bool
    product: str
    container: str


def read_memory(tree: Tree) -> Memory:
    """Return the host's memory from /proc/meminfo."""
    info = tree.pairs("proc/meminfo")
    if "MemTotal" not in info:
        tree.note("/proc/meminfo cannot be read: memory is unknown")
    return Memory(kilobytes(info.get("MemTotal")), kilobytes(info.get("MemAvailable")))


def read_average(tree: Tree) -> tuple[float, ...] | None:
    """Return the load averages over 1, 5 and 15 minutes, or None."""
    words = (tree.text("proc/loadavg") or "").split()
    averages = tuple(value for word in words[:3] if (value := to_float(word)) is not None)
    return averages if len(averages) == 3 else None


def read_load(tree: Tree) -> Load:
    """Return averages, stolen time and pressure."""
    steal, total = read_steal(tree)
    pressure = [read_pressure(tree, name)[0] for name in ("cpu", "memory", "io")]
    share = steal / total if steal is not None and total else None
    return Load(read_average(tree), steal, share, *pressure)


def read_steal(tree: Tree) -> tuple[float | None, float]:
    """Return (stolen, total) CPU seconds since boot; stolen is None where /proc/stat is missing or too old for it."""
    for line in tree.lines("proc/stat"):
        name, *words = line.split()
        if name == "cpu":
            # user nice system idle iowait irq softirq steal; guest times are already part of user and nice.
            ticks = [to_int(word) or 0 for word in words[:8]]
            return (ticks[7] / _TICKS_PER_S if len(ticks) == 8 else None), sum(ticks) / _TICKS_PER_S
    return None, 0.0


def read_pressure(tree: Tree, name: str) -> tuple[float | None, int | None]:
    """Return (percent of the last 10 s, microseconds since boot) in which some task waited for ``name``."""
    for line in tree.lines(f"proc/pressure/{name}"):
        kind, *words = line.split()
        fields = dict(word.split("=", 1) for word in words if "=" in word)
        if kind == "some":
            return to_float(fields.get("avg10")), to_int(fields.get("total"))
    return None, None


def read_virtual(tree: Tree, flags: str, group_paths: str) -> Virtual:
    """Tell virtual machines and containers from traces in files; a hint, never a ground for a decision.

    Args:
        tree: where to look.
        flags: the processor's flags as /proc/cpuinfo lists them.
        group_paths: the text of /proc/self/cgroup.
    """
    parts = [tree.text(f"sys/class/dmi/id/{name}") or "" for name in ("sys_vendor", "product_name")]
    product = " ".join(part for part in parts if part)
    lowered = product.lower()
    named = any(word in lowered for word in _VIRTUAL_PRODUCTS) or ("amazon ec2" in lowered and ".metal" not in lowered)
    # ARM has no hypervisor flag; a device tree says so in a node of its own.
    machine = "hypervisor" in flags.split() or named or tree.exists("proc/device-tree/hypervisor")
    container = next((name for path, name in _CONTAINER_FILES if tree.exists(path)), "")
    if not container:
        container = next((name for word, name in _CONTAINER_GROUPS if word in group_paths), "")
    return Virtual(machine, product, container or (tree.text("run/systemd/container") or ""))
