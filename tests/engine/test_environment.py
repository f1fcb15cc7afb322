"""The environment a plan needs before its process starts, and what a process says of it afterwards."""

import os
import subprocess
import sys

import pytest

from whet.engine.environment import CEILINGS, can_preload, environment, isa_ceilings, unmet
from whet.errors import EnvironmentLacks
from whet.plan import OpenMP, Plan


def test_a_plain_plan_needs_nothing():
    assert environment(Plan("a")) == {}
    assert unmet(Plan("a"), {}) == []


def test_openmp_knobs_become_variables(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    knobs = OpenMP(threads=4, intel=True, blocktime_ms=10, affinity="granularity=fine,compact,1,0")
    assert environment(Plan("a", openmp=knobs)) == {
        "OMP_NUM_THREADS": "4",
        "KMP_BLOCKTIME": "10",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "LD_PRELOAD": str(tmp_path / "lib" / "libiomp5.so"),
    }


def test_knobs_of_intels_openmp_without_it_are_refused():
    with pytest.raises(EnvironmentLacks, match=r"openmp\.intel"):
        environment(Plan("a", openmp=OpenMP(threads=2, blocktime_ms=0)))


def test_a_library_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert not can_preload("libiomp5")
    with pytest.raises(EnvironmentLacks, match="pip install intel-openmp"):
        environment(Plan("a", openmp=OpenMP(threads=2, intel=True)))
    with pytest.raises(EnvironmentLacks, match="unknown"):
        environment(Plan("a", allocator="hoard"))


def test_a_preload_counts_only_if_the_library_is_mapped(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    plan = Plan("a", openmp=OpenMP(threads=2, intel=True))
    env = {"OMP_NUM_THREADS": "2", "LD_PRELOAD": "anything"}
    assert unmet(plan, env, maps="7f00 /lib/libc.so.6") == ["libiomp5.so is not mapped"]
    assert unmet(plan, env, maps="7f00 /x/lib/libiomp5.so") == []
    assert unmet(plan, {}, maps="libiomp5.so") == ["OMP_NUM_THREADS is unset, not 2"]


@pytest.mark.skipif(not can_preload("libiomp5"), reason="intel-openmp is not installed")
def test_the_environment_really_preloads_the_library():
    plan = Plan("a", openmp=OpenMP(threads=2, intel=True, blocktime_ms=10))
    words = (
        "from whet.engine.environment import unmet; from whet.settings import environ; from whet.plan import *;"
        "print(unmet(Plan('a', openmp=OpenMP(2, True, 10)), environ()))"
    )
    env = {**os.environ, **environment(plan)}  # noqa: TID251  (a test makes a child's environment)
    said = subprocess.run([sys.executable, "-c", words], env=env, capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_ceilings_are_in_order_and_within_the_processor():
    names = [name for name, _ in CEILINGS]
    offered = isa_ceilings()
    assert list(offered) == [name for name in names if name in offered]
    assert environment(Plan("a", isa_ceiling="AVX2")) == {"ONEDNN_MAX_CPU_ISA": "AVX2"}
