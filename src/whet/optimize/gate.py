"""Judges candidates: what is not within the accuracy floor never ships, however fast it is."""

import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from whet.errors import OutputError, WhetError
from whet.models.artifact import MANIFEST, Artifact, seal
from whet.optimize.accuracy import Verdict, judge
from whet.optimize.state import State
from whet.optimize.trial_words import Evaluate, Scored
from whet.plan import Plan

EVALUATION_SHARE = 0.16
"""Share of the budget one evaluation may take, at most; fewer items are judged when it would take longer."""


class Gate:
    """Judges candidates against the f32 parent, whose outputs are computed once.

    Args:
        state: of the search.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self._parent: Scored | None = None
        self.took_s = 0.0

    def parent_plan(self) -> Plan:
        """Return the plan whose outputs are the reference: the best f32 plan so far of the model as imported.

        Where no runtime of the search opens that, the user's own file in its framework stands for it.
        """
        state = self.state
        seen = [state.levels[one].plan for one in ("application", "system") if one in state.levels]
        seen += [state.lab.records[one.key].case.plan for one in state.strategy.ranking()]
        same = [state.artifact.sha256, *(one.artifact for one in state.variants if one.native)]
        exact = [plan for artifact in same for plan in seen if (plan.artifact, plan.precision) == (artifact, "f32")]
        if exact:
            return exact[0]
        formats = ((one, state.lab.artifacts[one].format) for one in same)
        artifact, runtime = next(
            (o, n) for o, form in formats for n, able in state.runtimes.items() if form in able.formats
        )
        return Plan(artifact, runtime=runtime, threads=state.host.budget.cores)

    def _judged(self, plan: Plan) -> Plan:
        """Return the plan on a net that answers every class: a ranking keeps the best few, and cannot be scored."""
        bare = unranked(self.state.lab.artifacts[plan.artifact], self.state.store)
        self.state.lab.artifacts[bare.sha256] = bare
        return plan.with_(artifact=bare.sha256)

    def judge(self, artifact: str, plan: Plan, label: str) -> Verdict:
        """Evaluate a plan on the evaluation set and judge it.

        Raises:
            WhetError: it cannot be opened, or the evaluation failed.
        """
        state = self.state
        known = state.verdicts.get((artifact, plan.precision)) or self._remembered(artifact, plan)
        if known is not None:
            state.verdicts[artifact, plan.precision] = known
            return known
        metric = state.data.metric
        assert state.data.evaluation is not None
        assert metric is not None
        if self._parent is None:
            state.say("accuracy", "f32 parent")
            self._parent = state.lab.evaluate(
                self._judged(self.parent_plan()), self._command(save=True), self._limit_s()
            )
        state.say("accuracy", label)
        began = time.monotonic()
        found = state.lab.evaluate(self._judged(plan), self._command(save=False), self._limit_s())
        self.took_s = time.monotonic() - began
        count = min(len(found.scores), len(self._parent.scores))
        labels = state.data.evaluation.labels
        verdict = judge(
            label,
            metric,
            np.asarray(self._parent.scores[:count]),
            np.asarray(found.scores[:count]),
            max_drop=state.request.max_drop,
            labels=labels[:count] if labels is not None else None,
            noise={name: np.asarray(ratio[:count]) for name, ratio in found.noise.items()},
            seed=state.request.seed,
        )
        state.verdicts[artifact, plan.precision] = verdict
        document = {"label": label, "precision": plan.precision, "verdict": verdict}
        state.journal.add("verdict", document, artifact=artifact, plan=plan.id)
        return verdict

    def _remembered(self, artifact: str, plan: Plan) -> Verdict | None:
        """Return what an interrupted run of the same job found of this artifact at this precision, or None."""
        state = self.state
        if not state.request.resume:
            return None
        for event in state.journal.events("verdict", run=state.journal.key.run):
            if event.artifact == artifact and event.document.get("precision") == plan.precision:
                return msgspec.convert(event.document["verdict"], Verdict)
        return None

    def admits(self, artifact: str, plan: Plan, label: str) -> Verdict | None:
        """Judge a candidate; what passes may be searched, what does not is written down. None when it failed."""
        state = self.state
        try:
            verdict = self.judge(artifact, plan, label)
        except OutputError:
            raise
        except WhetError as error:
            state.refuse(label, f"accuracy could not be judged: {error}")
            return None
        wanted = state.request.targets.min_accuracy
        if wanted is not None and verdict.value < wanted:
            state.refuse(label, f"{verdict.metric} is {verdict.value:.4f}, below --min-accuracy {wanted:g}")
            return verdict
        if verdict.passes:
            state.allowed.add((artifact, plan.precision))
        else:
            state.refuse(label, str(verdict))
        return verdict

    def _command(self, *, save: bool) -> Evaluate:
        state = self.state
        metric, pool = state.data.metric, state.data.evaluation
        assert metric is not None
        assert pool is not None
        kept = state.work / "parent"
        return Evaluate(
            pool.folder,
            metric.name,
            metric.output,
            parent=None if save else kept,
            save=kept if save else None,
            limit_s=max(4.0, EVALUATION_SHARE * state.clock.budget_s),
        )

    def _limit_s(self) -> float:
        return 30.0 + 4 * EVALUATION_SHARE * self.state.clock.budget_s


def unranked(artifact: Artifact, store: Path) -> Artifact:
    """Return the artifact without the steps that keep the best few answers; itself where it has none."""
    kept = tuple(step for step in artifact.post if step.kind not in {"top_k", "nms"})
    if kept == artifact.post:
        return artifact
    files = [path for path in artifact.folder.iterdir() if path.name != MANIFEST]
    return seal(replace(artifact, post=kept), files, store)
