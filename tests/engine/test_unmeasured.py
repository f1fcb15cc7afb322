"""Plans carried over from hosts one does not have: a big one, a tiny one, one with SMT, an ARM machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.engine.unmeasured import Site, carry_over
from whet.plan import OpenMP, Plan

TWO = Site(cores=2, physical=2, native=("bf16", "int8"), ceilings=("SSE41", "AVX2", "AVX512_CORE"))
HALF = Site(cores=1, physical=1)
ARM = Site(cores=8, physical=8, native=("bf16", "int8"))
BIG = {"cores": 64, "physical": 64}


@pytest.mark.parametrize(
    ("plan", "there", "site", "streams", "threads"),
    [
        (Plan("a", streams=64), BIG, TWO, 2, 1),
        (Plan("a", streams=16, threads=4), BIG, TWO, 1, 2),
        (Plan("a", threads=64), BIG, TWO, 1, 2),
        (Plan("a", threads=64), BIG, HALF, 1, 1),
        (Plan("a", streams=2), {"cores": 2, "physical": 2}, ARM, 8, 1),
        (Plan("a", streams=1), BIG, TWO, 1, 1),
        (Plan("a", streams=32), {"cores": 64, "physical": 32}, TWO, 2, 1),
        (Plan("a", streams=64), {"cores": 64, "physical": 32}, Site(cores=4, physical=2), 4, 1),
        (Plan("a", streams=3, threads=2), {}, TWO, 1, 2),
    ],
    ids=[
        "throughput from 64 cores", "wide streams from 64", "latency from 64", "latency to half a core", "grown to ARM",
        "one core stays one", "physical cores of an SMT host", "siblings of an SMT host", "an unknown host",
    ],
)  # fmt: skip
def test_a_plan_keeps_its_share_of_the_cores(plan, there, site, streams, threads):
    found = carry_over(plan, there, site)
    assert (found.plan.streams, found.plan.threads) == (streams, threads)
    assert bool(found.changes) == (found.plan != plan)


def test_a_limit_of_the_targets_holds_on_both_hosts():
    assert carry_over(Plan("a", streams=8), BIG, TWO, most=8).plan.streams == 2
    assert carry_over(Plan("a", streams=1), BIG, ARM, most=1).plan.streams == 1
    assert carry_over(Plan("a", streams=1), {}, ARM, most=4).plan.streams == 1


def test_what_is_absent_here_is_taken_out_and_said():
    openmp = OpenMP(64, intel=True, blocktime_ms=1, affinity="compact")
    plan = Plan("a", precision="bf16", workers=2, threads=64, allocator="tcmalloc", openmp=openmp,
                isa_ceiling="AVX512_CORE_AMX")  # fmt: skip
    found = carry_over(plan, BIG, HALF)
    assert found.plan == Plan("a", openmp=OpenMP(1))
    said = "; ".join(found.changes)
    for words in ("bf16", "AVX512_CORE_AMX", "tcmalloc", "1 of 2 workers", "libiomp5", "instead of 1x64 on 64"):
        assert words in said
    assert carry_over(Plan("a", precision="bf16"), {"physical": 1}, ARM).plan.precision == "bf16"


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 128),
    st.integers(1, 128).flatmap(lambda cores: st.tuples(st.just(cores), st.integers(1, cores))),
)
def test_a_plan_never_takes_more_than_the_budget_and_carrying_it_again_changes_nothing(streams, threads, there, here):
    cores, physical = here
    site = Site(cores=cores, physical=physical)
    found = carry_over(Plan("a", streams=streams, threads=threads), {"cores": there, "physical": there}, site)
    assert 1 <= found.plan.compute_threads <= cores
    again = carry_over(found.plan, {"cores": cores, "physical": physical}, site)
    assert again.plan == found.plan
    assert again.changes == ()
