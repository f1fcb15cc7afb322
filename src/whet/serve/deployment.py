"""What to serve, decided once for all workers: versions of models, each with its plan and part of the cores. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from whet.errors import PlanRefused
from whet.host import shares
from whet.plan import Plan
from whet.settings import ServeSettings

LOADING, READY, UNLOADING, UNAVAILABLE = "LOADING", "READY", "UNLOADING", "UNAVAILABLE"
"""States of a version, by the protocol's names."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model to serve; decided by the supervisor, carried out by every worker.

    Attributes:
        name: of the model.
        version: of the model.
        artifact: folder of the artifact.
        sha256: of the artifact.
        plan: how to run it.
        why: where the plan comes from, in words.
        weight: part of the cores, relative to the others'.
        gate_cores: cores of the gate it shares with other models of its worker; 0 when it has its cores to itself.
        fallback: runtime to try when the plan's cannot open the model; only for plans nobody measured.
        elsewhere: the bundle, where its plan was found on another host and nobody measured it on this one; else "".
    """

    name: str
    version: str
    artifact: str
    sha256: str
    plan: Plan
    why: str = ""
    weight: float = 1.0
    gate_cores: int = 0
    fallback: str = ""
    elsewhere: str = ""

    def runs_as(self, other: "Deployment") -> bool:
        """Tell whether an engine opened for one is what the other asks for."""
        mine = (self.artifact, self.sha256, self.plan, self.weight, self.gate_cores)
        return mine == (other.artifact, other.sha256, other.plan, other.weight, other.gate_cores)


class Configuration(msgspec.Struct):
    """What a worker is told before anything else.

    Attributes:
        index: of the worker, from 0.
        settings: of the server.
        reconnect: gRPC connections are asked to reconnect now and then: there are other workers for them to reach.
    """

    index: int
    settings: ServeSettings
    reconnect: bool


def version_order(version: str) -> tuple[bool, int, str]:
    """Return a key that sorts versions: names before numbers, numbers by value; the last is the default."""
    return (version.isdecimal(), int(version) if version.isdecimal() else 0, version)


def fit(plan: Plan, cores: int) -> Plan:
    """Return ``plan`` narrowed to ``cores``: fewer streams first, since that changes latency least.

    A plan that already fits is returned as it is: what was measured is what serves.
    """
    if plan.compute_threads <= cores:
        return plan
    if plan.threads <= cores:
        return plan.with_(streams=cores // plan.threads)
    return plan.with_(streams=1, threads=cores)


def divide(deployments: Iterable[Deployment], cores: int, weights: Mapping[str, float]) -> list[Deployment]:
    """Divide a worker's cores among everything it serves; the sum of busy compute threads never exceeds them.

    A model alone keeps its plan, narrowed if it is too wide. Of several, each gets a share by its weight. A plan with
    several threads a stream keeps its share for itself; those with one thread pass a gate that lends what is idle.

    Args:
        deployments: everything to serve.
        cores: that compute in one worker.
        weights: by model name; 1 where not given.

    Raises:
        PlanRefused: a weight that is not positive, or given for a model that is not served.
    """
    wanted = list(deployments)
    strangers = sorted(weights.keys() - {one.name for one in wanted})
    if strangers:
        raise PlanRefused(f"weights are given for {strangers}, which are not served; served are {_names(wanted)}")
    if len(wanted) == 1:
        (one,) = wanted
        return [_narrowed(one, fit(one.plan, cores), gate_cores=0, weight=1.0)]
    parts = shares(cores, {_key(one): weights.get(one.name, 1.0) for one in wanted})
    plans = {_key(one): fit(one.plan, max(1, parts[_key(one)])) if one.plan.threads > 1 else one.plan for one in wanted}
    left = cores - sum(plan.compute_threads for plan in plans.values() if plan.threads > 1)
    return [
        _narrowed(
            one,
            plans[_key(one)],
            gate_cores=0 if plans[_key(one)].threads > 1 else max(1, left),
            weight=weights.get(one.name, 1.0),
        )
        for one in wanted
    ]


def _narrowed(one: Deployment, plan: Plan, *, gate_cores: int, weight: float) -> Deployment:
    why = one.why if plan == one.plan else f"{one.why}; narrowed to {plan.streams}x{plan.threads} streams x threads"
    return msgspec.structs.replace(one, plan=plan, why=why, gate_cores=gate_cores, weight=weight)


def _key(one: Deployment) -> str:
    return f"{one.name}/{one.version}"


def _names(wanted: Iterable[Deployment]) -> list[str]:
    return sorted({one.name for one in wanted})
