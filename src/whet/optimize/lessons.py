"""What other searches found best on this host, or on its like: plan shapes a search begins with.

A journal in a shared place holds a lesson for every level of every search that ended. A lesson is only a proposal: it
says what to measure first, never what came of it, for speeds of another model or host are not comparable.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from whet.host.fingerprint import Fields, distance
from whet.optimize.journal import Event
from whet.optimize.space import Space
from whet.optimize.state import State
from whet.plan import Plan

NEAR = 8.0
"""A host further away than this (:func:`whet.host.fingerprint.distance`), such as one with four times the cores, has
nothing to teach."""
MOST = 3
"""Proposals a level begins with, at most."""


def learn(state: State) -> None:
    """Write down what was best at every level, for the searches to come."""
    for level, case in state.levels.items():
        document = {
            "level": level,
            "host": state.host.fingerprint_fields,
            "objective": state.request.targets.objective,
            "features": state.space.features(case.plan),
        }
        state.journal.add("lesson", document, artifact=state.artifact.sha256, plan=case.plan.id)


def ordered(events: Iterable[Event], host: Fields, artifact: str, objective: str) -> list[Mapping[str, Any]]:
    """Return the lessons that may help, most telling first: the nearest host, then the same model, then the newest."""
    found = []
    for place, event in enumerate(events):
        away = distance(host, event.document["host"])
        if away <= NEAR and event.document["objective"] == objective:
            found.append(((away, event.artifact != artifact, -place), event.document))
    return [document for _, document in sorted(found, key=lambda one: one[0])]


def proposed(lessons: Sequence[Mapping[str, Any]], level: str, space: Space, plans: Sequence[Plan]) -> list[Plan]:
    """Return the plans that a level's lessons speak of, in their order; streams and threads scale with the cores."""
    cores = max((plan.compute_threads for plan in plans), default=1)
    by_shape = {_shape(space.features(plan)): plan for plan in plans}
    found = [
        by_shape.get(_shape(_scaled(one["features"], one["host"].get("cores"), cores)))
        for one in lessons
        if one["level"] == level
    ]
    return list({plan.id: plan for plan in found if plan is not None}.values())[:MOST]


def _shape(features: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(features.items()))


def _scaled(features: Mapping[str, Any], theirs: object, ours: int) -> dict[str, Any]:
    """Return features with "as many as there are cores" meaning ours."""
    return {
        name: float(ours) if name in {"streams", "threads"} and theirs is not None and value == theirs else value
        for name, value in features.items()
    }
