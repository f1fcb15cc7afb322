"""How many workers a host wants, and how co-hosted models divide its cores. Pure."""

from collections import Counter
from collections.abc import Mapping

from whet.errors import PlanRefused
from whet.host.topology import Host


def default_workers(host: Host) -> int:
    """Return one worker per NUMA node that the budget needs, so that one batcher sees all traffic of its cores.

    Workers of a plan are equally wide, so a node counts only if at least half as many of its physical cores are
    allowed as of the fullest node: 20 cores here and one there are one worker's.
    """
    sizes = sorted(Counter(core.node for core in host.allowed_cores()).values(), reverse=True)
    return sum(2 * size >= sizes[0] for size in sizes[: host.nodes_needed()])


def shares(budget_cores: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide cores among co-hosted models in proportion to their weights, by largest remainder.

    Every model gets at least one core while there are enough; a model whose proportion is below one core gets exactly
    one, and the rest is divided among the others. With more models than cores, the heaviest (then the first by name)
    get one each and the others 0: they hold no core of their own and run one-thread streams on borrowed core tokens.
    The shares sum to ``budget_cores``, except that no models give an empty result.

    Raises:
        PlanRefused: ``budget_cores`` is below 1, or a weight is not positive and finite.
    """
    if budget_cores < 1:
        raise PlanRefused(f"shares: a budget of {budget_cores} cores cannot be divided; it must be at least 1")
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise PlanRefused(f"shares: the weight of model '{name}' is {weight}; it must be positive and finite")
    order = sorted(weights, key=lambda name: (-weights[name], name))
    # Relative to the heaviest, so that sums of huge weights stay finite.
    scaled = {name: weights[name] / weights[order[0]] for name in order}
    if len(order) >= budget_cores:
        return {name: int(order.index(name) < budget_cores) for name in weights}
    rest, cores = list(order), budget_cores
    # The lightest model is last in order: settle those that would get less than one core, one at a time, since each
    # takes from the others more than its proportion.
    while rest and cores * scaled[rest[-1]] < sum(scaled[name] for name in rest):
        rest.pop()
        cores -= 1
    total = sum(scaled[name] for name in rest)
    exact = {name: cores * (scaled[name] / total) for name in rest}
    result = {name: max(1, int(exact.get(name, 1.0))) for name in order}
    by_remainder = sorted(rest, key=lambda name: (int(exact[name]) - exact[name], order.index(name)))
    for name in by_remainder[: budget_cores - sum(result.values())]:
        result[name] += 1
    return {name: result[name] for name in weights}
