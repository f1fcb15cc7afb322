"""The kernel's text formats, written from a description of a machine and of what one process is allowed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cpuflags import SKYLAKE

GIB_KB = 1 << 20
SESSION = "user.slice/user-1000.slice/session-1.scope"


@dataclass(frozen=True)
class Machine:
    """Cores in a regular pattern: sockets x nodes x cores x threads.

    numbering: "block" numbers all first threads before all second ones (most servers); "adjacent" puts siblings side
    by side (laptops). l3_cores: cores that share an L3; 0 for no L3 in sight.
    """

    model: str = "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz"
    vendor: str = "GenuineIntel"
    flags: str = SKYLAKE
    arm: tuple[int, int] | None = None
    sockets: int = 1
    nodes_per_socket: int = 1
    cores_per_node: int = 4
    threads: int = 1
    numbering: str = "block"
    core_ids: tuple[int, ...] = ()
    l2: str = "1024K"
    l3: str = "28160K"
    l3_cores: int = 4
    caches: bool = True
    distances: tuple[tuple[int, ...], ...] = ((10,),)
    node_kb: int = 96 * GIB_KB
    max_khz: int = 3_700_000
    smt_control: str = "on"
    dmi: tuple[str, str] = ("Dell Inc.", "PowerEdge R740")
    offline: tuple[int, ...] = ()
    steal_ticks: int = 0


@dataclass(frozen=True)
class Process:
    """What one process is allowed: mask, lines of /proc/self/cgroup and mountinfo, and files of its control groups."""

    mask: str = ""
    cgroup: str = f"0::/{SESSION}"
    mounts: tuple[str, ...] = (
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw",
    )
    files: dict[str, str] = field(default_factory=lambda: {f"sys/fs/cgroup/{SESSION}/cgroup.procs": "4711"})


@dataclass(frozen=True)
class Cpu:
    number: int
    socket: int
    node: int
    core: int


def layout(machine: Machine) -> list[Cpu]:
    """Number the logical CPUs of a machine."""
    per_socket = machine.nodes_per_socket * machine.cores_per_node
    total = machine.sockets * per_socket
    cpus = []
    for core in range(total):
        for thread in range(machine.threads):
            number = core + thread * total if machine.numbering == "block" else core * machine.threads + thread
            cpus.append(Cpu(number, core // per_socket, core // machine.cores_per_node, core))
    return sorted(cpus, key=lambda cpu: cpu.number)


def ranges(numbers: Iterable[int]) -> str:
    """Kernel list format, written here independently of the code under test."""
    ordered = sorted(numbers)
    text = []
    start = 0
    for index in range(1, len(ordered) + 1):
        if index == len(ordered) or ordered[index] != ordered[index - 1] + 1:
            first, last = ordered[start], ordered[index - 1]
            text.append(f"{first}" if first == last else f"{first}-{last}")
            start = index
    return ",".join(text)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.endswith("\n") or not text else text + "\n")


def machine_files(machine: Machine) -> dict[str, str]:
    """Everything below /proc and /sys that describes the hardware."""
    every = layout(machine)
    online = [cpu for cpu in every if cpu.number not in machine.offline]
    files = {
        "sys/devices/system/cpu/online": ranges(cpu.number for cpu in online),
        "sys/devices/system/cpu/possible": ranges(cpu.number for cpu in every),
        "sys/devices/system/cpu/present": ranges(cpu.number for cpu in every),
        "sys/devices/system/cpu/offline": ranges(machine.offline),
        "sys/devices/system/cpu/smt/control": machine.smt_control,
        "sys/devices/system/cpu/smt/active": str(int(machine.smt_control == "on" and machine.threads > 1)),
        "proc/cpuinfo": cpuinfo(machine, online),
        "proc/sys/kernel/osrelease": "6.1.0-28-amd64" if machine.arm is None else "6.1.0-28-arm64",
        "proc/loadavg": "0.52 0.58 0.59 1/1230 48173",
        "proc/pressure/cpu": "some avg10=1.25 avg60=0.90 avg300=0.80 total=91834521\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=0",
    }
    total_kb = machine.node_kb * machine.sockets * machine.nodes_per_socket
    files["proc/meminfo"] = meminfo("", total_kb)
    ticks = f"74608 2520 24433 1117073 6176 4054 2136 {machine.steal_ticks} 0 0"
    files["proc/stat"] = "\n".join(
        [f"cpu  {ticks}", *(f"cpu{cpu.number} {ticks}" for cpu in online), "btime 1700000000"]
    )
    if machine.dmi != ("", ""):
        files["sys/class/dmi/id/sys_vendor"], files["sys/class/dmi/id/product_name"] = machine.dmi
    for cpu in online:
        files |= cpu_files(machine, cpu, online)
    files |= node_files(machine, online)
    return files


def meminfo(prefix: str, total_kb: int) -> str:
    rows = (("MemTotal", total_kb), ("MemFree", total_kb * 3 // 4), ("MemAvailable", total_kb * 7 // 8))
    return "\n".join(f"{prefix}{name + ':':15} {amount:8} kB" for name, amount in rows)


def cpuinfo(machine: Machine, online: list[Cpu]) -> str:
    blocks = []
    for cpu in online:
        if machine.arm is not None:
            rows = [
                f"processor\t: {cpu.number}", "BogoMIPS\t: 2100.00", f"Features\t: {machine.flags}",
                f"CPU implementer\t: {machine.arm[0]:#04x}", "CPU architecture: 8", "CPU variant\t: 0x1",
                f"CPU part\t: {machine.arm[1]:#05x}", "CPU revision\t: 1",
            ]  # fmt: skip
        else:
            siblings = sum(other.socket == cpu.socket for other in online)
            cores = len({other.core for other in online if other.socket == cpu.socket})
            rows = [
                f"processor\t: {cpu.number}", f"vendor_id\t: {machine.vendor}", "cpu family\t: 6", "model\t\t: 85",
                f"model name\t: {machine.model}", "stepping\t: 4", "microcode\t: 0x2006e05", "cpu MHz\t\t: 2400.000",
                f"cache size\t: {machine.l3.removesuffix('K')} KB", f"physical id\t: {cpu.socket}",
                f"siblings\t: {siblings}", f"core id\t\t: {core_id(machine, cpu)}", f"cpu cores\t: {cores}",
                "fpu\t\t: yes", f"flags\t\t: {machine.flags}", "bugs\t\t: spectre_v1 spectre_v2", "bogomips\t: 4800.00",
                "address sizes\t: 46 bits physical, 48 bits virtual", "power management:",
            ]  # fmt: skip
        blocks.append("\n".join(rows) + "\n")
    return "\n".join(blocks)


def core_id(machine: Machine, cpu: Cpu) -> int:
    per_socket = machine.nodes_per_socket * machine.cores_per_node
    local = cpu.core % per_socket
    return machine.core_ids[local] if machine.core_ids else local


def cpu_files(machine: Machine, cpu: Cpu, online: list[Cpu]) -> dict[str, str]:
    here = f"sys/devices/system/cpu/cpu{cpu.number}"
    siblings = ranges(other.number for other in online if other.core == cpu.core)
    package = ranges(other.number for other in online if other.socket == cpu.socket)
    files = {
        f"{here}/topology/core_id": str(core_id(machine, cpu)),
        f"{here}/topology/physical_package_id": str(cpu.socket),
        f"{here}/topology/thread_siblings_list": siblings,
        f"{here}/topology/core_cpus_list": siblings,
        f"{here}/topology/core_siblings_list": package,
        f"{here}/topology/package_cpus_list": package,
    }
    if machine.max_khz:
        files[f"{here}/cpufreq/scaling_cur_freq"] = "2400000"
        files[f"{here}/cpufreq/cpuinfo_max_freq"] = str(machine.max_khz)
        files[f"{here}/cpufreq/base_frequency"] = "2400000"
    if machine.caches:
        rows = [
            ("1", "Data", "32K", siblings),
            ("1", "Instruction", "32K", siblings),
            ("2", "Unified", machine.l2, siblings),
        ]
        if machine.l3_cores:
            group = cpu.core // machine.l3_cores
            sharing = ranges(other.number for other in online if other.core // machine.l3_cores == group)
            rows.append(("3", "Unified", machine.l3, sharing))
        for index, row in enumerate(rows):
            files |= cache_files(f"{here}/cache/index{index}", *row)
    return files


def cache_files(here: str, level: str, kind: str, size: str, sharing: str) -> dict[str, str]:
    return {f"{here}/level": level, f"{here}/type": kind, f"{here}/size": size, f"{here}/shared_cpu_list": sharing}


def node_files(machine: Machine, online: list[Cpu]) -> dict[str, str]:
    count = machine.sockets * machine.nodes_per_socket
    files = {
        "sys/devices/system/node/online": ranges(range(count)),
        "sys/devices/system/node/has_cpu": ranges(range(count)),
    }
    for node in range(count):
        here = f"sys/devices/system/node/node{node}"
        files[f"{here}/cpulist"] = ranges(cpu.number for cpu in online if cpu.node == node)
        files[f"{here}/distance"] = " ".join(map(str, machine.distances[node]))
        files[f"{here}/meminfo"] = meminfo(f"Node {node} ", machine.node_kb)
    return files


def process_files(process: Process, machine: Machine) -> dict[str, str]:
    """Everything that limits the process."""
    nodes = ranges(range(machine.sockets * machine.nodes_per_socket))
    mask = process.mask or ranges(cpu.number for cpu in layout(machine) if cpu.number not in machine.offline)
    status = f"Name:\tpython\nUmask:\t0022\nState:\tR (running)\nTgid:\t4711\nPid:\t4711\nCpus_allowed_list:\t{mask}\n"
    status += f"Mems_allowed_list:\t{nodes}\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n"
    mounts = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw", "23 22 0:21 / /proc rw,relatime - proc proc rw"]
    return {
        "proc/self/status": status,
        "proc/self/cgroup": process.cgroup,
        "proc/self/mountinfo": "\n".join([*mounts, *process.mounts]),
        **process.files,
    }


def v2_level(quota: str, *, periods: int = 0, throttled: int = 0, usec: int = 0, memory: str = "max") -> dict[str, str]:
    """The files of a group below the root with the cpu and memory controllers on."""
    stat = f"usage_usec 84210\nuser_usec 60000\nsystem_usec 24210\nnr_periods {periods}\nnr_throttled {throttled}\n"
    stat += f"throttled_usec {usec}\nnr_bursts 0\nburst_usec 0"
    return {"cpu.max": quota, "cpu.stat": stat, "memory.max": memory}


def v1_level(
    quota_us: int, *, period_us: int = 100_000, periods: int = 0, throttled: int = 0, ns: int = 0
) -> dict[str, str]:
    stat = f"nr_periods {periods}\nnr_throttled {throttled}\nthrottled_time {ns}"
    return {
        "cpu.cfs_quota_us": str(quota_us),
        "cpu.cfs_period_us": str(period_us),
        "cpu.shares": "1024",
        "cpu.stat": stat,
    }


def at(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


def v1_mounts(root: str, options: str = "rw") -> tuple[str, ...]:
    """The mounts of version 1 as systemd lays them out."""
    rows = (("cpu,cpuacct", "cpu,cpuacct"), ("cpuset", "cpuset"), ("memory", "memory"))
    return tuple(
        f"{40 + index} 39 0:{30 + index} {root} /sys/fs/cgroup/{place} {options},nosuid,nodev,noexec,relatime - "
        f"cgroup cgroup {options},{controllers}"
        for index, (place, controllers) in enumerate(rows)
    )
