"""The algorithm level: compressed candidates are made rung by rung, until one holds the accuracy floor and wins.

A rung is left for the next when its candidate is past the floor. One that is not faster ends its ladder: the rungs
above put layers back to float and are no faster. Its refusal names the causes that can be shown (:mod:`.causes`). When
no rung ships, bf16 is the last; what is left is a refusal.
"""

import math
from collections.abc import Iterator
from typing import Literal

from whet.engine.environment import ISA_VARIABLE
from whet.engine.layers import Layer
from whet.models.artifact import Artifact
from whet.optimize import causes
from whet.optimize.accuracy import Verdict
from whet.optimize.compress import Recipe, routes
from whet.optimize.compress.kind import kind_of, operators
from whet.optimize.gate import Gate
from whet.optimize.look import look
from whet.optimize.make import MAKE_UNTIL, NO_DATA, make, rank
from whet.optimize.race import Race, race, shapes
from whet.optimize.space import Variant
from whet.optimize.stages import build_space
from whet.optimize.state import Rung, State
from whet.plan import Plan
from whet.settings import environ

Ended = Literal["won", "hurts", "ended"]
LOOK_SHARE = 0.06
"""Share of the budget a look into a net may take."""
LEAST_SHARE = 0.05
"""A further ladder is begun while this share of the budget is left for it."""
BEHIND, BEHIND_DYNAMIC = 1.5, 4.0
"""A runtime slower than this, against the best float plan, is not quantized for; the dynamic route gains more."""
MOST_REVERTED = 0.5
"""Share of the weighted layers that may go back to float; past that the net is hardly int8 any more."""


def climb(state: State) -> None:
    """Make and judge what the algorithm level has to offer, for the model and for every variant that was given."""
    gate = Gate(state)
    if state.data.evaluation is None:
        for what in ("bf16", "int8"):
            state.refuse(what, NO_DATA)
        return
    for given in tuple(one for one in state.variants if not one.native):
        Climber(state, gate, given).climb()
    build_space(state)


class Climber:
    """Climbs the ladders of one net.

    Args:
        state: of the search.
        gate: judges accuracy, against the model as imported.
        given: the net: the model as imported, or a variant that competes with it.
    """

    def __init__(self, state: State, gate: Gate, given: Variant) -> None:
        self.state, self.gate, self.given = state, gate, given
        self.source: Artifact = state.lab.artifacts[given.artifact]
        self.prefix = "" if given.parent else f"{given.label}+"
        self.base = gate.parent_plan()
        self.made: list[tuple[Artifact, float, Verdict | None]] = []

    def climb(self) -> None:
        """Try every ladder that suits the net, then bf16."""
        state, given = self.state, self.given
        if not given.parent and not self._admits_given():
            return
        won = False
        if given.int8 or self.source.precision in {"int8", "mixed"}:
            state.refuse(f"{self.prefix}int8", f"the model's weights are {self.source.precision} already")
        else:
            memory = state.service.get("bound") == "memory"
            if not memory:
                for name in ("int8-weights", "int4-weights"):
                    state.refuse(self.prefix + name, "the net is not memory-bound here: smaller weights save nothing")
            kind = kind_of(operators(self.source))
            for place, ladder in enumerate(routes(kind, memory_bound=memory)):
                if won and kind == "recurrent":
                    break
                if place and state.clock.until(MAKE_UNTIL) < LEAST_SHARE * state.clock.budget_s:
                    state.refuse(
                        self.prefix + ladder[0].name, "the time for further candidates was spent; raise --budget"
                    )
                    continue
                won = self._ladder(ladder) or won
        for precision in self._rounding():
            self._float(precision, won=won)

    def _admits_given(self) -> bool:
        """Judge a variant as it was given; it is searched like the model when it holds the floor."""
        plan = self._plan_of(self.given.artifact, self.given.format, self.given.runtimes)
        if plan is None:
            self.state.refuse(self.given.label, f"no runtime here opens {self.given.format}")
            return False
        self.gate.admits(self.given.artifact, plan, self.given.label)
        if (plan.artifact, plan.precision) not in self.state.allowed:
            return False
        self.base = plan
        return True

    def _plan_of(self, artifact: str, form: str, runtimes: tuple[str, ...]) -> Plan | None:
        """Return the best float plan with another artifact in it, on a runtime that opens it."""
        able = {
            name: one
            for name, one in self.state.runtimes.items()
            if form in one.formats and (not runtimes or name in runtimes)
        }
        if not able:
            return None
        base = self.gate.parent_plan()
        runtime = base.runtime if base.runtime in able else next(iter(able))
        pinning = base.pinning and able[runtime].pinning
        openmp = base.openmp if runtime == base.runtime else None
        same = {"options": (), "dynamic_batch": False, "isa_ceiling": None, "pinning": pinning, "openmp": openmp}
        return base.with_(artifact=artifact, runtime=runtime, **same)

    def _rounding(self) -> list[str]:
        """Return the float precisions below f32 that some runtime which opens the net honours."""
        form = self.source.format
        able = [one for one in self.state.runtimes.values() if form in one.formats]
        return [name for name in ("bf16",) if any(name in one.precisions for one in able)]

    def _floats(self, runtime: str) -> list[str]:
        """Return the precisions below f32 that a runtime honours here."""
        return [one for one in ("bf16",) if one in self.state.runtimes[runtime].precisions]

    def _ladder(self, ladder: tuple[Recipe, ...]) -> bool:
        """Climb one ladder; True when a rung holds the floor and wins."""
        state, runtime = self.state, ladder[0].runtimes[0]
        if runtime not in state.runtimes:
            return False
        limit = BEHIND_DYNAMIC if not ladder[0].calibrates else BEHIND
        if runtime == "onnxruntime" and (slower := _behind(state, runtime, limit)) is not None:
            state.refuse(
                self.prefix + ladder[0].name,
                f"ONNX Runtime is {slower:.1f}x slower than the best f32 plan here: int8 will not turn that",
            )
            return False
        for rung in ladder:
            if self.source.format not in rung.formats:
                said = f"takes {', '.join(rung.formats)}, the model is {self.source.format}"
                state.refuse(self.prefix + rung.name, said)
                continue
            if rung.rung and state.clock.until(MAKE_UNTIL) <= 0:
                state.refuse(self.prefix + rung.name, "the time for further rungs was spent; raise --budget")
                return False
            for step, keep in enumerate(self._steps(rung)):
                ended = self._try(rung, keep, first=not rung.rung and not step)
                if ended != "hurts":
                    return ended == "won"
        return False

    def _steps(self, rung: Recipe) -> Iterator[tuple[str, ...]]:
        """Yield the sets of layers a rung keeps in float: none, or more and more of those whose rounding hurts most."""
        if not rung.reverts:
            yield ()
            return
        state = self.state
        whole = [one for one in self.made if one[2] is not None and not one[0].lineage[-1].settings.get("ignored")]
        if not whole:
            return
        start, took_s, _ = min(whole, key=lambda one: one[2].drop.value if one[2] is not None else 1.0)
        ranked = rank(state, rung, self.source, start, took_s)
        if ranked is None:
            return
        names = [name for name, noise in ranked if noise > 0]
        most, count = max(1, int(MOST_REVERTED * len(ranked))), 1
        while names and count <= min(most, 2 * len(names) - 1):
            if count > 1 and state.clock.until(MAKE_UNTIL) <= 0:
                state.refuse(self.prefix + rung.name, f"the time to revert {count} layers was spent; raise --budget")
                return
            yield tuple(names[:count])
            count *= 2
        if not names:
            state.refuse(self.prefix + rung.name, "no single layer's rounding disturbs the outputs")

    def _try(self, rung: Recipe, keep: tuple[str, ...], *, first: bool) -> Ended:
        """Make one candidate, judge it and race it. The first of a ladder is raced first: speed is what is in doubt."""
        state = self.state
        made = make(state, rung, self.source, self.prefix + rung.name, keep)
        if made is None:
            return "ended"
        variant, plan = self._enter(made[0], rung, keep)
        run = self._race(plan) if first else None
        if run is not None and run.outcome in {"slower", "failed"}:
            self._slow(variant, rung, plan, run, None)
            return "ended"
        verdict = self.gate.admits(variant.artifact, plan, variant.label)
        self.made.append((*made, verdict))
        if (variant.artifact, plan.precision) not in state.allowed:
            self._note(variant, rung, run, verdict, "hurts")
            if verdict is not None and not verdict.hopeless:
                return "hurts"
            if verdict is not None:
                state.refuse(f"{self.prefix}rungs after {rung.name}", "they would meet the same lack of data")
            return "ended"
        run = run or self._race(plan)
        if run.outcome in {"slower", "failed"} or self._beaten_by_bf16(run):
            state.allowed.discard((variant.artifact, plan.precision))
            self._slow(variant, rung, plan, run, verdict)
            return "ended"
        done, whole = self._read_back(variant.label, plan, _aim(rung, plan))
        self._note(variant, rung, run, verdict, "ships" if whole else "failed", executed=done)
        if not whole:
            return "ended"
        for precision in self._floats(rung.runtimes[0]):
            self.gate.admits(variant.artifact, plan.with_(precision=precision), f"{variant.label}+{precision}")
        return "won"

    def _read_back(self, label: str, plan: Plan, precision: str) -> tuple[dict[str, int], bool]:
        """Return the computing layers by executed precision, and whether any is in the one that was chosen.

        A choice that reads back as another is refused, whatever it gained. ``f32`` is what weights alone compute in.
        """
        done = causes.executed(self._look(plan))
        if not done or precision == "f32" or done.get(precision):
            return done, True
        self.state.allowed.discard((plan.artifact, plan.precision))
        said = ", ".join(f"{count} in {name}" for name, count in done.items())
        self.state.refuse(label, f"{plan.runtime} executes not one of its computing layers in {precision}: {said}")
        return done, False

    def _look(self, plan: Plan) -> tuple[Layer, ...]:
        """Return the layers executed under a plan; none where the time for it was spent."""
        clock = self.state.clock
        if clock.left_s < 2 * LOOK_SHARE * clock.budget_s:
            return ()
        self.state.say("look", self.state.label(plan))
        seconds = max(10.0, LOOK_SHARE * clock.budget_s)
        cpus = tuple(self.state.host.budget.cpus)
        return look(self.state.lab.artifacts[plan.artifact], plan, cpus=cpus, seconds=seconds)

    def _enter(self, product: Artifact, rung: Recipe, keep: tuple[str, ...]) -> tuple[Variant, Plan]:
        """Let a product compete; return what it is called and the plan it is judged under."""
        variant = Variant(
            artifact=product.sha256,
            label=self.prefix + rung.name + (f"-{len(keep)}" if keep else ""),
            format=product.format,
            batched=product.batched,
            images=bool(product.images),
            runtimes=rung.runtimes,
            parent=False,
            precisions=("f32", *self._floats(rung.runtimes[0])),
            int8=True,
        )
        self.state.variants.append(variant)
        plan = self._plan_of(product.sha256, product.format, rung.runtimes)
        assert plan is not None
        return variant, plan

    def _race(self, plan: Plan) -> Race:
        """Race a candidate's plans, its float layers in bf16 among them, beside the best float plan and its bf16."""
        self.state.say("race", self.state.label(plan))
        tried = [*shapes(plan, self.state.host.budget.cores)]
        tried += [plan.with_(precision=precision) for precision in self._floats(plan.runtime)]
        rival = next((self._rounded(one) for one in self._rounding()), None)
        return race(self.state, self.base, tried, rival)

    def _rounded(self, precision: str) -> Plan:
        """Return the best float plan in a lower float precision, on a runtime that honours it."""
        able = tuple(name for name, one in self.state.runtimes.items() if precision in one.precisions)
        plan = self._plan_of(self.given.artifact, self.source.format, able)
        assert plan is not None
        return plan.with_(precision=precision)

    def _beaten_by_bf16(self, run: Race) -> bool:
        """Tell whether bf16 without compression is as fast as the candidate, and holds the floor."""
        return run.bf16_suffices and self._float("bf16", won=False)

    def _float(self, precision: str, *, won: bool) -> bool:
        """Judge the net as it is in a lower float precision; True when it holds the floor and wins."""
        state, plan = self.state, self._rounded(precision)
        label = f"{self.prefix}{plan.runtime} {precision}"
        if (plan.artifact, precision) in state.verdicts:
            return (plan.artifact, precision) in state.allowed
        if won:
            state.refuse(label, "a rung before it holds the floor and wins: the ladder stopped there")
            return False
        state.say("race", label)
        run = race(state, self.base, [plan])
        if run.outcome in {"slower", "failed"}:
            self._slow(self.given, None, plan, run, None, label)
            return False
        verdict = self.gate.admits(plan.artifact, plan, label)
        if (plan.artifact, precision) not in state.allowed:
            self._note(self.given, None, run, verdict, "hurts", label)
            return False
        done, whole = self._read_back(label, plan, precision)
        self._note(self.given, None, run, verdict, "ships" if whole else "failed", label, executed=done)
        return whole

    def _slow(
        self, variant: Variant, rung: Recipe | None, plan: Plan, run: Race, verdict: Verdict | None, label: str = ""
    ) -> None:
        """Refuse what does not win, with the causes that its layers and the float net's can show."""
        state = self.state
        label = label or variant.label
        if run.gain is None:
            state.refuse(label, f"could not be measured: {run.failure}")
            self._note(variant, rung, run, verdict, "failed", label)
            return
        facts = self._facts(plan, run, _aim(rung, plan))
        found = causes.causes(facts)
        said = f"{run}: not a win; {causes.words(found, facts)}"
        state.refuse(label, said)
        self._note(variant, rung, run, verdict, "slow", label, tuple(found), causes.executed(facts.after))

    def _facts(self, plan: Plan, run: Race, precision: str) -> causes.Facts:
        state, before = self.state, self._look(self.base)
        after = self._look(plan) if before else ()
        ceiling = plan.isa_ceiling or environ().get(ISA_VARIABLE)
        return causes.Facts(
            native=causes.native(tuple(state.host.processor.native), ceiling),
            ceiling=ceiling,
            precision=precision,
            before=before,
            after=after,
            bf16=run.bf16 if run.bf16_suffices else None,
            bound=str(state.service.get("bound", "unknown")),
        )

    def _note(
        self,
        variant: Variant,
        rung: Recipe | None,
        run: Race | None,
        verdict: Verdict | None,
        outcome: str,
        label: str = "",
        why: tuple[causes.Cause, ...] = (),
        executed: dict[str, int] | None = None,
    ) -> None:
        """Write down how a rung ended."""
        one = Rung(
            net=self.given.label,
            rung=rung.name if rung is not None else label,
            label=label or variant.label,
            outcome=outcome,
            gain=run.gain if run is not None else None,
            bf16=run.bf16 if run is not None else None,
            verdict=verdict.verdict if verdict is not None else None,
            drop=verdict.drop if verdict is not None else None,
            causes=tuple((cause.slug, cause.words) for cause in why),
            executed=executed or {},
        )
        self.state.rungs.append(one)
        self.state.journal.add("rung", {"rung": one}, artifact=variant.artifact)


def _aim(rung: Recipe | None, plan: Plan) -> str:
    """Return the precision a candidate is to compute in: weights alone leave the arithmetic as it was."""
    return plan.precision if rung is None or rung.family.startswith("weights") else "int8"


def _behind(state: State, runtime: str, limit: float) -> float | None:
    """Return how many times slower a runtime's best f32 plan is than the best, if by more than ``limit``; else None."""
    ranking = state.strategy.ranking()
    if not ranking:
        return None
    own = [one for one in ranking if state.lab.records[one.key].case.plan.runtime == runtime]
    if not own:
        return None
    slower = math.exp(ranking[0].score - own[0].score)
    return slower if slower > limit else None
