import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speed_surface import Surface, candidates, space

from whet.optimize.costmodel import CostModel, polish
from whet.optimize.search import Racing
from whet.optimize.strategy import Budget, Candidate, Told, replay
from whet.optimize.yardsticks import WITHOUT_END, Exhaustive, Random

SEEDS = range(20)


@pytest.fixture(scope="module")
def field():
    return candidates(space())


def test_racing_beats_random_at_equal_cost_over_twenty_seeds(field):
    budget = Budget(40.0)
    racing, random = [], []
    for seed in SEEDS:
        surface = Surface(field, seed)
        key, cost = replay(Racing(field, budget), surface.score, budget)
        assert cost <= budget.seconds
        racing.append(surface.regret(key))
        key, cost = replay(Random(field, budget, seed=seed), surface.score, budget)
        assert cost <= budget.seconds
        random.append(surface.regret(key))
    assert statistics.median(racing) <= 0.04
    assert statistics.median(racing) < 0.5 * statistics.median(random)
    assert statistics.mean(racing) < statistics.mean(random)


def test_racing_costs_a_tenth_of_the_exhaustive_sweep_and_finds_nearly_the_same(field):
    budget = Budget(80.0)
    surface = Surface(field, 7)
    best, cost = replay(Exhaustive(field, WITHOUT_END), surface.score, budget)
    found, spent = replay(Racing(field, budget), surface.score, budget)
    assert spent <= 0.1 * cost
    assert surface.regret(found) <= surface.regret(best) + 0.05


def test_exhaustive_measures_everything(field):
    few = field[:17]
    strategy = Exhaustive(few, WITHOUT_END)
    replay(strategy, Surface(field, 0).score, Budget(1.0))
    assert {one.key for one in strategy.ranking()} == {one.key for one in few}


def test_replay_is_the_same_every_time(field):
    surface, budget = Surface(field, 3), Budget(30.0)
    runs = {replay(Racing(field, budget), surface.score, budget) for _ in range(2)}
    assert len(runs) == 1


def test_failures_are_passed_over_and_never_asked_for_again(field):
    surface, budget = Surface(field, 1), Budget(30.0)
    asked: list[str] = []

    def score(key: str, block: int) -> float | None:
        asked.append(key)
        return None if int(key, 16) % 2 else surface.score(key, block)

    best, _ = replay(Racing(field, budget), score, budget)
    assert int(best, 16) % 2 == 0
    rounds = [key for key in dict.fromkeys(asked) if int(key, 16) % 2]
    assert all(asked.count(key) <= 2 for key in rounds)


def test_nothing_that_works_ends_the_search(field):
    budget = Budget(20.0)
    assert replay(Racing(field, budget), lambda key, block: None, budget)[0] == ""


def test_a_new_leg_keeps_what_was_learned(field):
    surface, budget = Surface(field, 5), Budget(15.0)
    system = [one for one in field if one.features["batch"] == 1.0]
    racing = Racing(system, budget)
    replay(racing, surface.score, budget)
    before = {one.key for one in racing.ranking()}
    racing.extend(field, 15.0)
    replay(racing, surface.score, budget)
    assert before <= {one.key for one in racing.ranking()}
    assert len(racing.ranking()) > len(before)


def test_discarded_blocks_do_not_shift_the_pairing():
    racing = Racing([Candidate("a", {}), Candidate("b", {})], Budget(100.0), seeds=["a", "b"])
    racing.ask()
    racing.tell([Told("a", (100.0, None, 10.0)), Told("b", (200.0, 40.0, 20.0))], 1.0)
    ranking = {one.key: one for one in racing.ranking()}
    assert ranking["b"].score - ranking["a"].score == pytest.approx(np.log(2))


def test_a_candidate_whose_every_block_was_disturbed_stays_open():
    racing = Racing([Candidate("a", {}), Candidate("b", {})], Budget(100.0), seeds=["a", "b"])
    racing.ask()
    racing.tell([Told("a", (100.0, 110.0)), Told("b", (None, None))], 1.0)
    assert not racing.ledger.failed
    asked = racing.ask()
    assert asked is not None
    assert "b" in asked.keys


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_polish_takes_the_common_mood_out(keys, blocks, seed):
    rng = np.random.default_rng(seed)
    effects, moods = rng.normal(0, 1, keys), rng.normal(0, 3, blocks)
    values = {str(k): {b: effects[k] + moods[b] for b in range(blocks)} for k in range(keys)}
    found, spread = polish(values)
    for k in range(1, keys):
        assert found[str(k)] - found["0"] == pytest.approx(effects[k] - effects[0], abs=1e-6)
    assert spread == pytest.approx(0.0, abs=1e-6)


def test_belief_is_sure_where_it_was_measured_and_carries_over_to_neighbours():
    def plan(batch: float, runtime: str) -> dict[str, str | float]:
        return {"runtime": runtime, "batch": batch, "streams": 2.0}

    measured = [plan(1.0, "a"), plan(1.0, "b"), plan(8.0, "a")]
    model = CostModel([*measured, plan(8.0, "b"), plan(4.0, "a")])
    belief = model.believe([0, 1, 2], np.array([0.0, -1.0, 0.5]), np.full(3, 0.02))
    assert belief.mean[:3] == pytest.approx([0.0, -1.0, 0.5], abs=0.05)
    assert (belief.spread[:3] < 0.03).all()
    assert -0.8 < belief.mean[3] < 0.1  # between what its runtime and what its batch suggest
    assert belief.spread[3] > 0.05
    assert 0.0 < belief.mean[4] < 0.55


@pytest.mark.parametrize(("knee", "picked"), [(math.log(200.0), ["int8 b8"]), (-math.inf, [])])
def test_what_a_latency_target_took_from_a_slow_net_is_given_back_to_a_fast_one(knee, picked):
    """Batches of 8 gain 30 % of speed; f32 misses the target with them, int8 is fast enough not to."""
    knees = {"b1": -math.inf, "b8": knee}
    candidates = [
        Candidate(f"{variant} {batch}", {"variant": variant, "batch": float(batch[1:])}, knee=knees[batch])
        for variant in ("f32", "int8")
        for batch in ("b1", "b8")
    ]
    racing = Racing(candidates, Budget(100.0))
    scores = {"f32 b1": 100.0, "f32 b8": 130.0 * 130.0 / 200.0, "int8 b1": 250.0}
    racing.tell([Told(key, (score,) * 4) for key, score in scores.items()], 1.0)
    assert racing.hopeful(racing.ranking(), 0.5) == picked
