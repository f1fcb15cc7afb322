"""How the ladder is climbed: the decisions alone, with recipes, races and judgements that are told how to end."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_artifacts import make_artifact

from whet.engine.base import Capabilities
from whet.engine.layers import Layer
from whet.models.artifact import Lineage
from whet.optimize import climb as climbing
from whet.optimize.accuracy import Metric, judge
from whet.optimize.climb import climb
from whet.optimize.gate import Gate
from whet.optimize.race import Race
from whet.optimize.space import Variant
from whet.optimize.state import Clock
from whet.plan import Plan
from whet.stats import Interval

FAST, SAME, SLOW = Interval(1.8, 1.6, 2.0), Interval(1.0, 0.95, 1.05), Interval(0.7, 0.6, 0.8)
INT8 = (Layer("c", "Convolution", "int8", 1.0, 1.0),)
FLOAT = (Layer("c", "Convolution", "f32", 1.0, 1.0),)


def able(*precisions: str) -> Capabilities:
    return Capabilities(frozenset({"onnx"}), frozenset(precisions), False, False, True, (), {}, "1")


class Stage:
    """A search that has found its best float plan; what rungs cost and gain is scripted by label."""

    def __init__(self, tmp_path: Path, monkeypatch, **script) -> None:
        source = make_artifact(tmp_path / "a", format="onnx")
        self.lost = script.get("lost", {})  # items lost of 1000, by label
        self.items = script.get("items", 1000)
        self.below = script.get("below", ())  # labels whose accuracy is below --min-accuracy
        self.gains = script.get("gains", {})  # by label; the rest is fast
        self.bf16 = script.get("bf16")  # bf16 over the candidate
        self.ranking = script.get("ranking", [(f"layer{i}", 1.0 - i / 10) for i in range(8)])
        self.layers = script.get("layers", INT8)
        self.bf16_layers = script.get("bf16_layers", (Layer("c", "Convolution", "bf16", 1.0, 1.0),))
        self.made, self.raced, self.refused = [], [], []
        given = Variant(source.sha256, "f32", "onnx")
        self.state = SimpleNamespace(
            request=SimpleNamespace(max_drop=0.01, resume=False),
            clock=Clock(1000.0), variants=[given], verdicts={}, rungs=[],
            allowed={(source.sha256, "f32")}, artifact=source, service=script.get("service", {"bound": "compute"}),
            lab=SimpleNamespace(artifacts={source.sha256: source}, records={}),
            data=SimpleNamespace(evaluation=object()), runtimes={"openvino": able("f32", "bf16")},
            racing=SimpleNamespace(ranking=list), journal=SimpleNamespace(add=lambda *_, **__: None),
            host=SimpleNamespace(
                budget=SimpleNamespace(cores=2, cpus=(0, 1)), processor=SimpleNamespace(native=("bf16", "int8"))
            ),
            say=lambda *_: None, label=lambda plan: plan.artifact, refuse=lambda *said: self.refused.append(said),
        )  # fmt: skip
        self.source = source
        monkeypatch.setattr(climbing, "Gate", lambda state: self)
        for name in ("make", "race", "rank", "look", "build_space", "operators"):
            monkeypatch.setattr(climbing, name, getattr(self, name))

    def parent_plan(self) -> Plan:
        return Plan(self.source.sha256)

    def admits(self, artifact: str, plan: Plan, label: str):
        lost = self.lost.get(label, 0)
        parent, scores = np.ones(self.items), np.ones(self.items)
        scores[:lost] = 0
        verdict = judge(label, Metric("top1", "y"), parent, scores, max_drop=0.01)
        self.state.verdicts[artifact, plan.precision] = verdict
        if verdict.passes and label not in self.below:
            self.state.allowed.add((artifact, plan.precision))
        else:
            self.refused.append((label, str(verdict)))
        return verdict

    def make(self, state, rung, source, label, keep=()):
        self.made.append((label, keep))
        ignored = list(keep) or (["edge"] if rung.name == "int8-edges" else [])
        step = Lineage("compress", source.sha256, rung.name, {"ignored": ignored})
        product = replace(source, sha256=label + "-".join(keep), precision="int8", lineage=(step,))
        state.lab.artifacts[product.sha256] = product
        return product, 2.0

    def race(self, state, reference, candidates, rival=None):
        plan = candidates[0]
        name = plan.artifact if plan.artifact != self.source.sha256 else plan.precision
        self.raced.append(name)
        return Race(plan, self.gains.get(name, FAST), self.bf16 if rival is not None else None)

    def rank(self, *_):
        return self.ranking

    def look(self, artifact, plan, **_):
        if plan.precision == "bf16":
            return self.bf16_layers
        return FLOAT if artifact is self.source else self.layers

    def build_space(self, *_):
        pass

    def operators(self, _):
        return {"Conv": 2}

    def climb(self) -> list[tuple[str, str]]:
        climb(self.state)
        return [(one.label, one.outcome) for one in self.state.rungs]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return lambda **script: Stage(tmp_path, monkeypatch, **script)


def test_the_first_rung_that_holds_the_floor_and_wins_ends_the_climb(stage):
    one = stage()
    assert one.climb() == [("int8", "ships")]
    assert one.raced == ["int8"]
    assert ("int8", "f32") in one.state.allowed
    assert ("int8", "bf16") in one.state.allowed  # its float layers may be in bf16 too
    assert ("openvino bf16", "a rung before it holds the floor and wins: the ladder stopped there") in one.refused
    assert one.state.rungs[0].executed == {"int8": 1}


@pytest.mark.parametrize(
    ("hurt", "ships"),
    [
        pytest.param(("int8",), "int8-robust", id="statistics were the matter"),
        pytest.param(("int8", "int8-robust"), "int8-edges", id="the edges were"),
        pytest.param(("int8", "int8-robust", "int8-edges"), "int8-sensitive-1", id="one layer was"),
        pytest.param(
            ("int8", "int8-robust", "int8-edges", "int8-sensitive-1", "int8-sensitive-2"), "int8-sensitive-4", id="four"
        ),
    ],
)
def test_a_rung_past_the_floor_leads_to_the_next(stage, hurt, ships):
    one = stage(lost=dict.fromkeys(hurt, 300))
    assert one.climb() == [*((name, "hurts") for name in hurt), (ships, "ships")]
    kept = [keep for label, keep in one.made if label == "int8-sensitive"]
    assert all(keep == tuple(name for name, _ in one.ranking[: len(keep)]) for keep in kept)  # the worst first


def test_when_half_of_the_layers_are_not_enough_bf16_is_next(stage):
    rungs = ("int8", "int8-robust", "int8-edges", "int8-sensitive-1", "int8-sensitive-2", "int8-sensitive-4")
    one = stage(lost=dict.fromkeys(rungs, 300))
    assert one.climb() == [*((name, "hurts") for name in rungs), ("openvino bf16", "ships")]
    assert (one.source.sha256, "bf16") in one.state.allowed


def test_what_is_within_the_drop_but_below_the_least_accuracy_does_not_end_the_climb(stage):
    assert stage(below=("int8",)).climb() == [("int8", "hurts"), ("int8-robust", "ships")]


def test_weights_alone_that_are_not_faster_are_not_blamed_for_computing_in_float(stage):
    one = stage(service={"bound": "memory"}, gains={"int8": SLOW, "int4-weights": SLOW}, layers=FLOAT)
    one.climb()
    found = {rung.rung: [slug for slug, _ in rung.causes] for rung in one.state.rungs}
    assert "not-executed" in found["int8"]
    assert found["int4-weights"] == ["int8-not-faster", "weights-bound"]


def test_layers_whose_rounding_disturbs_nothing_are_not_reverted(stage):
    one = stage(lost={"int8": 300, "int8-robust": 300, "int8-edges": 300}, ranking=[("a", 0.0), ("b", 0.0)])
    one.climb()
    assert ("int8-sensitive", "no single layer's rounding disturbs the outputs") in one.refused
    assert not [label for label, keep in one.made if keep]


def test_when_nothing_holds_all_is_refused(stage):
    rungs = ("int8", "int8-robust", "int8-edges", "int8-sensitive-1", "int8-sensitive-2", "int8-sensitive-4")
    one = stage(lost=dict.fromkeys((*rungs, "openvino bf16"), 300))
    assert {outcome for _, outcome in one.climb()} == {"hurts"}
    assert one.state.allowed == {(one.source.sha256, "f32")}


def test_what_is_not_faster_is_refused_with_its_causes_and_ends_its_ladder(stage):
    slow = (Layer("c", "Convolution", "int8", 0.5, 0.3), Layer("r", "Reorder", "f32", 1.0, 0.7))
    one = stage(gains={"int8": SLOW, "bf16": SAME}, layers=slow)
    assert one.climb() == [("int8", "slow"), ("openvino bf16", "slow")]
    assert one.state.rungs[0].verdict is None  # what is slow need not be judged
    assert [slug for slug, _ in one.state.rungs[0].causes] == ["conversions"]
    reason = dict(one.refused)["int8"]
    assert "0.70x [0.60, 0.80] the best float plan: not a win" in reason
    assert "conversions between layers cost 1.00 of 1.50 ms" in reason
    assert one.state.allowed == {(one.source.sha256, "f32")}


def test_a_later_rung_that_holds_the_floor_but_is_not_faster_is_refused_too(stage):
    one = stage(lost={"int8": 300}, gains={"int8-robust": SAME, "bf16": SLOW})
    assert one.climb() == [("int8", "hurts"), ("int8-robust", "slow"), ("openvino bf16", "slow")]
    assert ("int8-robust", "f32") not in one.state.allowed


def test_bf16_that_is_faster_than_int8_and_holds_the_floor_wins(stage):
    one = stage(bf16=Interval(1.4, 1.3, 1.5))
    assert one.climb() == [("openvino bf16", "ships"), ("int8", "slow")]
    assert one.state.rungs[-1].causes[0][0] == "bf16-faster"
    assert ("int8", "f32") not in one.state.allowed


def test_int8_that_is_fast_only_as_bf16_is_leaves_the_place_to_what_rounds_less(stage):
    one = stage(bf16=Interval(1.0, 0.96, 1.04))
    assert one.climb() == [("openvino bf16", "ships"), ("int8", "slow")]
    assert "bf16 without compression is 1.00x [0.96, 1.04] as fast already" in dict(one.refused)["int8"]


@pytest.mark.parametrize("bf16", [Interval(0.9, 0.7, 1.1), Interval(0.98, 0.97, 0.99)], ids=["seems", "is"])
def test_int8_that_is_ahead_of_bf16_keeps_its_place(stage, bf16):
    assert ("int8", "ships") in stage(bf16=bf16).climb()


def test_bf16_that_is_faster_but_hurts_leaves_int8_to_win(stage):
    one = stage(bf16=Interval(1.4, 1.3, 1.5), lost={"openvino bf16": 300})
    assert one.climb() == [("openvino bf16", "hurts"), ("int8", "ships")]


def test_too_few_items_end_the_climb_since_no_rung_could_promise_more(stage):
    one = stage(items=100)
    assert one.climb() == [("int8", "hurts"), ("openvino bf16", "hurts")]
    assert {rung.verdict for rung in one.state.rungs} == {"not enough data"}
    assert ("rungs after int8", "they would meet the same lack of data") in one.refused
    assert "items would tell" in dict(one.refused)["int8"]


def test_a_drop_that_is_only_uncertain_leads_to_the_next_rung_where_there_are_items_enough(stage):
    one = stage(lost={"int8": 9})  # 0.009 of 0.01, its interval reaches past it
    assert one.climb() == [("int8", "hurts"), ("int8-robust", "ships")]
    assert one.state.rungs[0].verdict == "not enough data"


def test_int8_that_the_runtime_executes_in_float_is_refused_by_what_it_reads_back(stage):
    one = stage(layers=FLOAT)
    assert one.climb()[0] == ("int8", "failed")
    assert "executes not one of its computing layers in int8: 1 in f32" in dict(one.refused)["int8"]
    assert ("int8", "f32") not in one.state.allowed


def test_bf16_that_the_runtime_executes_in_f32_is_refused_by_what_it_reads_back(stage):
    one = stage(gains={"int8": SLOW}, bf16_layers=FLOAT)
    assert one.climb()[-1] == ("openvino bf16", "failed")
    assert "executes not one of its computing layers in bf16: 1 in f32" in dict(one.refused)["openvino bf16"]
    assert one.state.allowed == {(one.source.sha256, "f32")}


def test_weights_are_compressed_only_where_reading_them_is_the_limit(stage):
    memory = stage(service={"bound": "memory"})
    assert [label for label, _ in memory.climb()] == ["int8", "int4-weights", "int8-weights"]
    assert {"int4-weights", "int8-weights"} <= {artifact for artifact, _ in memory.state.allowed}
    one = stage()
    one.climb()
    assert {what for what, why in one.refused if "not memory-bound" in why} == {"int8-weights", "int4-weights"}


def test_a_variant_is_judged_as_it_is_and_compressed_as_the_model_is(stage, tmp_path):
    one = stage()
    other = make_artifact(tmp_path / "b", format="onnx", notes=("pruned",))
    one.state.lab.artifacts[other.sha256] = other
    one.state.variants.append(Variant(other.sha256, "pruned30", "onnx", parent=False))
    assert one.climb() == [("int8", "ships"), ("pruned30+int8", "ships")]
    assert (other.sha256, "f32") in one.state.allowed
    hurt = stage(lost={"pruned30": 300})
    hurt.state.lab.artifacts[other.sha256] = other
    hurt.state.variants.append(Variant(other.sha256, "pruned30", "onnx", parent=False))
    assert hurt.climb() == [("int8", "ships")]  # what hurts already is not compressed on top


def test_a_resumed_search_judges_nothing_twice(tmp_path):
    verdict = judge("int8", Metric("top1", "y"), np.ones(900), np.ones(900), max_drop=0.01)
    document = {"label": "int8", "precision": "f32", "verdict": as_plain(verdict)}
    event = SimpleNamespace(artifact="a", plan="p", document=document)
    journal = SimpleNamespace(key=SimpleNamespace(run="r"), events=lambda *_, **__: [event])
    state = SimpleNamespace(verdicts={}, request=SimpleNamespace(resume=True), journal=journal)
    assert Gate(state).judge("a", Plan("a"), "int8") == verdict
    assert state.verdicts == {("a", "f32"): verdict}


def as_plain(verdict):
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(verdict))
