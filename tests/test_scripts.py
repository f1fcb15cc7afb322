"""The project's own scripts agree with what its tests need."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "test"


def test_the_run_with_extras_installs_every_extra_a_test_may_ask_for(pytestconfig: pytest.Config) -> None:
    probes = next(
        vars(plugin)["PROBES"] for plugin in pytestconfig.pluginmanager.get_plugins() if hasattr(plugin, "PROBES")
    )
    with_extras = SCRIPT.read_text(encoding="utf-8").split("scripts/setup")[1].splitlines()[0].split()
    assert set(probes) <= set(with_extras)
