"""What every strategy keeps to, whatever it proposes."""

import builtins
import itertools
import math
import statistics
import subprocess
import sys

import pytest
from speed_surface import Surface, candidates, space

from whet.errors import MissingExtra, UsageError
from whet.optimize.strategies import NAMES, make
from whet.optimize.strategy import Budget, Strategy, Told, replay

WHOLE = candidates(space())
FIELD = WHOLE[::5]


def run(strategy: Strategy, score, budget: Budget, most: int = 1000) -> list[tuple[tuple[str, ...], int]]:
    """Drive a strategy to its end; every round it asked for."""
    rounds = []
    while (asked := strategy.ask()) is not None:
        rounds.append((asked.keys, asked.blocks))
        assert len(rounds) < most, "it never ends"
        begin = strategy.ledger.block
        fresh = sum(key not in strategy.ledger.scores for key in asked.keys)
        told = [Told(key, score(key, begin, asked.blocks)) for key in asked.keys]
        strategy.tell(told, budget.price(fresh, len(asked.keys), asked.blocks))
    return rounds


class StrategyContract:
    """Subclasses name the strategy."""

    name: str
    budget = Budget(30.0)

    def make(self, seed: int = 0, seconds: float = 30.0, seeds: tuple[str, ...] = ()) -> Strategy:
        strategy = make(self.name, self.budget, seed)
        strategy.extend(FIELD, seconds, seeds)
        return strategy

    def score(self, seed: int = 0):
        surface = Surface(FIELD, seed)
        return lambda key, begin, blocks: tuple(surface.score(key, begin + i) for i in range(blocks))

    def test_asks_known_candidates_once_each_until_the_time_is_spent(self):
        strategy = self.make()
        rounds = run(strategy, self.score(), self.budget)
        known = {one.key for one in FIELD}
        assert len(rounds) > 2
        assert all(set(keys) <= known and len(set(keys)) == len(keys) and blocks > 0 for keys, blocks in rounds)
        assert 0.7 * 30.0 < strategy.ledger.spent_s <= 30.0

    def test_ranking_is_sorted_and_holds_what_was_measured(self):
        strategy = self.make()
        rounds = run(strategy, self.score(), self.budget)
        ranking = strategy.ranking()
        assert {one.key for one in ranking} == {key for keys, _ in rounds for key in keys}
        assert all(a.score >= b.score for a, b in itertools.pairwise(ranking))
        assert all(one.spread > 0 and one.blocks > 0 for one in ranking)

    def test_the_same_seed_asks_the_same(self):
        one, other = (run(self.make(seed=3), self.score(), self.budget) for _ in range(2))
        assert one == other

    def test_seeds_come_first(self):
        wanted = tuple(one.key for one in FIELD[7:10])
        assert run(self.make(seeds=wanted), self.score(), self.budget)[0][0] == wanted

    def test_failures_are_survived_and_never_asked_for_again(self):
        score, failed = self.score(), set[str]()

        def half(key: str, begin: int, blocks: int) -> tuple[float, ...]:
            assert key not in failed
            if int(key, 16) % 2:
                failed.add(key)
                return ()
            return score(key, begin, blocks)

        strategy = self.make()
        run(strategy, half, self.budget)
        assert failed
        assert all(int(one.key, 16) % 2 == 0 for one in strategy.ranking())

    def test_a_space_in_which_nothing_runs_ends(self):
        strategy = self.make(seconds=1000.0)
        run(strategy, lambda key, begin, blocks: (), self.budget)
        assert strategy.ranking() == []
        assert strategy.ledger.failed == {one.key for one in FIELD}

    def test_blocks_that_are_always_disturbed_end_it(self):
        strategy = self.make(seconds=1000.0)
        run(strategy, lambda key, begin, blocks: (None,) * blocks, self.budget)
        assert strategy.ranking() == []

    def test_a_new_leg_goes_on_with_what_is_known(self):
        strategy = make(self.name, self.budget, 0)
        strategy.extend(FIELD[:20], 12.0)
        run(strategy, self.score(), self.budget)
        before = {one.key for one in strategy.ranking()}
        assert before <= {one.key for one in FIELD[:20]}
        strategy.extend(FIELD, 20.0)
        run(strategy, self.score(), self.budget)
        assert before < {one.key for one in strategy.ranking()}
        assert strategy.ledger.spent_s <= 32.0


class TestRacing(StrategyContract):
    name = "racing"


class TestRandom(StrategyContract):
    name = "random"


class TestExhaustive(StrategyContract):
    name = "exhaustive"

    def test_without_a_budget_nothing_is_left_out(self):
        strategy = self.make(seconds=math.inf)
        run(strategy, self.score(), self.budget)
        assert {one.key for one in strategy.ranking()} == {one.key for one in FIELD}
        assert all(one.blocks >= 3 for one in strategy.ranking())


@pytest.mark.extra("tpe")
class TestTpe(StrategyContract):
    name = "tpe"

    def test_what_it_measures_is_better_than_chance_once_it_has_seen_some(self):
        surface, mean = Surface(WHOLE, 1, noise=0.01, mood=0.05), {}
        for name in ("tpe", "random"):
            strategy = make(name, self.budget, 0)
            strategy.extend(WHOLE, 60.0)
            replay(strategy, surface.score, self.budget)
            mean[name] = statistics.mean(surface.truth[key] for key in list(strategy.ledger.scores)[12:])
        assert mean["tpe"] > mean["random"] + 0.1


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=", ".join(NAMES)):
        make("annealing", Budget(1.0), 0)


def test_tpe_without_optuna_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "whet.optimize.tpe", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install 'whet\[tpe\]'"):
        make("tpe", Budget(1.0), 0)


def test_optuna_is_not_imported_unless_it_is_chosen():
    code = (
        "import sys; from whet.optimize.strategies import make; from whet.optimize.strategy import Budget\n"
        "import whet.optimize.run\n"
        "for name in ('racing', 'random', 'exhaustive'): make(name, Budget(1.0), 0)\n"
        "assert not {'optuna', 'sqlalchemy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
