"""How much a channel matters. Every criterion is torch-pruning's own, on whole groups of tied channels.

========== ======================================================================================================
name       score of a channel, over every layer it runs through
========== ======================================================================================================
l1         sum of |weight| (Li et al., ICLR 2017)
l2         sum of weight^2; the default
lamp       weight^2 over the sum of what is no smaller in its layer (Lee et al., ICLR 2021)
bn-scale   |scale| of the batch norm behind it (Liu et al., ICCV 2017); layers without one are left as they are
taylor     |weight * gradient of the loss| on real samples (Molchanov et al., CVPR 2019); needs ``--data``
random     drawn from the seed: a control that any criterion should beat
========== ======================================================================================================
"""

from collections.abc import Callable
from typing import Any

from whet.errors import PlanRefused
from whet.optimize.compress.prune.samples import Samples

BATCH = 16


def criterion(name: str) -> Callable[[Any], Any]:
    """Return torch-pruning's estimator: a group of tied channels -> one score a channel, or None where it has none."""
    import torch_pruning as tp
    from torch_pruning.pruner import importance as of

    made: dict[str, Callable[[], Any]] = {
        "l1": lambda: of.GroupMagnitudeImportance(p=1),
        "l2": lambda: of.GroupMagnitudeImportance(p=2),
        "lamp": of.LAMPImportance,
        "bn-scale": of.BNScaleImportance,
        "taylor": of.GroupTaylorImportance,
        "random": of.RandomImportance,
    }
    del tp
    found: Callable[[Any], Any] = made[name]()
    return found


def accumulate(module: Any, samples: Samples | None, output: int | None) -> int:
    """Leave in ``module`` the gradients of its loss over the samples, which ``taylor`` reads; return their number.

    The loss is the cross entropy of the class scores, against labels where there are any and else against the net's own
    answers; without class scores half the mean square of the outputs.

    Raises:
        PlanRefused: no samples.
    """
    import torch

    if samples is None or not len(samples):
        raise PlanRefused("importance 'taylor' needs real samples; give --data, or take --importance l2")
    module.zero_grad(set_to_none=True)
    for inputs, labels in samples.batches(BATCH):
        with torch.enable_grad():
            made = module(*inputs)
            outputs = made if isinstance(made, (tuple, list)) else (made,)
            if output is None:
                loss = sum(value.float().square().mean() for value in outputs) / 2
            else:
                scores = outputs[output].flatten(1)
                known = labels if labels is not None else scores.detach().argmax(1)
                loss = torch.nn.functional.cross_entropy(scores, known)
            loss.backward()
    # The library reads the gradient of every weight; one that the loss does not reach matters nothing to it.
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return len(samples)
