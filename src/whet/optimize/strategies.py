"""The strategies by name; what a strategy needs is imported when it is chosen."""

import importlib

from whet.errors import UsageError
from whet.optimize.strategy import Budget, Strategy

DEFAULT = "racing"
STRATEGIES = {
    DEFAULT: "whet.optimize.search:Racing",
    "random": "whet.optimize.yardsticks:Random",
    "exhaustive": "whet.optimize.yardsticks:Exhaustive",
    "tpe": "whet.optimize.tpe:Tpe",
}
NAMES = tuple(STRATEGIES)


def make(name: str, budget: Budget, seed: int) -> Strategy:
    """Return the strategy called ``name``, without candidates yet.

    Raises:
        UsageError: there is none of that name.
        MissingExtra: it needs a package that is not installed.
    """
    if name not in STRATEGIES:
        raise UsageError(f"--strategy is '{name}'; known are {', '.join(NAMES)}")
    module, _, kind = STRATEGIES[name].partition(":")
    made: Strategy = getattr(importlib.import_module(module), kind)([], budget, seed=seed)
    return made
