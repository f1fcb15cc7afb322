"""Which channels must leave together, and their removal: torch-pruning's dependency graph (Fang et al., CVPR 2023).

A width is shared by every layer that is tied to it: those a sum joins, the norms behind them, depthwise convolutions
between them. What the model answers never shrinks: a width that reaches an output is left alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import PlanRefused, UsageError
from whet.optimize.compress.prune import Layer, Scope
from whet.optimize.compress.prune.channels import Width, each, together
from whet.optimize.compress.prune.importance import accumulate, criterion
from whet.optimize.compress.prune.samples import Samples


@dataclass(frozen=True, slots=True)
class Wish:
    """How what leaves is chosen; the fields are those of :class:`whet.optimize.compress.prune.Prune`."""

    importance: str
    scope: Scope
    multiple: int
    keep: tuple[str, ...]
    output: int | None


@dataclass(frozen=True, slots=True)
class Tied:
    """A group of tied channels: the layer it is named after, the library's group, and what there is to choose from."""

    name: str
    root: Any
    group: Any
    width: Width


@dataclass(frozen=True, slots=True)
class Removal:
    """What one removal did: every width that may shrink, what was left alone and why, samples the importance saw."""

    layers: tuple[Layer, ...]
    left: dict[str, str]
    samples: int


def shrink(
    module: Any, example: tuple[Any, ...], ratio: float, originals: dict[str, int], wish: Wish, samples: Samples | None
) -> Removal:
    """Remove channels from ``module``, in place, until the share ``ratio`` of the originals is gone.

    Args:
        module: in evaluation mode.
        example: inputs to follow it with.
        ratio: 0 to below 1, of the channels the unpruned net has.
        originals: channels of the unpruned net by layer; filled in when empty.
        wish: how to choose.
        samples: for the importances that look at data.

    Raises:
        PlanRefused: nothing can be removed, or the outputs would change their shape.
        UsageError: a layer that is to be kept does not exist.
    """
    import torch

    before = _shapes(module, example)
    seen = accumulate(module, samples, wish.output) if wish.importance == "taylor" else 0
    with torch.enable_grad():
        graph, tied, left = _tied(module, example, originals, wish)
    if not tied:
        reasons = "; ".join(f"{name} {why}" for name, why in sorted(left.items())[:3])
        raise PlanRefused(f"nothing in this net can be pruned ({reasons or 'it has no convolution or linear layer'})")
    choose = together if wish.scope == "global" else each
    kept = choose([one.width for one in tied], ratio, wish.multiple)
    layers = []
    for one, channels in zip(tied, kept, strict=True):
        joined = len({id(dep.target.module) for dep, _ in one.group if list(dep.target.module.parameters())})
        layers.append(Layer(one.name, originals[one.name], channels, joined))
        if channels < one.width.channels:
            _remove(graph, one, channels)
    module.zero_grad(set_to_none=True)
    after = _shapes(module, example)
    if after != before:
        raise PlanRefused(
            f"the outputs would change from {before} to {after}; name the layers behind them: --keep LAYER"
        )
    return Removal(tuple(layers), left, seen)


def _shapes(module: Any, example: tuple[Any, ...]) -> list[list[int]]:
    import torch

    with torch.no_grad():
        made = module(*example)
    return [list(value.shape) for value in (made if isinstance(made, (tuple, list)) else (made,))]


def _tied(
    module: Any, example: tuple[Any, ...], originals: dict[str, int], wish: Wish
) -> tuple[Any, list[Tied], dict[str, str]]:
    """Return the graph, the groups that may shrink, and the layers that are left alone with the reason."""
    import torch
    import torch_pruning as tp

    names = {id(one): name for name, one in module.named_modules()}
    for name in wish.keep:
        if name not in names.values():
            near = ", ".join(sorted(name for name in names.values() if name)[:8])
            raise UsageError(f"--keep {name}: the net has no such layer; it has {near}, ...")
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=example)
    score = criterion(wish.importance)
    roots, tied, left = (torch.nn.modules.conv._ConvNd, torch.nn.Linear), list[Tied](), dict[str, str]()  # noqa: SLF001
    first = not originals
    for group in graph.get_all_groups(root_module_types=roots):
        root = group[0][0].target.module
        name = names[id(root)]
        reason = _reason(group, graph, names, wish.keep)
        if not reason:
            groups = _groups(group)
            scores = score(group)
            if scores is None:
                reason = f"has no score by {wish.importance}"
            else:
                values = scores.detach().float().view(groups, -1).mean(0).tolist()
                originals.setdefault(name, len(values) * groups)
                tied.append(Tied(name, root, group, Width(originals[name], tuple(values), groups)))
        if reason:
            left[name] = reason
    if not first and {one.name for one in tied} != set(originals):
        raise PlanRefused("the net's layers are not those it had before; a fine-tune function may change weights only")
    return graph, tied, left


def _reason(group: Any, graph: Any, names: dict[int, str], keep: Sequence[str]) -> str:
    """Return why a group is left alone, or the empty string."""
    import torch

    for dep, _ in group:
        node, taken = dep.target, graph.is_in_channel_pruning_fn(dep.handler)
        given = graph.is_out_channel_pruning_fn(dep.handler)
        if given and any(
            names.get(id(node.module), "") == one or names.get(id(node.module), "").startswith(f"{one}.")
            for one in keep
        ):
            return "is to be kept"
        if isinstance(node.module, (torch.nn.MultiheadAttention, torch.nn.RNNBase)):
            return f"is tied to {type(node.module).__name__}, whose widths are left alone"
        if not node.outputs and (given or not taken):
            return "reaches an output"
    return ""


def _groups(group: Any) -> int:
    """Return into how many equal parts a group's channels are bound: by grouped convolutions and group norms."""
    import torch

    found = 1
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, torch.nn.modules.conv._ConvNd) and 1 < layer.groups < layer.out_channels:  # noqa: SLF001
            found = math.lcm(found, layer.groups)
        elif isinstance(layer, torch.nn.GroupNorm):
            found = math.lcm(found, layer.num_groups)
    return found


def _remove(graph: Any, one: Tied, channels: int) -> None:
    """Remove the least important places until ``channels`` are left."""
    places = len(one.width.scores)
    going = places - channels // one.width.groups
    order = sorted(range(places), key=lambda place: (one.width.scores[place], place))[:going]
    gone = [place + part * places for part in range(one.width.groups) for place in sorted(order)]
    pruner = graph.get_pruner_of_module(one.root)
    group = graph.get_pruning_group(one.root, pruner.prune_out_channels, gone)
    if not graph.check_pruning_group(group):
        raise PlanRefused(f"layer '{one.name}' would lose its last channel; lower --ratio, or --keep {one.name}")
    group.prune()
