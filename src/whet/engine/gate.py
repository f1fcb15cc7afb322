"""The worker's core gate: lets the engines of one worker compute on its cores without ever using more of them.

Shell around :mod:`whet.engine.tokens`. Everything happens on the loop's thread; the lanes never see it.
"""

from collections.abc import Mapping
from typing import Protocol

from whet.engine.tokens import Member, Tokens
from whet.plan import Plan


class Guest(Protocol):
    """What the gate says to an engine."""

    def wake(self) -> None:
        """Ask again if there is anything to run; otherwise say :meth:`CoreGate.content`."""
        ...

    def recall(self) -> None:
        """Keep no batch ready to inherit a core: others wait for it."""
        ...


class CoreGate:
    """Core tokens of one worker.

    Args:
        cores: cores that compute in this worker (its own, less ``front_cores``).
    """

    def __init__(self, cores: int) -> None:
        self._tokens = Tokens(cores)
        self._guests: dict[Member, Guest] = {}
        self._passing = False

    @property
    def cores(self) -> int:
        """Cores that compute."""
        return self._tokens.cores

    def shares(self) -> Mapping[str, float]:
        """Return each model's share of the cores, by name."""
        return self._tokens.shares()

    def widen(self, plan: Plan) -> Plan:
        """Return ``plan`` with as many one-thread streams as there are cores, so that what is lent can be used.

        A plan with several threads a stream is returned as it is: it keeps a fixed share.
        """
        return plan if plan.threads > 1 else plan.with_(streams=self.cores)

    def join(self, name: str, plan: Plan, engine: Guest, weight: float = 1.0) -> Member:
        """Let an engine in; shares are divided anew.

        Args:
            name: of the model.
            plan: one-thread streams lend and borrow; wide ones keep ``plan.compute_threads`` cores.
            engine: told when it may ask again, and when others need back what it borrowed.
            weight: its part of the cores, relative to the others'.

        Raises:
            PlanRefused: wide plans leave too few cores.
        """
        member = self._tokens.join(name, weight, plan.compute_threads if plan.threads > 1 else 0)
        self._guests[member] = engine
        return member

    def leave(self, member: Member) -> None:
        """Let an engine go; what it held goes to whoever waits."""
        del self._guests[member]
        self._tokens.leave(member)
        self._pass_on()

    def ask(self, member: Member) -> bool:
        """Return True and take a token if ``member`` may run one more batch now.

        Otherwise those who hold more than they may keep are asked to let go, and ``member`` is woken later.
        """
        if self._tokens.ask(member):
            return True
        for other, guest in self._guests.items():
            if other is not member and other.held and not self._tokens.may_keep(other):
                guest.recall()
        return False

    def turn(self, member: Member, *, more: bool) -> None:
        """Take a token back and pass it on, to ``member`` itself if it wants ``more`` and nobody deserves it before."""
        self._tokens.give_back(member)
        member.waits = more
        self._pass_on()

    def content(self, member: Member) -> None:
        """Note that ``member`` has nothing to run beyond the tokens it holds; somebody behind it may go first."""
        if member.waits:
            member.waits = False
            self._pass_on()

    def may_keep(self, member: Member) -> bool:
        """Return whether a token may go from one batch of ``member`` straight to its next."""
        return self._tokens.may_keep(member)

    def _pass_on(self) -> None:
        """Wake those who wait, the most deserving first, until nobody waits or nothing is free."""
        if self._passing:  # a guest that was woken gave something back: the loop below goes on with it
            return
        self._passing = True
        asked: set[tuple[Member, int]] = set()
        try:
            while (member := self._tokens.next()) is not None and (member, member.held) not in asked:
                asked.add((member, member.held))
                self._guests[member].wake()
        finally:
            self._passing = False
