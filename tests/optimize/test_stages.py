"""How levels share the time, what a block is worth under each objective, and what a level begins with."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from speed_surface import F32, space

from whet.optimize import stages
from whet.optimize.lab import capacity
from whet.optimize.trial_words import Measured
from whet.plan import Targets

HERE = space(2)


def block(speed: float, latency_ms: float = 5.0) -> Measured:
    return Measured(50, 0.5, speed, [latency_ms] * 100, 0.5, 50.0)


def state_of(targets: Targets | None = None, *, left: float = 1.0, bound: str = "compute", levels: int = 6):
    """A search of 100 s of which the share ``left`` is left."""
    clock = SimpleNamespace(
        budget_s=100.0, left_s=100.0 * left, until=lambda share: max(0.0, 100.0 * (share - 1 + left))
    )
    return SimpleNamespace(
        clock=clock,
        service={"bound": bound},
        request=SimpleNamespace(targets=targets or Targets(), service="online"),
        host=SimpleNamespace(budget=SimpleNamespace(cores=2)),
        levels=dict.fromkeys(range(levels)),
        baselines=[SimpleNamespace(best=1)] * 4,
        block_s=0.5,
        space=HERE,
    )


@pytest.mark.parametrize("left", [0.9, 0.6, 0.35, 0.2, 0.05, 0.0])
@pytest.mark.parametrize("name", ["system", "application", "algorithm"])
def test_no_level_takes_what_the_finals_need(name, left):
    seconds = stages.seconds_for(state_of(left=left), name)
    assert seconds <= max(0.0, 100.0 * (left - stages.FINALS_SHARE))


def test_where_batching_pays_batches_get_more_of_the_time():
    fresh = {bound: stages.seconds_for(state_of(bound=bound), "system") for bound in ("compute", "memory")}
    assert fresh["memory"] < fresh["compute"]


@pytest.mark.parametrize("left", [0.9, 0.5, 0.3, 0.1, 0.01])
def test_blocks_of_the_finals_fit_into_what_is_left(left):
    state = state_of(left=left)
    stages.fit_finals(state, 4)
    assert state.block_s <= 0.5
    assert state.block_s >= stages.SHORTEST_S
    spent = 4 * (6 + 4 + stages.FINALISTS_ABOUT) * (state.block_s + stages.OVERHEAD_S)
    assert spent <= 100 * left or state.block_s == stages.SHORTEST_S


def test_of_two_that_carry_the_load_the_one_on_fewer_cores_is_better_and_who_does_not_carry_it_is_worse():
    state = state_of(Targets(objective="cores", min_qps=100, p99_ms=20))
    one = next(plan for plan in HERE.plans if plan.compute_threads == 1)
    two = next(plan for plan in HERE.plans if plan.compute_threads == 2)
    assert stages.score(state, one, block(120)) > stages.score(state, two, block(500))
    assert stages.score(state, two, block(150)) > stages.score(state, one, block(90))


def test_a_latency_target_costs_what_littles_law_says_and_a_block_s_own_tail_nothing():
    state = state_of(Targets(p99_ms=20))
    single, batched = (
        next(plan for plan in HERE.plans if (plan.streams, plan.max_batch) == (1, size)) for size in (1, 8)
    )
    assert stages.score(state, single, block(150)) == 150  # two are held: 13 ms
    assert stages.score(state, single, block(150, latency_ms=90)) == 150
    assert stages.score(state, single, block(50)) == pytest.approx(25)  # two are held: 40 ms
    assert stages.score(state, batched, block(400)) == pytest.approx(200)  # sixteen are held: 40 ms
    assert stages.score(state_of(), batched, block(400)) == 400


def test_a_candidates_knee_is_where_its_score_begins_to_fall_faster():
    state = state_of(Targets(p99_ms=20))
    for plan in HERE.plans[:40]:
        knee = math.exp(stages._candidate(state, plan).knee)
        assert stages.score(state, plan, block(knee)) == pytest.approx(knee)
        assert stages.score(state, plan, block(knee / 2)) == pytest.approx(knee / 4)
        assert stages._candidate(state_of(), plan).knee < 0


@pytest.mark.parametrize(
    ("targets", "first"),
    [
        pytest.param(Targets(), (2, 1), id="throughput"),
        pytest.param(Targets(objective="latency"), (1, 2), id="latency"),
        pytest.param(Targets(objective="cores", min_qps=10), (1, 1), id="cores"),
    ],
)
def test_the_search_begins_with_what_practitioners_would_try_first(targets, first):
    system = [plan for plan in HERE.at("system") if plan.artifact == F32.artifact]
    by_id = {plan.id: plan for plan in system}
    seeds = [by_id[key] for key in stages._seeds(state_of(targets), "system", system) if key in by_id]
    assert (seeds[0].runtime, seeds[0].streams, seeds[0].threads) == ("openvino", *first)
    assert {plan.runtime for plan in seeds} == {"openvino", "onnxruntime"}


def test_where_batching_pays_the_largest_batches_come_first():
    base = next(p for p in HERE.at("system") if (p.runtime, p.streams, p.threads) == ("openvino", 2, 1))
    plans = HERE.at("application")
    found = {}
    for bound in ("compute", "memory"):
        state = state_of(bound=bound)
        state.levels = {"system": capacity(base)}
        by_id = {plan.id: plan for plan in plans}
        found[bound] = [by_id[key].max_batch for key in stages._seeds(state, "application", plans)]
    assert found == {"compute": [8], "memory": [16, 8, 4]}


def bf16_first(base_shape: tuple[int, int], batch: int, *, holds: bool = True) -> set[tuple[int, int, int]]:
    """Shapes and batches in which the net itself is tried in bf16 at once, after f32 was best at ``base_shape``."""
    state = state_of()
    like = ("openvino", "f32", *base_shape, batch)
    shape = lambda p: (p.runtime, p.precision, p.streams, p.threads, p.max_batch)  # noqa: E731
    state.levels = {"application": capacity(next(p for p in HERE.at("application") if shape(p) == like))}
    state.variants = list(HERE.variants.values())
    plans = [plan for plan in HERE.plans if holds or (plan.artifact, plan.precision) != (F32.artifact, "bf16")]
    by_id = {plan.id: plan for plan in plans}
    seeds = [by_id[key] for key in stages._seeds(state, "algorithm", plans)]
    own = [plan for plan in seeds if (plan.artifact, plan.precision) == (F32.artifact, "bf16")]
    return {(plan.streams, plan.threads, plan.max_batch) for plan in own}


def test_what_openvinos_hints_amount_to_is_tried_whatever_f32_liked_best():
    assert bf16_first((1, 2), 16) == {(1, 2, 16), (2, 1, 8), (1, 2, 8)}
    assert bf16_first((1, 1), 1) == {(1, 1, 1), (2, 1, 1), (1, 2, 1)}
    assert bf16_first((2, 1), 8, holds=False) == set()


def test_seeds_are_plain_plans():
    seeds = set(stages._seeds(state_of(), "system", HERE.at("system")))
    plain = {plan.id for plan in HERE.plans if not plan.options and plan.allocator == "default"}
    pinned = {replace(plan, pinning=True).id for plan in HERE.plans}
    assert seeds <= plain | pinned
