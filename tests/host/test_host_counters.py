import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from whet.host import delta, memory, read_counters, thread_cpus

STAT = "4711 (py (thon) 3) S 1 4711 4711 0 -1 4194304 103 0 0 0 {u} {s} {cu} {cs} 20 0 1 0 56249 3133440 382 184 1 1 1 0 0 0 0 0 0 0 0 0 17 {cpu} 0 0 0 0 0\n"  # noqa: E501


def write_stat(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(STAT.format(**{"u": 0, "s": 0, "cu": 0, "cs": 0, "cpu": 0, **values}))


def test_two_snapshots_give_the_growth_of_each_group(tree, scratch):
    shutil.copytree(tree("nested-v2"), scratch)
    before = read_counters(root=scratch)
    pod = scratch / before.throttles[1].path
    (pod / "cpu.stat").write_text("usage_usec 9\nnr_periods 160\nnr_throttled 27\nthrottled_usec 390000\n")
    (pod / "cri-containerd-9a.scope/cpu.stat").write_text("nr_periods 150\nnr_throttled 1\nthrottled_usec 10\n")
    (scratch / "proc/stat").write_text("cpu  1 1 1 1 1 1 1 300 0 0\n")
    grown = delta(before, read_counters(root=scratch))
    assert [(one.periods, one.throttled, one.throttled_ns) for one in grown.throttles] == [
        (100, 1, 10_000), (100, 15, 300_000_000),
    ]  # fmt: skip
    assert grown.worst.quota == 2.5
    assert grown.throttled_share == 0.15
    assert grown.steal_s == pytest.approx(3.0)
    assert grown.at_s > 0


def test_no_quota_means_no_share_rather_than_zero(host, tree):
    counters = read_counters(root=tree("xeon-6148"))
    assert counters.throttles == ()
    assert counters.worst is None
    assert counters.throttled_share is None
    assert counters.load1 == 0.52
    assert counters.cpu_pressure_s == pytest.approx(91.834521)


def test_cpu_seconds_include_reaped_and_living_descendants(scratch):
    proc = scratch / "proc"
    write_stat(proc / "10", u=100, s=50, cu=30, cs=20)
    write_stat(proc / "11", u=400)
    write_stat(proc / "12", s=300)
    for pid, children in ((10, "11 "), (11, "12 999 10 "), (12, "")):
        (proc / f"{pid}/task/{pid}").mkdir(parents=True)
        (proc / f"{pid}/task/{pid}/children").write_text(children)
    ticks = os.sysconf("SC_CLK_TCK")
    assert read_counters(10, root=scratch).cpu_s == pytest.approx(900 / ticks)
    assert read_counters(12, root=scratch).cpu_s == pytest.approx(300 / ticks)
    assert read_counters(13, root=scratch).cpu_s is None


def test_switches_are_summed_over_threads(scratch):
    for tid, (voluntary, involuntary) in {10: (5, 1), 21: (70, 3)}.items():
        folder = scratch / f"proc/10/task/{tid}"
        folder.mkdir(parents=True)
        (folder / "status").write_text(
            f"voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n"
        )
    counters = read_counters(10, root=scratch)
    assert (counters.voluntary, counters.involuntary) == (75, 4)


def test_threads_with_odd_names_report_where_they_ran(scratch):
    task = scratch / "proc/10/task"
    write_stat(task / "10", u=150, s=50, cpu=3)
    (task / "10/status").write_text("Cpus_allowed_list:\t2-3\n")
    write_stat(task / "11", cpu=1)
    (task / "11/status").write_text("Cpus_allowed_list:\t1\n")
    (task / "11/schedstat").write_text("2500000000 17 3\n")
    (task / "12").mkdir()
    first, second = thread_cpus(10, root=scratch)
    assert (first.tid, first.name, first.cpu, first.affinity) == (10, "py (thon) 3", 3, (2, 3))
    assert first.cpu_s == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))
    assert (second.tid, second.affinity, second.cpu_s) == (11, (1,), 2.5)


def test_memory_adds_private_pages_up(scratch):
    (scratch / "proc/7").mkdir(parents=True)
    (scratch / "proc/7/smaps_rollup").write_text(
        "00400000-7ffd0000 ---p 00000000 00:00 0    [rollup]\nRss:  1724 kB\nPss:   493 kB\nPrivate_Clean:  40 kB\n"
        "Private_Dirty:  112 kB\nPrivate_Hugetlb:  2048 kB\n"
    )
    seen = memory(7, root=scratch)
    assert (seen.rss, seen.pss, seen.uss) == (1724 << 10, 493 << 10, 2200 << 10)
    (scratch / "proc/8").mkdir()
    (scratch / "proc/8/status").write_text("VmRSS:\t    2144 kB\n")
    assert memory(8, root=scratch).rss == 2144 << 10
    assert (memory(8, root=scratch).uss, memory(9, root=scratch).rss) == (None, None)


def test_live_memory_is_ordered_and_grows_with_what_is_touched():
    before = memory()
    block = bytearray(os.urandom(1 << 20)) * 64
    after = memory()
    assert after.uss <= after.pss <= after.rss
    assert after.uss - before.uss > 48 << 20
    del block


def test_live_cpu_seconds_count_a_child_while_it_runs_and_after():
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    before = read_counters()
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    running = delta(before, read_counters())
    child.communicate(b"\n")
    reaped = delta(before, read_counters())
    assert running.cpu_s >= 0.29
    assert reaped.cpu_s >= 0.29
    assert running.at_s <= reaped.at_s
    assert reaped.voluntary >= 1


def test_live_threads_show_their_own_mask_and_time():
    ready, finish = threading.Event(), threading.Event()
    (cpu, *_) = sorted(os.sched_getaffinity(0))
    seen = {}

    def work():
        os.sched_setaffinity(0, {cpu})
        seen["tid"] = threading.get_native_id()
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        ready.set()
        finish.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    found = {one.tid: one for one in thread_cpus()}
    finish.set()
    thread.join()
    mine = found[seen["tid"]]
    assert (mine.cpu, mine.affinity) == (cpu, (cpu,))
    assert mine.cpu_s >= 0.05
    assert set(found[os.getpid()].affinity) == os.sched_getaffinity(0)
