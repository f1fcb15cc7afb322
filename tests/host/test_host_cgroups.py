import shutil

import pytest

from whet.host import read_host
from whet.host.cgroups import Level, levels, read_limits, read_quota
from whet.host.files import Tree


@pytest.mark.parametrize(
    ("name", "quota", "path"),
    [
        ("quota-1.5-v2", 1.5, "sys/fs/cgroup"),
        ("quota-1.5-v1", 1.5, "sys/fs/cgroup/cpu,cpuacct"),
        ("nested-v2", 2.5, "sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f2e.slice"),
        ("hybrid", 3.0, "sys/fs/cgroup/cpu,cpuacct/batch"),
        ("namespace-outside", 3.0, "sys/fs/cgroup/machine.slice/libpod-77.scope"),
        ("half-a-core", 0.5, "sys/fs/cgroup"),
        ("xeon-6148", None, ""),
    ],
)
def test_the_tightest_quota_on_the_path_holds(host, name, quota, path):
    limits = host(name).limits
    assert (limits.quota, limits.quota_path) == (quota, path)


def test_both_versions_report_the_same_throttling(host):
    two, one = host("quota-1.5-v2").limits, host("quota-1.5-v1").limits
    assert (two.cgroups, one.cgroups) == ("v2", "v1")
    for limits in (one, two):
        (only,) = limits.throttles
        assert (only.quota, only.periods, only.throttled, only.throttled_ns) == (1.5, 310, 31, 5_250_000_000)


def test_every_level_with_a_quota_is_counted_innermost_first(host):
    leaf, pod = host("nested-v2").limits.throttles
    assert (leaf.quota, leaf.throttled) == (8.0, 0)
    assert (pod.quota, pod.throttled, pod.throttled_ns) == (2.5, 12, 90_000_000)


def test_hybrid_hosts_are_read_through_both_versions(host):
    limits = host("hybrid").limits
    assert limits.cgroups == "v1+v2"
    assert limits.cpuset == (0, 1, 2, 3, 4, 5)
    assert (limits.memory_bytes, limits.memory_path) == (3 << 30, "sys/fs/cgroup/memory/batch")


def test_the_own_group_is_found_by_membership_where_its_name_is_hidden(tree, scratch):
    root = scratch
    shutil.copytree(tree("namespace-outside"), root)
    (root / "sys/fs/cgroup/machine.slice/libpod-77.scope/cgroup.procs").write_text("4700\n")
    one = read_host(root)
    assert one.limits.quota is None
    assert any("lies outside the mount /sys/fs/cgroup" in note for note in one.notes)


def lay(root, cgroup, mounts, files=None):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text("\n".join(mounts))
    for name, text in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Tree(root)


def test_a_removed_group_is_read_by_its_former_ancestors(tmp_path):
    tree = lay(
        tmp_path, "0::/a/b (deleted)\n", ["1 0 0:1 / /cg rw - cgroup2 none rw"], {"cg/a/cpu.max": "200000 100000"}
    )
    assert levels(tree, "cpu") == (Level("cg/a", 2), Level("cg", 2))
    assert read_limits(tree).quota == 2.0


def test_colons_and_spaces_in_names_and_mount_points(tmp_path):
    mount = r"1 0 0:1 / /my\040cgroups rw - cgroup2 none rw"
    tree = lay(tmp_path, "0::/a:b/c d\n", [mount], {"my cgroups/a:b/c d/cpu.max": "100000 100000"})
    assert [level.path for level in levels(tree, "cpu")] == ["my cgroups/a:b/c d", "my cgroups/a:b", "my cgroups"]
    assert read_limits(tree).quota == 1.0


def test_a_later_mount_hides_an_earlier_one_at_the_same_place(tmp_path):
    mounts = ["1 0 0:1 / /cg rw - cgroup2 none rw", "2 0 0:2 /pod /cg rw - cgroup2 none rw"]
    tree = lay(tmp_path, "0::/pod/x\n", mounts, {"cg/x/cpu.max": "max 100000"})
    assert [level.path for level in levels(tree, "cpu")] == ["cg/x", "cg"]


def test_the_mount_that_shows_more_of_the_path_is_used(tmp_path):
    mounts = ["1 0 0:1 /pod/x /inner rw - cgroup2 none rw", "2 0 0:1 / /outer rw - cgroup2 none rw"]
    files = {"inner/cpu.max": "max 100000", "outer/pod/x/cpu.max": "max 100000", "outer/pod/cpu.max": "50000 100000"}
    tree = lay(tmp_path, "0::/pod/x\n", mounts, files)
    assert [level.path for level in levels(tree, "cpu")] == ["outer/pod/x", "outer/pod", "outer"]
    assert read_limits(tree).quota == 0.5


def test_a_process_outside_its_namespace_root_is_found_below_an_outer_mount(tmp_path):
    mounts = ["1 0 0:1 /.. /cg rw - cgroup2 none rw"]
    tree = lay(tmp_path, "0::/../sibling\n", mounts, {"cg/sibling/cpu.max": "150000 100000"})
    assert levels(tree, "cpu")[0] == Level("cg/sibling", 2)


def test_a_name_that_only_begins_like_the_mount_root_is_not_below_it(tmp_path):
    mounts = ["1 0 0:1 /docker/4 /cg rw - cgroup rw rw,cpu"]
    tree = lay(
        tmp_path, "4:cpu:/docker/42\n", mounts, {"cg/cpu.cfs_quota_us": "100000", "cg/cpu.cfs_period_us": "50000"}
    )
    assert levels(tree, "cpu") == (Level("cg", 1),)
    assert any("/docker/42 lies outside the mount /cg" in note for note in tree.notes)


def test_a_path_never_leaves_the_mount(tmp_path):
    tree = lay(
        tmp_path, "0::/../../../etc\n", ["1 0 0:1 / /cg rw - cgroup2 none rw"], {"cg/x": "", "etc/cpu.max": "1 1"}
    )
    assert levels(tree, "cpu") == (Level("cg", 2),)


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000", None),
        ("100000 100000", 1.0),
        ("25000 50000", 0.5),
        ("0 100000", None),
        ("-5 100000", None),
        ("100000 0", None),
        ("100000", None),
        ("", None),
        ("many few", None),
    ],
)
def test_the_words_of_cpu_max(tmp_path, text, quota):
    (tmp_path / "cpu.max").write_text(text)
    assert read_quota(Tree(tmp_path), Level(".", 2)) == quota


@pytest.mark.parametrize(("limit", "expected"), [("max", None), ("1073741824", 1 << 30), ("0", None)])
def test_the_words_of_memory_max(tmp_path, limit, expected):
    tree = lay(tmp_path, "0::/a\n", ["1 0 0:1 / /cg rw - cgroup2 none rw"], {"cg/a/memory.max": limit})
    assert read_limits(tree).memory_bytes == expected
