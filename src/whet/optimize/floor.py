"""Judges one plan against plain f32 on a user's data, outside a search: the same metrics, the same floor."""

import numpy as np

from whet.optimize.accuracy import DEFAULT_MAX_DROP, Verdict, choose_metric, judge
from whet.optimize.data import open_data, split
from whet.optimize.gate import unranked
from whet.optimize.pool import materialise
from whet.optimize.relook import Look
from whet.optimize.trial_words import Evaluate
from whet.plan import Plan

ITEMS, LIMIT_S, PATIENCE_S = 1000, 6.0, 90.0
"""Most items that judge; no new batch is begun after the one; a process that needs the other has failed."""


def judged(look: Look, data: str, plain: Plan, plan: Plan) -> Verdict:
    """Return what the bundle's accuracy floor says of ``plan`` against ``plain`` on samples of ``data``.

    Raises:
        DataError: the samples do not fit the model, or cannot be judged.
        UsageError: the bundle's metric does not suit them.
        WhetError: a plan cannot be opened.
    """
    lab, targets, work, seed = look.lab, look.bundle.targets, look.work, look.request.seed
    artifact = lab.artifacts[plain.artifact]
    dataset = open_data(data, artifact)
    chosen = split(dataset, seed=seed, calibration=0, evaluation=ITEMS).evaluation
    pool = materialise(dataset, chosen, artifact, work / "evaluation")
    metric = choose_metric(targets.metric, artifact.outputs, labelled=dataset.labels is not None)
    kept = work / "judged"
    scores, noise = [], {}
    for one, saved in ((plain, True), (plan, False)):
        bare = unranked(lab.artifacts[one.artifact], work / "artifacts")
        lab.artifacts[bare.sha256] = bare
        command = Evaluate(pool.folder, metric.name, metric.output, parent=None if saved else kept,
                           save=kept if saved else None, limit_s=LIMIT_S)  # fmt: skip
        found = lab.evaluate(one.with_(artifact=bare.sha256), command, PATIENCE_S)
        scores.append(found.scores)
        noise = found.noise
    count = min(map(len, scores))
    return judge(
        str(plan),
        metric,
        np.asarray(scores[0][:count]),
        np.asarray(scores[1][:count]),
        max_drop=DEFAULT_MAX_DROP if targets.max_drop is None else targets.max_drop,
        labels=pool.labels[:count] if pool.labels is not None else None,
        noise={name: np.asarray(ratio[:count]) for name, ratio in noise.items()},
        seed=seed,
    )
