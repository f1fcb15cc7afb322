"""Who may use a core: the arithmetic of shares among models that live in one worker. Pure.

A token is the right to run one one-thread stream. Every member has a share, in proportion to its weight; what it does
not use is lent to whoever wants it. A member that runs below its share gets the next token that comes back, so a loan
ends when the borrower's current batch does. Tokens move; nothing is compiled anew.

A member with *wide* streams (several threads each) keeps a fixed number of cores for itself and neither lends nor
borrows: its threads cannot be handed out one at a time.
"""

from collections.abc import Mapping

from whet.errors import PlanRefused


class Member:
    """One model's standing. ``share`` may be fractional when there are more members than cores.

    Attributes:
        name: of the model.
        weight: its part, relative to the others'.
        wide: cores it keeps for itself, or 0 for a member that lends and borrows.
        share: tokens that are its own.
        held: tokens it has now.
        waits: it wants one more than it has.
        served: the pool's count when it last got a token; breaks ties in favour of who waited longest.
    """

    __slots__ = ("held", "name", "served", "share", "waits", "weight", "wide")

    def __init__(self, name: str, weight: float, wide: int) -> None:
        self.name = name
        self.weight = weight
        self.wide = wide
        self.share = 0.0
        self.held = 0
        self.waits = False
        self.served = 0


class Tokens:
    """The pool of a worker.

    Args:
        cores: cores that compute (the worker's, less those left to the loop).
    """

    def __init__(self, cores: int) -> None:
        if cores < 1:
            raise PlanRefused(f"a worker needs at least 1 core to compute on, not {cores}; lower front_cores")
        self.cores = cores
        self._members: list[Member] = []
        self._count = 0

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody who joined and did not leave."""
        return tuple(self._members)

    @property
    def lendable(self) -> int:
        """Tokens there are: cores that no wide member keeps for itself."""
        return self.cores - sum(member.wide for member in self._members)

    @property
    def free(self) -> int:
        """Tokens nobody holds. Negative for a moment after a wide member joined: the next ones back are withdrawn."""
        return self.lendable - sum(member.held for member in self._members)

    def join(self, name: str, weight: float = 1.0, wide: int = 0) -> Member:
        """Let a model in and divide the shares anew.

        Raises:
            PlanRefused: the weight is not positive, or wide members would leave the others without a core.
        """
        if weight <= 0:
            raise PlanRefused(f"model '{name}' has weight {weight:g}; weights must be positive")
        lenders = [member for member in self._members if not member.wide]
        if self.lendable - wide < (1 if lenders or not wide else 0):
            raise PlanRefused(
                f"model '{name}' needs {max(wide, 1)} cores, but of {self.cores} only {self.lendable} are not kept by "
                "wide plans (and the others need one): use a plan with fewer threads, or another worker"
            )
        member = Member(name, weight, wide)
        self._members.append(member)
        self._divide()
        return member

    def leave(self, member: Member) -> None:
        """Let a model go and divide the shares anew; whatever it held is free."""
        self._members.remove(member)
        member.held, member.waits = 0, False
        self._divide()

    def ask(self, member: Member) -> bool:
        """Give ``member`` a token if it may have one now; otherwise note that it waits, and return False."""
        if self.free > 0 and self._first(member) is member:
            self._count += 1
            member.held += 1
            member.served = self._count
            member.waits = False
            return True
        member.waits = True
        return False

    def give_back(self, member: Member) -> None:
        """Take one token back."""
        assert member.held > 0, f"'{member.name}' gives back a token it does not hold; this is a bug"
        member.held -= 1

    def content(self, member: Member) -> None:
        """Note that ``member`` does not want another token for now."""
        member.waits = False

    def may_keep(self, member: Member) -> bool:
        """Return whether ``member`` may run its next batch on the token it has.

        Not if it has more than its share while somebody who waits has less than theirs, nor if a wide member is owed.
        """
        if self.free < 0:
            return False
        if not any(other.waits and other is not member for other in self._members):
            return True
        rival = self._first(None)
        if rival is None or rival is member:
            return True
        return _standing(rival, 1) > _standing(member, 0)

    def next(self) -> Member | None:
        """Return the waiting member who is first in line for a free token, or None."""
        return self._first(None) if self.free > 0 else None

    def shares(self) -> Mapping[str, float]:
        """Return every member's share by name, in tokens."""
        return {member.name: member.share or float(member.wide) for member in self._members}

    def _first(self, asking: Member | None) -> Member | None:
        line = [m for m in self._members if not m.wide and (m.waits or m is asking)]
        return min(line, key=lambda m: (_standing(m, 1) > 1, _standing(m, 0), m.served), default=None)

    def _divide(self) -> None:
        """Divide the tokens by weight: whole tokens by largest remainder, or fractions where there are too few."""
        lenders = [member for member in self._members if not member.wide]
        total = sum(member.weight for member in lenders)
        exact = {id(m): self.lendable * m.weight / total for m in lenders}
        if not lenders:
            return
        if len(lenders) > self.lendable:
            for member in lenders:
                member.share = exact[id(member)]
            return
        # Everybody gets one; the rest goes to whoever is furthest below the exact part.
        for member in lenders:
            member.share = 1.0
        for _ in range(self.lendable - len(lenders)):
            poorest = max(lenders, key=lambda m: exact[id(m)] - m.share)
            poorest.share += 1.0


def _standing(member: Member, more: int) -> float:
    """Tokens held, with ``more`` added, as a multiple of the share: up to 1 is one's own, above 1 is borrowed."""
    return (member.held + more) / member.share
