import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speed_surface import F32, INT8, ONNXRUNTIME, OPENVINO, space

from whet.optimize.space import AFFINITY, BLOCKTIMES_MS, LADDERS, Room, Variant, build, label, shapes, simplicity
from whet.plan import Targets

RUNTIMES = {"openvino": OPENVINO, "onnxruntime": ONNXRUNTIME}


def test_a_typical_model_on_two_cores_has_a_hundred_legal_plans_each_once():
    found = space(2)
    assert len(found.plans) >= 100
    assert len({plan.id for plan in found.plans}) == len(found.plans)
    assert all(refusal.reason and refusal.count >= 1 for refusal in found.refused)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 96),
    st.integers(1, 96),
    st.sampled_from(["throughput", "latency", "cores"]),
    st.none() | st.integers(1, 64),
)
def test_no_plan_overbooks_the_budget_and_one_uses_all_of_it(cores, physical, objective, most):
    room, targets = Room(cores, min(cores, physical)), Targets(objective=objective, max_cores=most, min_qps=1)
    found = shapes(room, targets)
    allowed = min(cores, most or cores)
    assert all(streams * threads <= allowed for streams, threads in found)
    assert (1, allowed) in found
    assert (allowed, 1) in found
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("targets", "room", "gone", "reason"),
    [
        pytest.param(
            Targets(objective="latency"), Room(2, 2), lambda p: p.max_batch > 1, "first sample wait", id="latency"
        ),
        pytest.param(
            Targets(p99_ms=10), Room(2, 2, sample_ms=8), lambda p: p.max_batch >= 8, "even at 4x", id="batch too slow"
        ),
        pytest.param(
            Targets(p99_ms=4), Room(2, 2), lambda p: p.batch_window_ms > 0, "eats the target", id="window too long"
        ),
        pytest.param(
            Targets(), Room(2, 2, service="batch"), lambda p: p.batch_window_ms > 0, "come full", id="batches"
        ),
    ],
)
def test_what_cannot_meet_the_targets_is_refused_with_its_reason(targets, room, gone, reason):
    found = build([F32], RUNTIMES, room, targets)
    assert found.plans
    assert not [plan for plan in found.plans if gone(plan)]
    assert [one for one in found.refused if reason in one.reason]


def test_formats_precisions_and_families_are_kept_apart():
    found = space(2)
    for plan in found.plans:
        able, variant = RUNTIMES[plan.runtime], found.variants[plan.artifact]
        assert plan.precision in able.precisions
        assert variant.format in able.formats
        assert plan.runtime in (variant.runtimes or (plan.runtime,))
        assert able.pinning or not plan.pinning
        assert not (plan.precision == "bf16" and plan.isa_ceiling)
        assert not (variant.int8 and plan.isa_ceiling)  # without VNNI int8 sums saturate: another accuracy
    reasons = {one.what: one.reason for one in found.refused}
    assert "onnxruntime at bf16" in reasons


def test_a_net_without_a_batch_axis_runs_one_by_one():
    fixed = replace(F32, batched=False)
    found = build([fixed], RUNTIMES, Room(2, 2), Targets())
    assert {plan.batch_sizes for plan in found.plans} == {(1,)}
    assert [one for one in found.refused if "no batch axis" in one.reason]


def test_levels_nest_and_name_where_a_plan_departs():
    found = space(2)
    system, application, algorithm = (found.at(level) for level in ("system", "application", "algorithm"))
    assert set(system) < set(application) < set(algorithm) == set(found.plans)
    assert all(plan.max_batch == 1 and plan.artifact == F32.artifact and plan.precision == "f32" for plan in system)


def test_ladders_waste_little_and_end_where_they_say():
    for batch, sizes in LADDERS.items():
        assert sizes[-1] == batch
        assert sizes[0] == 1
        assert all(b <= 4 * a for a, b in itertools.pairwise(sizes))


def test_runtime_options_are_searched_one_at_a_time_and_never_the_defaults_switch():
    able = replace(ONNXRUNTIME, options={**ONNXRUNTIME.options, "defaults": ("0", "1"), "free": ()})
    found = build([F32], {"onnxruntime": able}, Room(2, 2), Targets())
    options = {plan.options for plan in found.plans}
    assert options == {(), (("spinning", "0"),), (("graph", "extended"),)}


def test_the_simpler_of_two_plans_comes_first():
    plans = space(2).plans
    assert list(plans) == sorted(plans, key=simplicity)
    assert plans[0].compute_threads == 1


def test_labels_tell_plans_apart_for_people():
    found = space(2)
    labels = [label(plan, found.variants[plan.artifact].label) for plan in found.plans]
    assert len(set(labels)) == len(labels)
    assert any(words.startswith("openvino int8+bf16 2x1 b8") for words in labels)
    assert any(words.startswith("openvino bf16 1x2 b1") for words in labels)


def test_variants_of_the_same_service_compete():
    pruned = Variant("c" * 64, "pruned30", "onnx", parent=False)
    found = build([F32, INT8, pruned], RUNTIMES, Room(4, 4), Targets())
    assert {plan.artifact for plan in found.plans} == {"a" * 64, "b" * 64, "c" * 64}


TORCH = replace(
    ONNXRUNTIME,
    formats=frozenset({"pt2"}),
    openmp=True,
    options={"compile": ("none", "freeze"), "defaults": ("0", "1")},
)
NATIVE = Variant("d" * 64, "f32", "pt2", images=True, parent=False, native=True)


def test_openmps_variables_are_an_axis_of_runtimes_that_compute_on_it():
    found = build([NATIVE], {"torch": TORCH}, Room(2, 2, intel_openmp=True), Targets())
    assert {plan.openmp.blocktime_ms for plan in found.plans if plan.openmp and plan.openmp.intel} == {
        None, *BLOCKTIMES_MS
    }  # fmt: skip
    assert all(plan.openmp.threads == plan.threads for plan in found.plans if plan.openmp)
    assert AFFINITY in {plan.openmp.affinity for plan in found.plans if plan.openmp}
    assert all(found.level_of(plan) != "algorithm" for plan in found.plans)  # the same net as the parent
    assert not any(plan.fused_preprocessing for plan in found.plans)  # its graph cannot hold the pictures' part


def test_what_is_not_installed_is_no_axis_and_says_what_to_install():
    found = build([NATIVE, F32], {"torch": TORCH, "openvino": OPENVINO}, Room(2, 2), Targets())
    assert not [plan for plan in found.plans if plan.openmp and plan.openmp.intel]
    assert {plan.allocator for plan in found.plans} == {"default"}
    reasons = {one.what: one.reason for one in found.refused}
    assert "pip install intel-openmp" in reasons["KMP_BLOCKTIME and KMP_AFFINITY"]
    assert "libjemalloc2" in reasons["allocator jemalloc"]
    assert "libtcmalloc-minimal4" in reasons["allocator tcmalloc"]
    assert reasons["OpenMP variables with openvino"]


@pytest.mark.parametrize("what", ["workers per NUMA node", "SMT", "layout in openvino"])
def test_axes_with_one_value_say_why(what):
    assert what in {one.what for one in space(2).refused}


def test_allocators_that_are_installed_compete():
    found = build([F32], RUNTIMES, Room(2, 2, allocators=("default", "jemalloc")), Targets())
    assert {plan.allocator for plan in found.plans} == {"default", "jemalloc"}
    assert "allocator jemalloc" not in {one.what for one in found.refused}


def test_an_allocator_a_runtime_does_not_run_under_is_refused_with_that_reason():
    fussy = {"openvino": replace(RUNTIMES["openvino"], allocators=("default", "tcmalloc"))}
    found = build([F32], fussy, Room(2, 2, allocators=("default", "jemalloc", "tcmalloc")), Targets())
    assert {plan.allocator for plan in found.plans} == {"default", "tcmalloc"}
    assert "jemalloc under openvino" in {one.what for one in found.refused}


def test_on_siblings_both_threads_of_a_core_and_one_alone_are_tried():
    found = build([F32], RUNTIMES, Room(cores=4, physical=2), Targets())
    assert {4, 2} <= {plan.compute_threads for plan in found.plans}
    assert "SMT" not in {one.what for one in found.refused}


def test_two_cores_with_everything_installed_stay_within_what_a_sweep_can_measure():
    room = Room(2, 2, allocators=("default", "jemalloc", "tcmalloc"), intel_openmp=True)
    found = build([F32, NATIVE], {**RUNTIMES, "torch": TORCH}, room, Targets())
    assert 100 <= len(found.plans) <= 600
    assert len({label(plan, found.variants[plan.artifact].label) for plan in found.plans}) == len(found.plans)
