"""The highest rate that holds a latency target, searched by bracketing over counts of late answers. Pure: ask and tell.

First single short runs bracket it: a rate whose share of late answers is within what the target allows is gone above,
any other below. Then the highest of the promising rates is run on until it is *held*: the upper end of the exact 95 %
interval of its late answers, over several runs with arrivals of their own, is within what is allowed. Where that does
not come true a rate a little below is taken. Evidence of several runs at one rate is added up; a rate is *failed* when
the lower end is past what is allowed, and what is neither is *not shown*. So the claim errs to the low side: it is
what was shown, never a point estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from whet.errors import UsageError
from whet.stats import bound_violations

LATE = 0.01
"""A p99 target allows this share of requests to be late; a p50 target allows one half."""
MIDDLE = 0.5
LEAST_RUNS, LEAST_TOTAL = 4, 1500
"""Runs and answers a rate must have before it is held. Late answers come in bursts, so that fewer, which would do if
each were late by its own chance, claim too much: see decision 14."""
MOST_RUNS = 6
"""Runs at one rate; what they leave open is not shown."""
RESOLUTION = 1.08
"""Bracketing ends when promising and other rates are no further apart than this."""
BACK = 0.95
"""The next rate to confirm, where one could not be, is this share of it."""
DOWN, LEAST_DOWN = 0.7, 0.25
"""Where no rate is promising yet, the next is this share of the last, then its square of that, down to the least."""
MOST_RATES = 14

Verdict = Literal["held", "failed", "open"]


@dataclass(slots=True)
class Tally:
    """What was counted at one rate.

    Attributes:
        late: late answers for each bound, failures included.
        total: requests.
        runs: in so many runs.
    """

    late: list[int]
    total: int = 0
    runs: int = 0

    def add(self, late: Sequence[int], total: int) -> None:
        """Add a run."""
        self.late = [before + one for before, one in zip(self.late, late, strict=True)]
        self.total += total
        self.runs += 1

    def promises(self, allowed: Sequence[float]) -> bool:
        """Tell whether no bound was passed by more answers than it allows, as far as was seen."""
        return all(late <= most * self.total for late, most in zip(self.late, allowed, strict=True))

    def verdict(self, allowed: Sequence[float]) -> Verdict:
        """Return what the counts show."""
        if not self.total:
            return "open"
        shares = [bound_violations(late, self.total) for late in self.late]
        if any(share.low > most for share, most in zip(shares, allowed, strict=True)):
            return "failed"
        fits = all(share.high <= most for share, most in zip(shares, allowed, strict=True))
        return "held" if fits and self.runs >= LEAST_RUNS and self.total >= LEAST_TOTAL else "open"


@dataclass(slots=True)
class Bracket:
    """Between which rates (requests a second) the highest one lies that holds.

    Attributes:
        first: the rate to begin with.
        limit: what the closed loop carries; rates from here on are not asked for, since queues there only grow.
        allowed: share of late answers that each bound allows.
        beat: only rates above this are of interest; the search ends where none can hold.
        tallies: what was counted, by rate.
    """

    first: float
    limit: float
    allowed: tuple[float, ...] = (LATE,)
    beat: float = 0.0
    tallies: dict[float, Tally] = field(default_factory=dict)
    _asked: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.limit:
            raise UsageError(f"a search for a rate begins at {self.first:g} below {self.limit:g}; this is a bug")

    @property
    def held(self) -> float | None:
        """The highest rate that was shown to hold, or None."""
        return max((rate for rate in self.tallies if self._verdict(rate) == "held"), default=None)

    @property
    def failed(self) -> float | None:
        """The lowest rate that was shown not to hold, or None."""
        return min((rate for rate in self.tallies if self._verdict(rate) == "failed"), default=None)

    @property
    def open(self) -> float | None:
        """The lowest rate above the held one that was tried and shown neither way, or None."""
        low = self.held or 0.0
        return min((rate for rate in self.tallies if rate > low and self._verdict(rate) == "open"), default=None)

    @property
    def promising(self) -> float | None:
        """The highest rate whose answers were late no more often than allowed, shown or not; None where none was."""
        return max((rate for rate in self.tallies if self._promises(rate)), default=None)

    @property
    def confirming(self) -> bool:
        """Whether the rate asked for is run on to be shown, so that longer runs pay."""
        return self._asked in self.tallies

    def ask(self) -> float | None:
        """Return the rate to run next, requests a second, or None when nothing more is to be learnt."""
        self._asked = self._explore() or self._confirm()
        return self._asked

    def tell(self, late: Sequence[int], total: int) -> None:
        """Add a run at the rate last asked for.

        Args:
            late: answers past each bound, failures included.
            total: requests, failures included.

        Raises:
            UsageError: nothing was asked, or the counts are none.
        """
        if self._asked is None or len(late) != len(self.allowed) or not all(0 <= one <= total for one in late):
            raise UsageError(f"{list(late)} late of {total} answers no question; this is a bug")
        self.tallies.setdefault(self._asked, Tally([0] * len(self.allowed))).add(late, total)

    def words(self) -> str:
        """Return what was found, such as ``at least 420/s; not shown at 450/s``."""
        held, failed, undecided = self.held, self.failed, self.open
        if not self.tallies:
            return "no rate was tried"
        said = [f"at least {held:.0f}/s" if held is not None else "no rate was shown to hold"]
        if undecided is not None and (failed is None or undecided < failed):
            tally = self.tallies[undecided]
            said.append(f"not shown at {undecided:.0f}/s ({max(tally.late)} late of {tally.total})")
        if failed is not None:
            said.append(f"not at {failed:.0f}/s")
        return "; ".join(said)

    def _verdict(self, rate: float) -> Verdict:
        return self.tallies[rate].verdict(self.allowed)

    def _promises(self, rate: float) -> bool:
        tally = self.tallies[rate]
        spent = tally.runs >= MOST_RUNS and self._verdict(rate) != "held"
        return tally.promises(self.allowed) and not spent

    def _explore(self) -> float | None:
        """Return a rate that no run was made at yet, or None when the bracket is narrow."""
        if not self.tallies:
            return self.first
        others = [rate for rate in self.tallies if not self._promises(rate)]
        high = min(others, default=self.limit)
        low = max((rate for rate in self.tallies if rate < high and self._promises(rate)), default=self.beat)
        begun = any(tally.runs > 1 for tally in self.tallies.values())
        if begun or len(self.tallies) >= MOST_RATES:
            return None
        if low > 0:
            return (low * high) ** 0.5 if high / low >= RESOLUTION else None
        down = high * max(LEAST_DOWN, DOWN ** len(others))
        return down if down > self.first / 100 else None

    def _confirm(self) -> float | None:
        """Return the rate to run on until it is held: the highest promising one, or one a little below the others."""
        high = min((rate for rate in self.tallies if not self._promises(rate)), default=self.limit)
        best = max((rate for rate in self.tallies if self.beat < rate < high), default=None)
        if best is not None and best >= high * BACK**2:
            return best if self._verdict(best) != "held" else None
        step, least = high * BACK, max(self.beat * RESOLUTION, self.first / 100)
        return step if step > least and len(self.tallies) < MOST_RATES else None
