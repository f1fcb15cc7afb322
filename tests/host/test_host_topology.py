import json
import shutil
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernelfiles import write
from make import HOSTS, make

from whet.errors import PlanRefused
from whet.host import Host, describe, read_host


@dataclass(frozen=True)
class Expected:
    """What a person reads from the machine's data sheet."""

    cores: int
    logical: int
    sockets: int
    nodes: int
    l3: tuple[int, ...]
    budget: tuple[int, int]
    native: tuple[str, ...] = ()
    reason: str = "all"
    virtual: bool = False


MIB = 1 << 20
EXPECTED = {
    "laptop": Expected(12, 16, 1, 1, (18 * MIB,), (16, 12), ("int8",)),
    "xeon-6148": Expected(40, 80, 2, 2, (28160 << 10,) * 2, (80, 40)),
    "xeon-snc4": Expected(56, 112, 1, 4, (105 * MIB,), (112, 56), ("bf16", "f16", "int8")),
    "epyc-nps4": Expected(64, 128, 1, 4, (32 * MIB,) * 8, (128, 64)),
    "graviton3": Expected(64, 64, 1, 1, (32 * MIB,), (64, 64), ("bf16", "f16", "int8"), virtual=True),
    "altra": Expected(80, 80, 1, 1, (), (80, 80), ("f16", "int8")),
    "quota-1.5-v2": Expected(64, 64, 1, 1, (32 * MIB,) * 8, (1, 1), reason="quota 1.5 CPUs rounded down"),
    "quota-1.5-v1": Expected(64, 64, 1, 1, (32 * MIB,) * 8, (1, 1), reason="quota 1.5 CPUs rounded down"),
    "nested-v2": Expected(64, 64, 1, 1, (32 * MIB,) * 8, (2, 2), reason="quota 2.5 CPUs rounded down"),
    "hybrid": Expected(8, 8, 1, 1, (12 * MIB,), (3, 3), reason="quota 3 CPUs"),
    "namespace-outside": Expected(8, 8, 1, 1, (12 * MIB,), (3, 3), reason="quota 3 CPUs"),
    "cpuset-every-second": Expected(
        40, 80, 2, 2, (28160 << 10,) * 2, (40, 20), reason="cpuset 0,2,4,6,8,10,...,76,78: 40 of 80 online CPUs"
    ),
    "smt-off": Expected(40, 40, 2, 2, (28160 << 10,) * 2, (40, 40)),
    "vm-no-caches": Expected(4, 4, 1, 1, (), (4, 4), virtual=True),
    "half-a-core": Expected(8, 8, 1, 1, (12 * MIB,), (1, 1), reason="quota 0.5 CPUs: less than one core"),
}
INCOMPLETE = {"vm-no-caches", "altra"}


def test_every_recorded_host_is_expected_to_be_something():
    assert set(EXPECTED) == set(HOSTS)


@pytest.mark.parametrize("name", HOSTS)
def test_a_recorded_host_reads_as_its_data_sheet_says(host, name):
    one, expected = host(name), EXPECTED[name]
    budget = (one.budget.cores, one.budget.physical)
    seen = Expected(
        len(one.cores), len(one.online), len(one.sockets), len(one.nodes), tuple(c.bytes for c in one.caches_of(3)),
        budget, one.processor.native, expected.reason, one.virtual.machine,
    )  # fmt: skip
    assert seen == expected
    assert one.budget.reason.startswith(expected.reason)
    assert (one.notes == ()) == (name not in INCOMPLETE) or name == "altra"


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_survives_json(host, name):
    one = host(name)
    plain = json.loads(json.dumps(msgspec.to_builtins(one)))
    assert plain["budget"]["cores"] == one.budget.cores
    assert msgspec.convert(plain, Host) == one
    assert hash(one) == hash(read_like(one))


def read_like(one):
    return msgspec.convert(msgspec.to_builtins(one), Host)


@pytest.mark.parametrize("name", HOSTS)
def test_cores_caches_and_nodes_partition_the_online_cpus(host, name):
    one = host(name)
    for groups in ([core.cpus for core in one.cores], [node.cpus for node in one.nodes]):
        assert sorted(cpu for group in groups for cpu in group) == list(one.online)
    for level in {cache.level for cache in one.caches}:
        assert sorted(cpu for cache in one.caches_of(level) for cpu in cache.cpus) == list(one.online)
    assert set(one.budget.cpus) <= set(one.online)


def test_siblings_nodes_and_distances_of_a_two_socket_xeon(host):
    one = host("xeon-6148")
    assert one.cores[3].cpus == (3, 43)
    assert one.cores[25].socket == 1
    assert one.nodes[1].cpus == (*range(20, 40), *range(60, 80))
    assert one.nodes[1].distances == ((0, 21), (1, 10))
    assert one.nodes[0].memory_bytes == 96 << 30
    assert one.memory.total_bytes == 192 << 30
    assert (one.nodes_needed(), one.sockets_needed(), one.threads_per_core) == (2, 2, 2)
    assert (one.processor.max_mhz, one.processor.base_mhz) == (3700, 2400)
    assert "avx512f" in one.processor.isa
    assert "avx512_vnni" not in one.processor.isa


def test_hybrid_processors_tell_their_kinds_and_clusters(host):
    one = host("laptop")
    assert [core.kind for core in one.cores] == ["performance"] * 4 + ["efficiency"] * 8
    assert one.cores[1].cpus == (2, 3)
    assert [cache.cpus for cache in one.caches_of(2)][-2:] == [(8, 9, 10, 11), (12, 13, 14, 15)]
    assert (one.cores[0].max_mhz, one.cores[4].max_mhz, one.processor.max_mhz) == (5000, 3700, 5000)


def test_capacities_tell_big_cores_from_little_ones_but_not_favoured_from_plain(tree, scratch):
    root = scratch
    shutil.copytree(tree("half-a-core"), root)
    for cpu, capacity in enumerate([1024, 1024, 1009, 980, 400, 400, 400, 400]):
        (root / f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity").write_text(f"{capacity}\n")
    assert [core.kind for core in read_host(root).cores] == ["performance"] * 4 + ["efficiency"] * 4
    for cpu in range(4, 8):
        (root / f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity").write_text("990\n")
    assert {core.kind for core in read_host(root).cores} == {""}


def test_arm_models_have_names_and_vendors(host):
    assert host("graviton3").processor.model == "Neoverse-V1 (0x41/0xd40)"
    assert host("graviton3").processor.vendor == "ARM"
    assert host("altra").processor.isa == ("neon", "fp16", "dotprod")
    assert "sve" in host("graviton3").processor.isa


def test_only_instructions_every_core_has_count(tree, scratch):
    root = scratch
    shutil.copytree(tree("half-a-core"), root)
    path = root / "proc/cpuinfo"
    first, rest = path.read_text().split("\n\n", 1)
    path.write_text(first + "\n\n" + rest.replace(" avx2 ", " ", 1))
    assert "avx2" in read_host(tree("half-a-core")).processor.isa
    assert "avx2" not in read_host(root).processor.isa


def test_an_empty_root_is_one_core_and_says_what_is_missing(tmp_path):
    one = read_host(tmp_path)
    assert (one.budget.cores, one.budget.cpus, len(one.nodes), one.limits.quota) == (1, (0,), 1, None)
    assert (one.memory_bytes, one.load.average, one.kernel, one.processor.isa) == (None, None, "", ())
    assert any("one CPU is assumed" in note for note in one.notes)
    assert any("meminfo" in note for note in one.notes)
    assert describe(one)[0] == ("CPU", "unknown model")


def test_cores_come_from_cpuinfo_where_topology_is_hidden(tree, scratch):
    root = scratch
    (root / "proc").mkdir(parents=True)
    shutil.copy(tree("xeon-6148") / "proc/cpuinfo", root / "proc")
    one = read_host(root)
    assert (len(one.cores), len(one.online), len(one.sockets)) == (40, 80, 2)
    assert any("cores are taken from /proc/cpuinfo" in note for note in one.notes)


def test_cpus_of_no_node_are_counted_to_the_first(tree, scratch):
    root = scratch
    shutil.copytree(tree("half-a-core"), root)
    (root / "sys/devices/system/node/node0/cpulist").write_text("0-5\n")
    one = read_host(root)
    assert one.nodes[0].cpus == tuple(range(8))
    assert any("in no NUMA node" in note for note in one.notes)


def test_another_process_has_its_own_mask(tree, scratch):
    root = scratch
    shutil.copytree(tree("xeon-6148"), root)
    shutil.copytree(root / "proc/self", root / "proc/99")
    (root / "proc/99/status").write_text("Cpus_allowed_list:\t4-7\nMems_allowed_list:\t0\n")
    one = read_host(root, pid=99)
    assert (one.budget.cores, one.budget.cpus, one.limits.memory_nodes) == (4, (4, 5, 6, 7), (0,))
    assert one.budget.reason == "affinity mask 4-7: 4 of 80 online CPUs"
    assert (one.nodes_needed(), one.fingerprint_fields["sockets"]) == (1, 1)


def test_a_mask_outside_the_cpuset_is_set_aside_with_a_remark(tree, scratch):
    root = scratch
    shutil.copytree(tree("quota-1.5-v2"), root)
    (root / "sys/fs/cgroup/cpuset.cpus.effective").write_text("0-3\n")
    (root / "proc/self/status").write_text("Cpus_allowed_list:\t8-9\n")
    one = read_host(root)
    assert one.budget.cpus == (0, 1, 2, 3)
    assert any("affinity mask 8-9 shares no CPU with 0-3" in note for note in one.notes)


def test_memory_is_the_tighter_of_host_and_group(host):
    assert host("quota-1.5-v2").memory_bytes == 4 << 30
    assert host("nested-v2").memory_bytes == 2 << 30
    assert host("hybrid").memory_bytes == 3 << 30
    assert host("xeon-6148").memory_bytes == 192 << 30


def test_load_pressure_and_steal(host):
    load = host("vm-no-caches").load
    assert load.average == (0.52, 0.58, 0.59)
    assert load.cpu_pressure == 1.25
    assert load.memory_pressure is None
    assert load.steal_s == pytest.approx(10.0)
    assert 0 < load.steal_share < 0.01


def test_containers_and_machines_are_hinted_at(host):
    assert host("quota-1.5-v1").virtual.container == "docker"
    assert host("nested-v2").virtual.container == "kubernetes"
    assert host("xeon-6148").virtual.container == ""
    assert host("vm-no-caches").virtual.product == "QEMU Standard PC (Q35 + ICH9, 2009)"


def test_a_limited_host_keeps_to_what_was_left(host):
    one = host("xeon-6148")
    half = one.limited(cpus=range(20, 40))
    assert (half.budget.cores, half.nodes_needed(), half.fingerprint_fields["nodes"]) == (20, 1, 1)
    assert half.fingerprint != one.fingerprint
    four = half.limited(cores=4)
    assert (four.budget.cores, four.budget.reason) == (4, "limited to 4 as asked")
    assert four.limited(cpus=range(19, 40)).budget.cores == 4
    assert four.limited(cores=9).budget.cores == 4
    assert one.limited(cores=1000).budget == one.budget
    with pytest.raises(PlanRefused, match="0 cores"):
        one.limited(cores=0)
    with pytest.raises(PlanRefused, match=r"none of the CPUs \[5\] is in the budget, which allows 20-39"):
        half.limited(cpus=[5])


GARBAGE = st.one_of(
    st.sampled_from(["", "max", "-1", "0", "18446744073709551616", "0-", "a b c", ":", "=", " - ", "\0", "9" * 5000]),
    st.text(max_size=40),
    st.integers().map(str),
)
NAMES = [name for name in HOSTS if name in {"hybrid", "namespace-outside", "half-a-core", "vm-no-caches", "laptop"}]


@pytest.fixture(scope="module")
def spoilt(folder):
    """Return the files of a host and a root that holds them, for a test that overwrites some and puts them back."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = (HOSTS[name](), make(name, folder / f"spoilt-{name}"))
        return made[name]

    return get


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_content_of_a_few_files_makes_reading_raise(spoilt, data):
    files, root = spoilt(data.draw(st.sampled_from(NAMES)))
    # Most files describe caches; the others are drawn as often as they.
    telling = sorted(path for path in files if "/cpu/cpu" not in path)
    paths = st.one_of(st.sampled_from(telling), st.sampled_from(sorted(files)))
    changed = data.draw(st.lists(paths, max_size=6, unique=True))
    try:
        for path in changed:
            (root / path).write_bytes(data.draw(GARBAGE).encode("utf-8", "surrogatepass"))
        one = read_host(root)
    finally:
        write(root, {path: files[path] for path in changed})
    assert 1 <= one.budget.cores <= len(one.budget.cpus)
    assert set(one.budget.cpus) <= set(one.online)
    assert msgspec.convert(msgspec.to_builtins(one), Host) == one
    assert msgspec.json.decode(msgspec.json.encode(one), type=Host) == one
    assert describe(one)
