import pytest
from hypothesis import given
from hypothesis import strategies as st
from make import HOSTS
from synthetic import synthetic

from whet.host import describe
from whet.host.describe import size


@pytest.mark.parametrize("name", HOSTS)
def test_every_host_has_rows_that_fit_a_screen(host, name):
    rows = describe(host(name))
    assert [label for label, _ in rows][:2] == ["CPU", "Budget"]
    assert all(label and value and "None" not in value for label, value in rows)


def test_a_two_socket_server_in_words(host):
    rows = dict(describe(host("xeon-6148")))
    assert rows["Budget"] == "80 logical CPUs on 40 physical cores (all 80 online CPUs)"
    assert rows["Cores"] == "40 physical, 80 logical, 2 sockets, 2 threads a core"
    assert rows["Caches"] == "L2 40 x 1 MiB, L3 2 x 27.5 MiB (20 cores each)"
    assert rows["NUMA"] == (
        "2 nodes, farthest 2.1 x local (node 0: CPUs 0-19,40-59, 96 GiB; node 1: CPUs 20-39,60-79, 96 GiB)"
    )
    assert rows["Clock"] == "now 2.40 GHz, base 2.40 GHz, max 3.70 GHz"
    assert rows["Limits"] == "none"
    assert "Note" not in rows


def test_a_throttled_container_in_words(host):
    rows = dict(describe(host("quota-1.5-v2")))
    assert rows["Budget"] == "1 core (quota 1.5 CPUs rounded down)"
    assert rows["Limits"] == "quota 1.5 CPUs (/sys/fs/cgroup); memory 4 GiB (/sys/fs/cgroup)"
    assert rows["Throttling"] == "/sys/fs/cgroup: 31 of 310 periods, 5.25 s"
    assert rows["Runs in"] == "docker container"


def test_a_laptop_and_a_virtual_machine_in_words(host):
    laptop, machine = dict(describe(host("laptop"))), dict(describe(host("vm-no-caches")))
    assert laptop["Cores"] == "4 performance + 8 efficiency, 16 logical, 1 socket, 2 threads a core"
    assert laptop["Caches"] == "L2 4 x 1.25 MiB, L2 2 x 2 MiB (4 cores each), L3 1 x 18 MiB (12 cores each)"
    assert machine["Runs in"] == "virtual machine (QEMU Standard PC (Q35 + ICH9, 2009))"
    assert "Caches" not in machine
    assert "stolen" in machine["Load"]
    assert "SMT switched off" in dict(describe(host("smt-off")))["Cores"]


def test_rows_of_unknown_facts_are_left_out():
    assert set(dict(describe(synthetic()))).isdisjoint({"Clock", "Load", "Runs in", "Throttling"})


@given(st.integers(0, 1 << 60))
def test_sizes_are_short_and_never_in_exponents(count):
    text = size(count)
    number, unit = text.split()
    assert "e" not in number
    assert len(number) <= 7
    scale = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[unit]
    assert float(number) * 2**scale == pytest.approx(count, rel=0.006, abs=0.5)
