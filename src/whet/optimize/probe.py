"""Asks the runtimes what they honour on this host, in a process of its own: the search itself loads none of them."""

from collections.abc import Sequence

import msgspec

from whet.engine import available_runtimes, load_runtime
from whet.engine.base import Capabilities
from whet.errors import MissingExtra, PlanRefused, WhetError
from whet.models.importers import isolated
from whet.optimize.space import Refusal


def capabilities(
    wanted: Sequence[str], installed: Sequence[str] | None = None
) -> tuple[dict[str, Capabilities], list[Refusal]]:
    """Return what each installed runtime honours, and which of ``wanted`` cannot be used.

    Args:
        wanted: names of runtimes.
        installed: those that are there; looked up when None.

    Raises:
        PlanRefused: none of them can.
        MissingExtra: a runtime the user named is not installed.
    """
    installed = available_runtimes() if installed is None else installed
    for name in wanted:
        if name not in installed:
            raise MissingExtra(f"runtime '{name}'", name)
    answer = isolated.call("whet.optimize.probe:ask", msgspec.json.encode(list(wanted)))
    found, failed = msgspec.json.decode(answer, type=tuple[dict[str, Capabilities], dict[str, str]])
    if not found:
        said = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise PlanRefused(f"no runtime works here ({said}); reinstall whet, or name another --runtime")
    return found, [Refusal(name, why) for name, why in failed.items()]


def ask(names: bytes) -> bytes:
    """Load the named runtimes and answer with (capabilities by name, failures by name); runs in the child."""
    found: dict[str, Capabilities] = {}
    failed: dict[str, str] = {}
    for name in msgspec.json.decode(names, type=list[str]):
        try:
            found[name] = load_runtime(name).capabilities()
        except WhetError as error:
            failed[name] = str(error)
    return msgspec.json.encode((found, failed))
