"""What a batch costs and how far promises fall short, learnt from what batches and answers took. Pure."""

MEAN_GAIN = 1 / 8
"""Weight of a new measurement in the smoothed time."""
SPREAD_GAIN = 1 / 4
"""Weight of a new deviation in the smoothed spread."""
SPREADS = 2.0
"""How many spreads above the mean ``likely`` lies."""
LATE_SHARE = 0.01
"""Share of promised answers that may come later than promised."""
STEP = 0.05
"""How far one late answer moves the shortfall, in likely compute times of the largest batch."""
MOST = 8.0
"""Largest shortfall, in the same unit."""
DOUBT_AFTER = 16
"""Refusals for its sake in a row, with no answer between them, after which a shortfall is halved."""


class Shortfall:
    """By how much an answer may come later than compute times alone promise, seconds: 0 while all come in time.

    Compute times say nothing of what the loop, the transport and the scheduler take. A running quantile does: it rises
    by a step with every answer past it and falls by a small one with every other, so that in balance
    :data:`LATE_SHARE` of the answers lie past it (stochastic approximation, Robbins and Monro 1951).
    """

    __slots__ = ("_unseen", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._unseen = 0

    def decided(self) -> None:
        """Note that a request is refused for its sake alone; too many of them unseen, and it is doubted."""
        self._unseen += 1
        if self._unseen >= DOUBT_AFTER:
            self._unseen, self.seconds = 0, self.seconds / 2

    def observe(self, late: float, unit: float) -> None:
        """Take in that an answer came ``late`` seconds after its promise; ``unit`` is a likely compute time."""
        self._unseen, step = 0, STEP * unit
        moved = self.seconds + (step * (1 - LATE_SHARE) if late > self.seconds else -step * LATE_SHARE)
        self.seconds = min(max(moved, 0.0), MOST * unit)

    def forget(self) -> None:
        """Start over."""
        self._unseen, self.seconds = 0, 0.0


class ServiceTimes:
    """Smoothed compute time and spread per batch size, as TCP smooths round trips (RFC 6298, section 2).

    A size that was never measured is scaled by rows from the nearest measured one; with nothing measured every
    estimate is 0, which refuses nobody.
    """

    __slots__ = ("_means", "_spreads")

    def __init__(self) -> None:
        self._means: dict[int, float] = {}
        self._spreads: dict[int, float] = {}

    def observe(self, size: int, seconds: float) -> None:
        """Take in that one batch of ``size`` rows (padding included) was computed in ``seconds``."""
        mean = self._means.get(size)
        if mean is None:
            self._means[size], self._spreads[size] = seconds, seconds / 4
            return
        error = seconds - mean
        self._means[size] = mean + MEAN_GAIN * error
        self._spreads[size] += SPREAD_GAIN * (abs(error) - self._spreads[size])

    def forget(self) -> None:
        """Drop what was learnt: the next measurement stands alone."""
        self._means.clear()
        self._spreads.clear()

    def typical(self, size: int) -> float:
        """Return the expected compute time of a batch of ``size`` rows, seconds."""
        mean = self._means.get(size)
        return mean if mean is not None else self._scale(size)[0]

    def likely(self, size: int) -> float:
        """Return a time most batches of ``size`` rows stay under, seconds."""
        mean = self._means.get(size)
        if mean is None:
            mean, spread = self._scale(size)
            return mean + SPREADS * spread
        return mean + SPREADS * self._spreads[size]

    def table(self) -> dict[int, float]:
        """Return size -> expected compute time in seconds, for the sizes that were measured."""
        return dict(sorted(self._means.items()))

    def _scale(self, size: int) -> tuple[float, float]:
        if not self._means:
            return 0.0, 0.0
        nearest = min(self._means, key=lambda known: (abs(known - size), known))
        factor = size / nearest
        return self._means[nearest] * factor, self._spreads[nearest] * factor
