"""Diagnoses from recorded counters: the ailments this machine cannot have, and the line between ill and well."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.doctor import local, scrape
from whet.doctor.ask import both_ways
from whet.doctor.changes import counterfactual, in_flight
from whet.doctor.diagnosis import made
from whet.doctor.observation import HostSeen, ModelSeen, Observation, WorkerSeen
from whet.doctor.observe import observe, planned_threads
from whet.doctor.paired import verdict
from whet.doctor.prove import prove
from whet.doctor.result import document, proof_words, rows
from whet.doctor.signs import RULES, best_ceiling, diagnose, under
from whet.errors import WrongAnswer
from whet.models.bundle import read_bundle
from whet.plan import Plan
from whet.stats import Interval

ICE_LAKE = ("avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni")
HASWELL = ("avx2", "fma")
PLAN = Plan("0" * 64, streams=2, threads=1, batch_sizes=(1, 8))
MODEL = ModelSeen(
    "m", requests=1000, rows=1000, decode_s=0.1, queue_s=0.5, compute_s=4.0, encode_s=0.1, batches=500, batch_rows=1000,
    lanes=2, busy_s=4.0, plan=PLAN,
)  # fmt: skip
"""A model that is well: 40 % busy, hardly queueing, binary bodies."""
WELL = Observation(
    "recorded", seconds=5.0, host=HostSeen(4, 4, isa=ICE_LAKE),
    workers=(WorkerSeen(0, 4.2, 8, cores=4, planned=2, waited_s=0.1, remote=None),), models=(MODEL,), periods=50,
)  # fmt: skip


def ill(**changes):
    """Diagnoses of a well observation with something changed; keys of the model and the worker are told apart."""
    model = {key: value for key, value in changes.items() if key in ModelSeen.__dataclass_fields__}
    worker = {key: value for key, value in changes.items() if key in WorkerSeen.__dataclass_fields__}
    rest = {key: value for key, value in changes.items() if key not in model and key not in worker}
    seen = replace(WELL, models=(replace(MODEL, **model),), workers=(replace(WELL.workers[0], **worker),), **rest)
    return {each.slug: each for each in diagnose(seen)}


def test_a_well_recorded_server_is_well():
    assert ill() == {}


def test_recorded_remote_numa_memory_is_named():
    found = ill(host=HostSeen(4, 4, nodes=2, isa=ICE_LAKE), remote=0.6)
    assert found["remote-numa"].severity == "marked"
    assert "60%" in found["remote-numa"].words
    assert ill(host=HostSeen(4, 4, nodes=2, isa=ICE_LAKE), remote=0.05) == {}


def test_recorded_numa_maps_are_weighed_by_page_size(tmp_path):
    proc = tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    nodes = tmp_path / "sys/devices/system/node"
    for node, cpus in (("node0", "0-1"), ("node1", "2-3")):
        (nodes / node).mkdir(parents=True)
        (nodes / node / "cpulist").write_text(cpus)
    (nodes / "online").write_text("0-1")
    (tmp_path / "sys/devices/system/cpu").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-3")
    (proc / "7/status").write_text("Cpus_allowed_list:\t0-1\n")
    maps = "1000 default anon=3 N0=1 N1=2 kernelpagesize_kB=4\n2000 default huge N1=1 kernelpagesize_kB=2048\n"
    (proc / "7/numa_maps").write_text(maps)
    (proc / "7/environ").write_text("A=1\0ONEDNN_MAX_CPU_ISA=AVX2\0")
    seen = local.look(7, tmp_path)
    assert seen.ceiling == "AVX2"
    assert seen.remote == pytest.approx((2 * 4 + 2048) / (3 * 4 + 2048))


def test_recorded_smt_contention_is_named_unless_the_search_measured_it():
    host = HostSeen(8, 4, threads_per_core=2, isa=ICE_LAKE)
    wide = {"host": host, "planned": 8, "cores": 8}
    assert "4 physical" in ill(**wide)["smt-contention"].words
    assert ill(**wide, tuned_here=True) == {}
    assert ill(host=host, planned=4, cores=8) == {}


def test_recorded_memory_bandwidth_is_named_by_bytes_and_by_what_the_search_found():
    found = ill(weight_bytes=100_000_000, batches=1000, bandwidth_gbs=25.0)
    assert found["memory-bandwidth"].evidence["weights_gbs"] == pytest.approx(20.0)
    assert "memory-bandwidth" in ill(bound="memory", batching_gain=2.0)
    assert ill(weight_bytes=1_000_000, bandwidth_gbs=25.0) == {}
    assert ill(bound="compute", batching_gain=1.01) == {}


def test_recorded_int8_without_instructions_for_it_is_named():
    found = ill(host=HostSeen(4, 4, isa=HASWELL), precision="int8")
    assert "on this processor" in found["no-vnni"].words
    assert ill(precision="int8") == {}
    below = ill(precision="int8", ceiling="AVX512_CORE")
    assert list(below) == ["isa-ceiling", "no-vnni"]
    assert "under AVX512_CORE" in below["no-vnni"].words
    assert ill(precision="int8", ceiling="AVX512_CORE", tuned_here=True) == {}


def test_recorded_bf16_without_instructions_for_it_is_named():
    assert "no-vnni" in ill(plan=PLAN.with_(precision="bf16"))


def test_recorded_preprocessing_outside_the_graph_is_named_unless_measured():
    loose = PLAN.with_(fused_preprocessing=False)
    assert "preprocessing-not-fused" in ill(plan=loose, images=1)
    assert ill(plan=loose, images=0) == {}
    assert ill(plan=loose, images=1, tuned_here=True) == {}


def test_recorded_throttling_ranks_by_its_share():
    found = ill(throttled=40, throttled_s=2.5)
    assert found["quota-throttled"].severity == "severe"
    assert ill(throttled=1) == {}


def test_batches_that_would_gain_nothing_are_not_called_too_small():
    full = {"batches": 1000, "busy_s": 9.9, "queue_s": 3.0, "plan": PLAN.with_(batch_sizes=(1,))}
    assert "too-small-batch" in ill(**full)
    assert "too-small-batch" not in ill(**full, batching_gain=1.02)
    assert ill(**full, batching_gain=2.0)["too-small-batch"].cost == pytest.approx(0.5)


def test_a_cause_comes_before_the_queue_it_makes():
    found = list(ill(queue_s=40.0, busy_s=9.9, throttled=4))
    assert found == ["quota-throttled", "queueing"]


def test_every_word_of_the_result_is_plain_data():
    seen = replace(WELL, throttled=40, periods=50)
    text = document(seen, diagnose(seen))
    assert (text["healthy"], text["diagnoses"][0]["slug"]) == (False, "quota-throttled")
    assert rows(diagnose(seen))[1][0].strip() == "do"
    idle = replace(WELL, models=(ModelSeen("m", lanes=1),), workers=())
    assert document(idle, diagnose(idle))["words"].startswith("nothing is wrong; 0 requests")


@given(
    st.builds(
        Observation,
        subject=st.just("x"),
        kind=st.sampled_from(["server", "bundle"]),
        seconds=st.floats(0, 100),
        host=st.none() | st.builds(HostSeen, cores=st.integers(1, 64), physical=st.integers(1, 64), quota=st.none()
                                   | st.floats(0.01, 8), isa=st.sampled_from([(), HASWELL, ICE_LAKE])),
        workers=st.lists(st.builds(WorkerSeen, index=st.integers(0, 9), cpu_s=st.floats(0, 10),
                                   waited_s=st.none() | st.floats(0, 10)), max_size=3).map(tuple),
        models=st.lists(st.builds(ModelSeen, name=st.just("m"), requests=st.integers(0, 99), rows=st.integers(0, 99),
                                  refused=st.just({"queue-full": 1}), decode_s=st.floats(0, 9),
                                  queue_s=st.floats(0, 9), compute_s=st.floats(0, 9), encode_s=st.floats(0, 9),
                                  batches=st.integers(0, 9), batch_rows=st.integers(0, 99), padded=st.integers(0, 99),
                                  lanes=st.integers(0, 4), busy_s=st.floats(0, 99),
                                  plan=st.none() | st.just(PLAN)), max_size=3).map(tuple),
        periods=st.integers(0, 50),
        throttled=st.integers(0, 50),
        throttled_s=st.floats(0, 50),
    )
)  # fmt: skip
def test_no_counters_whatsoever_break_a_rule(seen):
    costs = [each.cost for each in diagnose(seen) if each.slug != "queueing"]
    assert costs == sorted(costs, reverse=True)
    assert all(0 <= cost <= 1 for cost in costs)


def test_every_rule_has_a_page_in_the_docs(pytestconfig):
    page = (pytestconfig.rootpath / "docs/doctor.md").read_text()
    slugs = {
        "quota-throttled", "oversubscribed", "remote-numa", "queueing", "decode-dominates", "preprocessing-not-fused",
        "memory-bandwidth", "isa-ceiling", "no-vnni", "smt-contention", "too-small-batch", "few-connections",
    }  # fmt: skip
    assert len(RULES) == len(slugs) - 1  # one rule knows two: the ceiling, and what it takes away
    assert all(f"`{slug}`" in page for slug in slugs)


def test_ceilings_take_instruction_sets_away():
    assert best_ceiling(HostSeen(1, 1, isa=ICE_LAKE)) == "AVX512_CORE_VNNI"
    assert best_ceiling(HostSeen(1, 1, isa=("neon",))) == ""
    assert under(ICE_LAKE, "AVX2") == HASWELL
    assert "avx512_vnni" not in under(ICE_LAKE, "AVX512_CORE")
    assert under(ICE_LAKE, "") == ICE_LAKE


def test_models_behind_one_gate_share_its_threads():
    def one(streams, threads, gate):
        plan = {"artifact": "a", "streams": streams, "threads": threads}
        return {"plan": plan, "gate_cores": gate}

    assert planned_threads((one(4, 2, 0),)) == 8
    assert planned_threads((one(4, 1, 3), one(4, 1, 3))) == 3
    assert planned_threads((one(1, 1, 3), one(1, 1, 3))) == 2
    assert planned_threads((one(1, 2, 0), one(4, 1, 2))) == 4


@pytest.mark.parametrize(
    ("slug", "changes", "expected"),
    [
        ("oversubscribed", {"streams": 8}, {"streams": 4}),
        ("quota-throttled", {"streams": 1, "threads": 8}, {"threads": 4}),
        ("smt-contention", {"streams": 8}, {"streams": 4}),
        ("isa-ceiling", {"isa_ceiling": "AVX2"}, {"isa_ceiling": None}),
        ("no-vnni", {"precision": "bf16"}, {"precision": "f32"}),
        ("preprocessing-not-fused", {"fused_preprocessing": False}, {"fused_preprocessing": True}),
        ("queueing", {}, {}),
        ("decode-dominates", {}, None),
        ("isa-ceiling", {}, None),
    ],
)
def test_the_counterfactual_changes_the_one_knob(slug, changes, expected):
    plan = PLAN.with_(**changes)
    seen = replace(WELL, models=(replace(MODEL, plan=plan),))
    change = counterfactual(made(slug, 0.5, "", {}, "", "m"), seen, seen.models[0])
    assert (change.plan if change else None) == (plan.with_(**expected) if expected is not None else None)


def test_a_queue_is_judged_at_the_load_that_was_seen():
    # 6 s of waiting and computing a second: 30 requests in flight on three workers, 2 samples each.
    model = replace(MODEL, requests=1000, rows=2000, queue_s=26.0, compute_s=4.0)
    seen = replace(WELL, workers=WELL.workers * 3, models=(model,))
    assert in_flight(seen, model) == 4
    assert in_flight(seen, replace(model, plan=PLAN.with_(queue_bound=8), queue_s=1e6)) == 8
    assert in_flight(seen, replace(model, queue_s=0.0, compute_s=0.0)) == 1
    eased = counterfactual(made("queueing", 0.5, "", {}, "", "m"), seen, model)
    assert (eased.callers, eased.share) == (4, 0.7)
    windowed = replace(model, plan=PLAN.with_(batch_window_ms=5.0))
    unwaited = counterfactual(made("queueing", 0.5, "", {"window_ms": 5.0}, "", "m"), seen, windowed)
    assert (unwaited.callers, unwaited.share, unwaited.plan) == (4, None, PLAN)


def test_asking_a_server_both_ways_keeps_the_callers_and_changes_one_thing():
    seen = replace(WELL, workers=WELL.workers * 2)
    few = both_ways(made("few-connections", 0.5, "", {"http_connections": 1}, ""), seen, MODEL)
    assert (few.callers, few.connections, few.as_json) == (8, (1, 8), False)
    assert both_ways(made("few-connections", 0.5, "", {"http_connections": 8}, ""), seen, MODEL) is None
    decode = both_ways(made("decode-dominates", 0.5, "", {}, "", "m"), seen, MODEL)
    assert (decode.connections[0], decode.as_json) == (decode.connections[1], True)


def test_a_proof_that_cannot_be_measured_says_why(bundle):
    folder = bundle(precision="bf16")
    artifact = next(iter(read_bundle(folder).artifacts.values()))
    plan = Plan("other", runtime="fake", precision="bf16")
    seen = replace(WELL, models=(replace(MODEL, plan=plan, artifact=str(artifact.folder)),))
    (proven,) = prove(seen, [made("no-vnni", 0.3, "", {}, "", "m")], pairs=2)
    assert proven.proof.value is None
    assert "is for artifact other" in proof_words(proven.proof)


def test_verdicts_follow_the_interval():
    assert verdict(Interval(1.5, 1.2, 1.8)) == "confirmed"
    assert verdict(Interval(0.8, 0.7, 0.9)) == "refuted"
    assert verdict(Interval(1.1, 0.9, 1.3)) == "cannot tell apart"


def test_a_bundle_that_is_too_wide_for_this_host_is_named(bundle):
    folder = bundle(streams=512)
    (found,) = diagnose(observe(str(folder)))
    assert found.slug == "oversubscribed"
    assert "serve will narrow it" in found.words
    assert diagnose(observe(str(bundle(streams=1, name="narrow")))) == []


def test_recorded_throttling_in_a_bundles_evidence_is_named(bundle):
    folder = bundle()
    result = (
        b'{"service":{"bound":"memory","batching_gain":1.8},"chosen":{"trial":{"counters":{"throttled_ms":812.5}}}}'
    )
    (folder / "evidence/result.json").write_bytes(result)
    found = {each.slug: each for each in diagnose(observe(str(folder)))}
    assert found["quota-throttled"].evidence["throttled_s"] == pytest.approx(0.8125)
    assert found["memory-bandwidth"].evidence["batching_gain"] == pytest.approx(1.8)


TEXT = """# HELP whet_lanes x
# TYPE whet_lanes gauge
whet_info{whet="1"} 1
whet_lanes{model="a \\"b\\"",version="1"} 2
whet_requests_total{model="a \\"b\\"",version="1",transport="http",code="ok"} %d
whet_requests_total{model="a \\"b\\"",version="1",transport="grpc",code="ok"} 5
whet_requests_total{model="a \\"b\\"",version="1",transport="http",code="queue-full"} 7
whet_refused_total{model="a \\"b\\"",version="1",reason="queue-full"} %d
whet_process_cpu_seconds_total{worker="1"} 2.5
"""


def test_growth_between_scrapes_is_told_from_what_was_before():
    before, after = scrape.parse(TEXT % (10, 2)), scrape.parse(TEXT % (30, 7))
    (model,) = scrape.models(before, after)
    assert (model.name, model.requests, model.refused, model.lanes) == ('a "b"', 20, {"queue-full": 5}, 2)
    (worker,) = scrape.workers(before, after)
    assert (worker.index, worker.cpu_s) == (1, 0.0)


@pytest.mark.parametrize("line", ["<html>", "name", "name value"])
def test_what_is_no_sample_is_a_wrong_answer(line):
    with pytest.raises(WrongAnswer, match="no sample"):
        scrape.parse(line)
