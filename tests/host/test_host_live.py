"""This machine, for real: masks, control groups with a quota, and what an import brings along."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whet.host import default_workers, place, read_counters, read_host
from whet.host.cgroups import levels
from whet.host.files import Tree

REPORT = """
import ctypes, json, sys, time
from whet.host import delta, read_counters, read_host
before = read_counters()
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[2] == "namespace":
    CLONE_NEWCGROUP = 0x02000000
    assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWCGROUP) == 0, ctypes.get_errno()
end = time.perf_counter() + float(sys.argv[1])
while time.perf_counter() < end:
    pass
host = read_host()
grown = delta(before, read_counters())
print(json.dumps({
    "cores": host.budget.cores, "cpus": host.budget.cpus, "quota": host.limits.quota, "path": host.limits.quota_path,
    "reason": host.budget.reason, "throttled": grown.worst.throttled if grown.worst else None,
    "periods": grown.worst.periods if grown.worst else None,
    "throttled_ns": grown.worst.throttled_ns if grown.worst else None, "notes": host.notes,
}))
"""


def report(prepare, *, spin=0.0, namespace="same"):
    """Start a child, let ``prepare(pid)`` move it, let it spin for some seconds, return what it reads of itself."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", REPORT, str(spin), namespace],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        prepare(child.pid)
        answer, _ = child.communicate("go\n", timeout=60)
        return json.loads(answer)
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def group():
    """Two nested control groups, the outer one with a quota; both are gone afterwards."""
    own = levels(Tree(Path("/")), "cpu")
    if os.geteuid() != 0 or not own:
        pytest.skip("no cpu control groups here, or not root")
    parent = Path("/", own[0].path)
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if own[0].version == 1 else ("cpu.max",)
    outer = parent / f"whet-test-{os.getpid()}"
    try:
        (outer / "inner").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"the cpu control group {parent} cannot be written: {error.strerror}")

    def limit(quota, period_us=100_000):
        if len(names) == 1:
            (outer / "cpu.max").write_text(f"{int(quota * period_us)} {period_us}")
        else:
            (outer / "cpu.cfs_period_us").write_text(str(period_us))
            (outer / "cpu.cfs_quota_us").write_text(str(int(quota * period_us)))

    try:
        if not all((outer / name).exists() for name in names):
            pytest.skip(f"the cpu controller is not passed on below {parent}")
        yield outer, limit
    finally:
        for folder in (outer / "inner", outer):
            # The kernel keeps a group busy for a moment after its last process has ended.
            for _ in range(100):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                if not folder.exists():
                    break
                time.sleep(0.02)
        assert not outer.exists()


def test_a_child_with_a_narrower_mask_has_a_smaller_budget():
    cpu = max(os.sched_getaffinity(0))
    seen = report(lambda pid: os.sched_setaffinity(pid, {cpu}))
    assert (seen["cores"], seen["cpus"]) == (1, [cpu])
    if len(read_host().online) > 1:
        assert seen["reason"].startswith(f"affinity mask {cpu}: 1 of ")


def test_the_mask_of_another_process_is_read_from_outside():
    cpu = max(os.sched_getaffinity(0))
    inside = {}

    def prepare(pid):
        os.sched_setaffinity(pid, {cpu})
        inside["host"] = read_host(pid=pid)

    report(prepare)
    assert inside["host"].budget.cpus == (cpu,)


@pytest.mark.root
def test_a_real_quota_on_the_parent_group_is_found_and_its_throttling_counted(group):
    outer, limit = group
    # So little that a busy machine gives the child more than that, or it would never be throttled.
    limit(0.1, 20_000)
    seen = report(lambda pid: (outer / "inner/cgroup.procs").write_text(str(pid)), spin=0.5)
    assert (seen["quota"], seen["cores"], seen["path"]) == (0.1, 1, str(outer).strip("/"))
    assert seen["periods"] >= seen["throttled"] > 0
    assert seen["throttled_ns"] > 0
    assert seen["notes"] == []


@pytest.mark.root
def test_a_real_quota_of_one_cpu_is_a_budget_of_one_core(group):
    outer, limit = group
    limit(1.0)
    seen = report(lambda pid: (outer / "cgroup.procs").write_text(str(pid)))
    assert (seen["quota"], seen["cores"]) == (1.0, 1)
    assert set(seen["cpus"]) == os.sched_getaffinity(0)
    if len(seen["cpus"]) > 1:
        assert seen["reason"] == "quota 1 CPUs"


@pytest.mark.root
def test_a_real_quota_is_found_from_inside_a_new_namespace(group):
    outer, limit = group
    limit(0.5)
    seen = report(lambda pid: (outer / "inner/cgroup.procs").write_text(str(pid)), namespace="namespace")
    assert (seen["quota"], seen["cores"], seen["path"]) == (0.5, 1, str(outer).strip("/"))


@pytest.mark.root
def test_counters_of_a_process_in_a_group_are_read_from_outside(group):
    outer, limit = group
    limit(0.5)
    seen = {}

    def prepare(pid):
        (outer / "cgroup.procs").write_text(str(pid))
        seen["counters"] = read_counters(pid)

    report(prepare)
    (throttle,) = seen["counters"].throttles
    assert (throttle.path, throttle.quota) == (str(outer).strip("/"), 0.5)
    assert read_counters().throttles == () or read_counters().throttles[0].path != throttle.path


def test_this_machine_reads_without_remarks_that_contradict_it():
    host = read_host()
    assert set(host.budget.cpus) == os.sched_getaffinity(0)
    assert host.memory.total_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host.kernel == os.uname().release
    assert host.processor.arch == os.uname().machine
    placement = place(host, default_workers(host), 1, 1)
    assert set(placement.cpus) <= os.sched_getaffinity(0)


def test_importing_brings_no_numpy_no_runtime_and_starts_nothing():
    code = """
import os, sys, threading
import whet.host
heavy = {"numpy", "openvino", "onnxruntime", "torch", "asyncio", "subprocess", "socket"}
print(sorted(heavy & set(sys.modules)), threading.active_count(), len(os.listdir("/proc/self/task")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1 1"
