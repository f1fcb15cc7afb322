"""The algorithm level: compressed candidates are made rung by rung, and only what holds the accuracy floor may ship."""

import math
import time
from dataclasses import replace

import numpy as np

from whet.errors import DataError, MissingExtra, OutputError, RuntimeFailed, WhetError
from whet.models.artifact import MANIFEST, Artifact, seal
from whet.optimize.accuracy import Verdict, judge
from whet.optimize.compress import Recipe, Work, ladder, run_recipe
from whet.optimize.space import Variant
from whet.optimize.stages import build_space
from whet.optimize.state import State
from whet.optimize.trial_words import Evaluate, Scored
from whet.plan import Plan

EVALUATION_SHARE = 0.16
"""Share of the budget one evaluation may take, at most; fewer items are judged when it would take longer."""
MAKE_UNTIL = 0.58
"""Share of the budget after which no further candidate is made or judged ..."""
MAKE_LEAST = 0.2
"""... but the one at hand may take this share of the budget, however late it is."""
CALIBRATION_SHARE, CALIBRATION_PASSES, LEAST_ITEMS = 0.4, 8.0, 32
"""Share of a recipe's time for statistics, f32 passes they cost per sample (with bias correction), fewest samples."""
NO_DATA = "changes results, and only real data shows by how much: give --data (or --allow-synthetic-calibration)"


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
        """Return the plan whose outputs are the reference: the best f32 plan so far, without switches."""
        state = self.state
        best = next((state.levels[one].plan for one in ("application", "system") if one in state.levels), None)
        if best is not None:
            return best.with_(artifact=state.artifact.sha256, precision="f32")
        runtime = next(name for name, able in state.runtimes.items() if state.artifact.format in able.formats)
        return Plan(state.artifact.sha256, runtime=runtime, threads=state.host.budget.cores)

    def _judged(self, plan: Plan) -> Plan:
        """Return the plan on a net that answers every class: a ranking keeps the best few, and cannot be scored."""
        state = self.state
        artifact = state.lab.artifacts[plan.artifact]
        kept = tuple(step for step in artifact.post if step.kind not in {"top_k", "nms"})
        if kept == artifact.post:
            return plan
        files = [path for path in artifact.folder.iterdir() if path.name != MANIFEST]
        bare = seal(replace(artifact, post=kept), files, state.store)
        state.lab.artifacts[bare.sha256] = bare
        return plan.with_(artifact=bare.sha256)

    def judge(self, artifact: str, plan: Plan, label: str) -> Verdict:
        """Evaluate a plan on the evaluation set and judge it.

        Raises:
            WhetError: it cannot be opened, or the evaluation failed.
        """
        state = self.state
        known = state.verdicts.get((artifact, plan.precision))
        if known is not None:
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
        state.journal.add("verdict", {"label": label, "verdict": verdict}, artifact=artifact, plan=plan.id)
        return verdict

    def admits(self, artifact: str, plan: Plan, label: str) -> Verdict | None:
        """Judge a candidate; what passes may be searched, what does not is written down. None when it failed."""
        state = self.state
        try:
            verdict = self.judge(artifact, plan, label)
        except (OutputError, DataError):
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


def climb(state: State) -> None:
    """Make and judge what the algorithm level has to offer: bf16, int8 by the ladder, other recipes where they pay."""
    gate = Gate(state)
    if state.data.evaluation is None:
        for what in ("bf16", "int8"):
            state.refuse(what, NO_DATA)
        return
    base = gate.parent_plan()
    if state.artifact.precision in {"int8", "mixed"}:
        state.refuse("int8", f"the model's weights are {state.artifact.precision} already")
    else:
        _climb(state, gate, "ptq", "openvino")
        for family, runtime in (("ort", "onnxruntime"), ("weights", "openvino")):
            if family == "weights" and state.service.get("bound") != "memory":
                state.refuse("int8-weights", "the net is not memory-bound here: smaller weights save nothing")
            elif state.clock.until(MAKE_UNTIL) < 0.05 * state.clock.budget_s:
                state.refuse(f"int8-{family}", "the time for further candidates was spent; raise --budget")
            else:
                _climb(state, gate, family, runtime)
    for precision in _floats(state, base.runtime):  # the last rung: it saves least, and int8 may have made it needless
        if len(state.allowed) > 1 and state.clock.until(MAKE_UNTIL) < gate.took_s:
            state.refuse(f"{base.runtime} {precision}", "int8 holds the floor, and the time to judge this was spent")
            continue
        gate.admits(state.artifact.sha256, base.with_(precision=precision), f"{base.runtime} {precision}")
    build_space(state)


def _floats(state: State, runtime: str) -> list[str]:
    """Return the precisions below f32 that a runtime honours here."""
    return [one for one in ("bf16",) if one in state.runtimes[runtime].precisions]


def _climb(state: State, gate: Gate, family: str, runtime: str) -> None:
    """Try the rungs of one family until one holds the floor."""
    if runtime not in state.runtimes:
        return
    if runtime == "onnxruntime" and (slower := _behind(state, runtime)) is not None:
        state.refuse(
            "int8-ort", f"ONNX Runtime is {slower:.1f}x slower than the best f32 plan here: int8 will not turn that"
        )
        return
    for rung in ladder(family):
        if state.artifact.format not in rung.formats:
            state.refuse(rung.name, f"takes {', '.join(rung.formats)}, the model is {state.artifact.format}")
            continue
        if rung.rung and state.clock.until(MAKE_UNTIL) <= 0:
            state.refuse(rung.name, "the time for further rungs was spent; raise --budget")
            return
        product = make(state, rung)
        if product is None:
            return
        variant = Variant(
            artifact=product.sha256,
            label=rung.name,
            format=product.format,
            batched=product.batched,
            images=bool(product.images),
            runtimes=rung.runtimes,
            parent=False,
            precisions=("f32", *_floats(state, runtime)),
            int8=True,
        )
        state.variants.append(variant)
        base = gate.parent_plan()
        pinning = base.pinning and state.runtimes[runtime].pinning
        plan = base.with_(artifact=product.sha256, runtime=runtime, options=(), dynamic_batch=False, pinning=pinning)
        verdict = gate.admits(product.sha256, plan, rung.name)
        if verdict is not None and verdict.passes:
            for precision in _floats(state, runtime):
                gate.admits(product.sha256, plan.with_(precision=precision), f"{rung.name}+{precision}")
            return
        if verdict is not None and verdict.verdict == "not enough data":
            state.refuse(f"{family} after {rung.name}", "further rungs would meet the same lack of data")
            return


def make(state: State, rung: Recipe) -> Artifact | None:
    """Run one recipe; None when it cannot be made, with the reason written down."""
    data, clock = state.data, state.clock
    limit_s = min(max(clock.until(MAKE_UNTIL), MAKE_LEAST * clock.budget_s), 0.8 * clock.left_s)
    if rung.calibrates and data.calibration is None:
        state.refuse(rung.name, NO_DATA)
        return None
    work = Work(
        recipe=rung.name,
        artifact=state.artifact.folder,
        pool=data.calibration.folder if data.calibration is not None else None,
        calibration=data.calibration_sha256,
        items=_items(state, limit_s),
        seed=state.request.seed,
        store=state.store,
    )
    began = time.monotonic()
    try:
        product = run_recipe(
            work,
            cpus=state.host.budget.cpus,
            limit_s=limit_s,
            log=state.work / f"{rung.name}.log",
            progress=lambda words: state.say("compress", f"{rung.name}: {words}"),
        )
    except (OutputError, MissingExtra) as error:
        if isinstance(error, OutputError):
            raise
        state.refuse(rung.name, str(error))
        return None
    except (RuntimeFailed, WhetError) as error:
        state.refuse(rung.name, str(error))
        return None
    took = time.monotonic() - began
    state.journal.add(
        "product", {"recipe": rung.name, "folder": str(product.folder), "took_s": took}, artifact=product.sha256
    )
    state.lab.artifacts[product.sha256] = product
    return product


def _items(state: State, limit_s: float) -> int:
    """Return how many samples there is time to calibrate with: collecting statistics costs some passes a sample."""
    sample_s = float(state.service.get("sample_ms") or 1.0) / 1e3
    affordable = int(CALIBRATION_SHARE * limit_s / (CALIBRATION_PASSES * sample_s))
    return min(state.request.calibration, max(LEAST_ITEMS, affordable))


def _behind(state: State, runtime: str) -> float | None:
    """Return how many times slower a runtime's best f32 plan is than the best, if by more than half; else None."""
    ranking = state.racing.ranking()
    if not ranking:
        return None
    own = [one for one in ranking if state.lab.records[one.key].case.plan.runtime == runtime]
    if not own:
        return None
    slower = math.exp(ranking[0].score - own[0].score)
    return slower if slower > 1.5 else None
