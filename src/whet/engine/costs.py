"""What a batch costs, learnt from what batches cost: an estimate of compute time per batch size. Pure."""

MEAN_GAIN = 1 / 8
"""Weight of a new measurement in the smoothed time."""
SPREAD_GAIN = 1 / 4
"""Weight of a new deviation in the smoothed spread."""
SPREADS = 2.0
"""How many spreads above the mean ``likely`` lies."""


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
