import shutil
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.host import distance, read_host
from whet.host.fingerprint import digest

NAMES = [
    "laptop",
    "xeon-6148",
    "xeon-snc4",
    "epyc-nps4",
    "graviton3",
    "altra",
    "quota-1.5-v2",
    "half-a-core",
    "smt-off",
]

FIELDS = st.fixed_dictionaries(
    {
        "arch": st.sampled_from(["x86_64", "aarch64"]),
        "vendor": st.sampled_from(["GenuineIntel", "AuthenticAMD"]),
        "model": st.text(string.ascii_letters, max_size=3),
        "isa": st.lists(st.sampled_from(["avx2", "avx512f", "amx_tile"]), unique=True),
        "cores": st.integers(1, 128),
        "physical": st.integers(1, 64),
        "smt": st.integers(1, 2),
        "sockets": st.integers(1, 4),
        "nodes": st.integers(1, 8),
        "l3_bytes": st.one_of(st.none(), st.integers(1 << 20, 1 << 30)),
        "l3_cores": st.one_of(st.none(), st.integers(1, 64)),
    }
)


def test_a_fingerprint_outlives_reboots_load_and_the_order_of_its_fields(tree, scratch):
    shutil.copytree(tree("quota-1.5-v2"), scratch)
    before = read_host(scratch)
    (scratch / "proc/loadavg").write_text("63.10 60.02 55.33 64/900 77\n")
    (scratch / "proc/sys/kernel/osrelease").write_text("6.12.1\n")
    (scratch / "proc/meminfo").write_text("MemTotal: 1024 kB\nMemAvailable: 12 kB\n")
    after = read_host(scratch)
    assert (after.load, after.kernel, after.memory) != (before.load, before.kernel, before.memory)
    assert after.fingerprint == before.fingerprint
    assert digest(dict(reversed(before.fingerprint_fields.items()))) == before.fingerprint


def test_a_fingerprint_never_changes_between_versions_unnoticed(host):
    """Bundles name hosts by it; a change of fields must be deliberate and written in the changelog."""
    assert host("xeon-6148").fingerprint_fields == {
        "arch": "x86_64",
        "vendor": "GenuineIntel",
        "model": "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz",
        "isa": ["avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"],
        "cores": 80,
        "physical": 40,
        "smt": 2,
        "sockets": 2,
        "nodes": 2,
        "l3_bytes": 28160 << 10,
        "l3_cores": 20,
    }
    assert host("xeon-6148").fingerprint == "4e30406aa1e9"


def test_every_recorded_host_but_the_same_container_twice_differs(host):
    prints = {name: host(name).fingerprint for name in NAMES}
    assert len(set(prints.values())) == len(prints)
    assert host("quota-1.5-v1").fingerprint == host("quota-1.5-v2").fingerprint


@given(FIELDS, FIELDS)
def test_distance_is_symmetric_and_zero_only_for_the_same(a, b):
    assert distance(a, b) == pytest.approx(distance(b, a))
    assert distance(a, a) == 0
    assert distance(a, b) >= 0
    if {**a, "isa": sorted(a["isa"])} != {**b, "isa": sorted(b["isa"])}:
        assert distance(a, b) > 0


@given(FIELDS, FIELDS, st.integers(1, 128))
def test_another_architecture_is_farther_than_anything_else(a, b, cores):
    near = distance({**a, "arch": "x86_64"}, {**b, "arch": "x86_64"})
    far = distance({**a, "arch": "x86_64"}, {**b, "arch": "aarch64"})
    assert far > near
    same = {**a, "arch": "aarch64"}
    assert distance({**a, "arch": "x86_64"}, same) >= distance(a, {**a, "cores": cores})


def test_the_nearest_host_is_the_one_a_person_would_pick(host):
    fields = {name: host(name).fingerprint_fields for name in NAMES}

    def nearest(one, among):
        return min(among, key=lambda name: distance(one, fields[name]))

    half = host("xeon-6148").limited(cores=40).fingerprint_fields
    assert nearest(half, NAMES) in {"xeon-6148", "smt-off"}
    assert nearest(half, ["epyc-nps4", "xeon-snc4", "xeon-6148"]) == "xeon-6148"
    assert nearest(fields["altra"], ["graviton3", "xeon-6148", "half-a-core"]) == "graviton3"
    vnni = {**fields["xeon-snc4"], "cores": 64, "physical": 64}
    assert nearest(vnni, ["xeon-6148", "xeon-snc4", "epyc-nps4"]) == "xeon-snc4"


def test_unknown_and_missing_fields_do_not_break_a_comparison(host):
    fields = host("laptop").fingerprint_fields
    assert distance(fields, {**fields, "later": 7}) == 0
    without = {name: value for name, value in fields.items() if name != "nodes"}
    assert distance(fields, without) == 2.0
    assert distance({}, {}) == 0
