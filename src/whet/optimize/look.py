"""Looks into compiled nets, from a process of its own on the plan's cores and under its environment."""

from pathlib import Path

import msgspec

from whet.engine.environment import environment
from whet.engine.layers import Layer, profile_layers
from whet.errors import WhetError
from whet.host.apply import inherited
from whet.models.artifact import Artifact, load_artifact
from whet.models.importers import isolated
from whet.models.importers.isolated import Limits
from whet.plan import Plan

RUNS = 12
"""Runs a layer's time is the median of."""


class Question(msgspec.Struct, frozen=True):
    """Which net, under which plan."""

    artifact: str
    plan: Plan
    runs: int = RUNS


def look(artifact: Artifact, plan: Plan, *, cpus: tuple[int, ...], seconds: float = 60.0) -> tuple[Layer, ...]:
    """Return the layers that are executed for ``artifact`` under ``plan``, slowest first; empty where none can be read.

    Args:
        artifact: what is compiled.
        plan: how; one stream is profiled, at its largest batch.
        cpus: mask of the process that does it.
        seconds: it is ended when it takes longer.
    """
    question = msgspec.json.encode(Question(str(artifact.folder), plan))
    try:
        answer = in_child(f"{__name__}:ask", question, plan, cpus=cpus, seconds=seconds)
    except WhetError:
        return ()
    return msgspec.json.decode(answer, type=tuple[Layer, ...])


def in_child(target: str, question: bytes, plan: Plan, *, cpus: tuple[int, ...], seconds: float) -> bytes:
    """Return ``target(question)``, computed in a fresh process on ``cpus`` under the environment of ``plan``.

    Raises:
        WhetError: it crashed, took longer than ``seconds``, or could not be started; says how.
    """
    with inherited(cpus):
        return isolated.call(target, question, Limits(seconds=seconds), environment(plan))


def ask(question: bytes) -> bytes:
    """Profile what a :class:`Question` asks for; runs in the child."""
    asked = msgspec.json.decode(question, type=Question)
    return msgspec.json.encode(profile_layers(load_artifact(Path(asked.artifact)), asked.plan, asked.runs))
