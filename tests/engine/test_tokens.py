"""Shares of cores among models that live in one worker."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from whet.engine.tokens import Tokens
from whet.errors import PlanRefused


def test_shares_follow_the_weights_and_everybody_has_one():
    tokens = Tokens(8)
    heavy, light = tokens.join("heavy", 3.0), tokens.join("light", 1.0)
    assert (heavy.share, light.share) == (6, 2)
    tokens.join("third", 100.0)
    assert light.share == 1
    assert sum(tokens.shares().values()) == 8


def test_an_idle_share_is_lent_and_comes_back_with_the_next_batch():
    tokens = Tokens(2)
    busy, idle = tokens.join("busy"), tokens.join("idle")
    assert tokens.ask(busy)
    assert tokens.ask(busy), "nobody else wants it"
    assert not tokens.ask(busy), "never more than there are"
    assert not tokens.ask(idle), "both are in use"
    assert not tokens.may_keep(busy), "the loan ends with the batch"
    tokens.give_back(busy)
    assert tokens.next() is idle
    assert tokens.ask(idle)
    assert tokens.may_keep(busy), "its own share is its own"
    assert tokens.may_keep(idle)


def test_wide_members_neither_lend_nor_borrow():
    tokens = Tokens(8)
    wide = tokens.join("wide", wide=6)
    narrow = tokens.join("narrow")
    assert tokens.lendable == 2
    assert narrow.share == 2
    assert tokens.shares() == {"wide": 6.0, "narrow": 2.0}
    with pytest.raises(PlanRefused, match="needs 2 cores"):
        tokens.join("wider", wide=2)
    tokens.leave(wide)
    assert narrow.share == 8


def test_more_models_than_cores_take_turns():
    tokens = Tokens(1)
    members = [tokens.join(name) for name in "abc"]
    turns = []
    for _ in range(9):
        granted = [member for member in members if tokens.ask(member)]
        assert len(granted) == 1
        turns.append(granted[0].name)
        tokens.give_back(granted[0])
        granted[0].waits = True
    assert sorted(turns[:3]) == sorted(turns[3:6]) == sorted(turns[6:9]) == ["a", "b", "c"]


def test_a_weight_must_be_positive():
    with pytest.raises(PlanRefused, match="weight 0"):
        Tokens(1).join("none", 0.0)
    with pytest.raises(PlanRefused, match="at least 1 core"):
        Tokens(0)


@given(cores=st.integers(1, 64), weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=12))
def test_shares_add_up_to_the_cores(cores, weights):
    tokens = Tokens(cores)
    members = [tokens.join(str(index), weight) for index, weight in enumerate(weights)]
    assert sum(member.share for member in members) == pytest.approx(cores)
    if len(members) <= cores:
        assert all(member.share >= 1 and member.share == int(member.share) for member in members)
        assert all(a.share <= b.share for a in members for b in members if a.weight < b.weight)


class Worker(RuleBasedStateMachine):
    """Members come and go, ask and give back, in any order."""

    @initialize(cores=st.integers(1, 6))
    def open(self, cores):
        self.tokens = Tokens(cores)
        self.names = iter(range(10_000))

    @rule(weight=st.floats(0.1, 10), wide=st.sampled_from([0, 0, 0, 2, 4]))
    def join(self, weight, wide):
        try:
            self.tokens.join(str(next(self.names)), weight, wide)
        except PlanRefused:
            lenders = [m for m in self.tokens.members if not m.wide]
            assert self.tokens.lendable - wide < (1 if lenders or not wide else 0)

    @precondition(lambda self: self.tokens.members)
    @rule(data=st.data())
    def leave(self, data):
        self.tokens.leave(data.draw(st.sampled_from(self.tokens.members)))

    @precondition(lambda self: any(not m.wide for m in self.tokens.members))
    @rule(data=st.data())
    def ask(self, data):
        member = data.draw(st.sampled_from([m for m in self.tokens.members if not m.wide]))
        before = member.held
        free = self.tokens.free
        others = [m for m in self.tokens.members if m.waits and m is not member]
        granted = self.tokens.ask(member)
        assert member.held == before + granted
        assert member.waits != granted
        if granted:
            assert free > 0
            assert before < member.share or not any(m.held + 1 <= m.share for m in others), "lent what another is owed"
        elif free > 0:
            assert others, "a free core and nobody else who wants it"

    @precondition(lambda self: any(m.held for m in self.tokens.members))
    @rule(data=st.data())
    def give_back(self, data):
        member = data.draw(st.sampled_from([m for m in self.tokens.members if m.held]))
        owed = [m for m in self.tokens.members if m.waits and m is not member and m.held + 1 <= m.share]
        if self.tokens.may_keep(member):
            assert not (owed and member.held > member.share), "keeps a loan that another is owed"
        self.tokens.give_back(member)

    @invariant()
    def never_more_than_there_are(self):
        if not hasattr(self, "tokens"):
            return
        tokens = self.tokens
        held = sum(m.held for m in tokens.members)
        assert held <= tokens.cores
        assert held + tokens.free == tokens.lendable
        waiting = [m for m in tokens.members if m.waits]
        assert (tokens.next() is not None) == (bool(waiting) and tokens.free > 0)


Worker.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestWorker = Worker.TestCase
