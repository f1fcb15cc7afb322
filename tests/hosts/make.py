"""Writes /proc and /sys trees of machines we do not have, in the kernel's own file formats.

    python tests/hosts/make.py xeon-6148 /tmp/xeon      # one tree, to look at
    python tests/hosts/make.py --list

A tree is described in a dozen lines (HOSTS below) and written when a test asks for it, so what is reviewed is the
description. Layouts, numbering, cache sizes, flags and distances are those of the real machines.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cpuflags import ALTRA, COFFEE_LAKE, GRAVITON3, HASWELL_VM, MILAN, RAPTOR_LAKE, SAPPHIRE_RAPIDS
from kernelfiles import (
    GIB_KB,
    Cpu,
    Machine,
    Process,
    at,
    cache_files,
    cpuinfo,
    machine_files,
    process_files,
    ranges,
    v1_level,
    v1_mounts,
    v2_level,
    write,
)

XEON_2S = Machine(
    sockets=2,
    cores_per_node=20,
    threads=2,
    core_ids=(0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20, 24, 25, 26, 27, 28),
    l3_cores=20,
    distances=((10, 21), (21, 10)),
)
SNC4 = Machine(
    model="Intel(R) Xeon(R) Platinum 8480+",
    flags=SAPPHIRE_RAPIDS,
    nodes_per_socket=4,
    cores_per_node=14,
    threads=2,
    l2="2048K",
    l3="107520K",
    l3_cores=56,
    distances=((10, 12, 12, 12), (12, 10, 12, 12), (12, 12, 10, 12), (12, 12, 12, 10)),
    node_kb=64 * GIB_KB,
    max_khz=3_800_000,
)
NPS4 = Machine(
    model="AMD EPYC 7763 64-Core Processor",
    vendor="AuthenticAMD",
    flags=MILAN,
    nodes_per_socket=4,
    cores_per_node=16,
    threads=2,
    l2="512K",
    l3="32768K",
    l3_cores=8,
    distances=((10, 12, 12, 12), (12, 10, 12, 12), (12, 12, 10, 12), (12, 12, 12, 10)),
    node_kb=64 * GIB_KB,
    max_khz=3_529_000,
    dmi=("Supermicro", "AS -1114S-WN10RT"),
)
MILAN_64 = Machine(
    model="AMD EPYC 7713P 64-Core Processor",
    vendor="AuthenticAMD",
    flags=MILAN,
    cores_per_node=64,
    l2="512K",
    l3="32768K",
    l3_cores=8,
    node_kb=256 * GIB_KB,
    smt_control="off",
)
DESKTOP = Machine(
    model="Intel(R) Core(TM) i7-9700K CPU @ 3.60GHz",
    flags=COFFEE_LAKE,
    cores_per_node=8,
    l2="256K",
    l3="12288K",
    l3_cores=8,
    node_kb=32 * GIB_KB,
    max_khz=4_900_000,
    smt_control="notsupported",
    dmi=("System manufacturer", "System Product Name"),
)

V2_MOUNT = "31 24 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate"
POD = "sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f2e.slice"


def laptop() -> dict[str, str]:
    """Core i7-1360P: four performance cores with two threads each, eight efficiency cores in two clusters."""
    machine = Machine(
        model="13th Gen Intel(R) Core(TM) i7-1360P",
        flags=RAPTOR_LAKE,
        cores_per_node=4,
        threads=2,
        numbering="adjacent",
        l2="1280K",
        l3="18432K",
        node_kb=16 * GIB_KB,
        max_khz=5_000_000,
        dmi=("LENOVO", "21HM"),
    )
    files = machine_files(machine) | process_files(Process(mask="0-15"), machine)
    performance = list(range(8))
    cpu = "sys/devices/system/cpu"
    for name in ("online", "possible", "present"):
        files[f"{cpu}/{name}"] = "0-15"
    for number in performance:
        files[f"{cpu}/cpu{number}/cache/index3/shared_cpu_list"] = "0-15"
        files[f"{cpu}/cpu{number}/topology/package_cpus_list"] = "0-15"
    blocks = [files["proc/cpuinfo"]]
    for number in range(8, 16):
        here = f"{cpu}/cpu{number}"
        cluster = "8-11" if number < 12 else "12-15"
        alone = str(number)
        files |= {
            f"{here}/topology/core_id": str(number * 4),
            f"{here}/topology/physical_package_id": "0",
            f"{here}/topology/thread_siblings_list": alone,
            f"{here}/topology/core_cpus_list": alone,
            f"{here}/topology/cluster_cpus_list": cluster,
            f"{here}/topology/package_cpus_list": "0-15",
            f"{here}/cpufreq/scaling_cur_freq": "1200000",
            f"{here}/cpufreq/cpuinfo_max_freq": "3700000",
        }
        rows = (("1", "Data", "32K", alone), ("1", "Instruction", "64K", alone), ("2", "Unified", "2048K", cluster))
        for index, row in enumerate((*rows, ("3", "Unified", "18432K", "0-15"))):
            files |= cache_files(f"{here}/cache/index{index}", *row)
        block = cpuinfo(machine, [Cpu(number, 0, 0, number)])
        blocks.append(block.replace(f"core id\t\t: {number % 4}", f"core id\t\t: {number * 4}"))
    files["proc/cpuinfo"] = "\n".join(blocks)
    files["sys/devices/system/node/node0/cpulist"] = "0-15"
    files["sys/devices/cpu_core/cpus"] = "0-7"
    files["sys/devices/cpu_atom/cpus"] = "8-15"
    return files


def plain(machine: Machine, process: Process | None = None) -> Callable[[], dict[str, str]]:
    return lambda: machine_files(machine) | process_files(process or Process(), machine)


def no_caches() -> dict[str, str]:
    """A small virtual machine: no cache folder, no NUMA folder, no frequency, a hypervisor flag."""
    machine = Machine(
        model="Intel Core Processor (Haswell, no TSX)",
        flags=HASWELL_VM,
        cores_per_node=4,
        caches=False,
        max_khz=0,
        node_kb=8 * GIB_KB,
        smt_control="notsupported",
        dmi=("QEMU", "Standard PC (Q35 + ICH9, 2009)"),
        steal_ticks=1000,
    )
    files = plain(machine)()
    return {name: text for name, text in files.items() if not name.startswith("sys/devices/system/node")}


HOSTS: dict[str, Callable[[], dict[str, str]]] = {
    "laptop": laptop,
    "xeon-6148": plain(XEON_2S),
    "xeon-snc4": plain(SNC4),
    "epyc-nps4": plain(NPS4),
    "graviton3": plain(
        Machine(
            flags=GRAVITON3, arm=(0x41, 0xD40), cores_per_node=64, l3="32768K", l3_cores=64, max_khz=0,
            node_kb=128 * GIB_KB, smt_control="notimplemented", dmi=("Amazon EC2", "c7g.16xlarge"),
        )
    ),
    "altra": plain(
        Machine(
            flags=ALTRA, arm=(0x41, 0xD0C), cores_per_node=80, l3_cores=0, max_khz=3_000_000,
            node_kb=256 * GIB_KB, smt_control="notimplemented", dmi=("GIGABYTE", "R272-P30-JG"),
        )
    ),
    # docker run --cpus=1.5 with cgroup v2: a private namespace, the own group is the mount point.
    "quota-1.5-v2": plain(
        MILAN_64,
        Process(
            cgroup="0::/",
            mounts=(V2_MOUNT,),
            files=at("sys/fs/cgroup", v2_level("150000 100000", periods=310, throttled=31, usec=5_250_000,
                                               memory=str(4 << 30)) | {"cpuset.cpus.effective": "0-63"})
            | {".dockerenv": ""},
        ),
    ),
    # The same with version 1, in the host's namespace: the mount shows the own group only.
    "quota-1.5-v1": plain(
        MILAN_64,
        Process(
            cgroup="11:memory:/docker/4f7a\n5:cpuset:/docker/4f7a\n4:cpu,cpuacct:/docker/4f7a\n1:name=systemd:/docker/4f7a",
            mounts=v1_mounts("/docker/4f7a", "ro"),
            files=at("sys/fs/cgroup/cpu,cpuacct", v1_level(150_000, periods=310, throttled=31, ns=5_250_000_000))
            | {"sys/fs/cgroup/cpuset/cpuset.cpus": "0-63", "sys/fs/cgroup/cpuset/cpuset.effective_cpus": "0-63"}
            | {"sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 << 30)},
        ),
    ),
    # A pod seen from the node: the container asks for 8, the pod may have 2.5, the slices have no limit.
    "nested-v2": plain(
        MILAN_64,
        Process(
            cgroup="0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f2e.slice/cri-containerd-9a.scope",
            mounts=(V2_MOUNT,),
            files=at(f"{POD}/cri-containerd-9a.scope", v2_level("800000 100000", periods=50, memory="max"))
            | at(POD, v2_level("250000 100000", periods=60, throttled=12, usec=90_000, memory=str(2 << 30)))
            | at("sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice", v2_level("max 100000"))
            | at("sys/fs/cgroup/kubepods.slice", v2_level("max 100000") | {"cpuset.cpus.effective": "0-63"})
            | {"sys/fs/cgroup/cpuset.cpus.effective": "0-63", "sys/fs/cgroup/cpu.stat": "usage_usec 1"},
        ),
    ),
    # Version 1 for cpu, version 2 beside it for systemd alone; the tighter quota sits on the parent.
    "hybrid": plain(
        DESKTOP,
        Process(
            cgroup="4:cpu,cpuacct:/batch/job\n3:cpuset:/batch\n2:memory:/batch/job\n0::/batch.slice",
            mounts=(
                *v1_mounts("/"),
                "50 39 0:40 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw",
            ),
            files=at("sys/fs/cgroup/cpu,cpuacct/batch/job", v1_level(600_000, periods=9))
            | at("sys/fs/cgroup/cpu,cpuacct/batch",
                 v1_level(150_000, period_us=50_000, periods=20, throttled=5, ns=700))
            | at("sys/fs/cgroup/cpu,cpuacct", v1_level(-1))
            | at("sys/fs/cgroup/cpuset/batch", {"cpuset.cpus": "0-5", "cpuset.effective_cpus": "0-5"})
            | {"sys/fs/cgroup/memory/batch/job/memory.limit_in_bytes": "9223372036854771712"}
            | {"sys/fs/cgroup/memory/batch/memory.limit_in_bytes": str(3 << 30)}
            | {"sys/fs/cgroup/unified/batch.slice/cgroup.procs": "4711"},
        ),
    ),
    # podman, or `unshare --cgroup`: a new namespace below a mount made outside it. The names between are hidden.
    "namespace-outside": plain(
        DESKTOP,
        Process(
            cgroup="0::/",
            mounts=("30 23 0:26 /../.. /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw",),
            files=at("sys/fs/cgroup/machine.slice/libpod-77.scope",
                     v2_level("300000 100000", periods=4) | {"cgroup.procs": "4700\n4711"})
            | at("sys/fs/cgroup/machine.slice/libpod-78.scope", v2_level("100000 100000") | {"cgroup.procs": "5000"})
            | at("sys/fs/cgroup/machine.slice", v2_level("max 100000") | {"cgroup.procs": ""})
            | at("sys/fs/cgroup/user.slice/user-0.slice", v2_level("100000 100000") | {"cgroup.procs": "1"}),
        ),
    ),
    # Every second core of a socket, siblings included.
    "cpuset-every-second": plain(
        XEON_2S,
        Process(
            mask=ranges([*range(0, 40, 2), *range(40, 80, 2)]),
            cgroup="0::/shared.slice",
            files=at("sys/fs/cgroup/shared.slice", v2_level("max 100000")
                     | {"cpuset.cpus.effective": ranges([*range(0, 40, 2), *range(40, 80, 2)])}),
        ),
    ),
    "smt-off": plain(
        replace(XEON_2S, smt_control="off", offline=tuple(range(40, 80))),
    ),
    "vm-no-caches": no_caches,
    "half-a-core": plain(
        DESKTOP,
        Process(
            cgroup="0::/",
            mounts=(V2_MOUNT,),
            files=at("sys/fs/cgroup", v2_level("50000 100000", periods=100, throttled=99, usec=4_900_000)),
        ),
    ),
}  # fmt: skip


def make(name: str, root: Path) -> Path:
    """Write the tree of a host below ``root`` and return it."""
    write(root, HOSTS[name]())
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=sorted(HOSTS))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list or options.name is None or options.folder is None:
        print("\n".join(HOSTS))
        return
    print(make(options.name, options.folder))


if __name__ == "__main__":
    main()
