"""Dividing cores among models, choosing plans, reading sources."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.engine.unmeasured import plain_plan
from whet.errors import BundleError, ModelError, NotFound, PlanRefused, UsageError
from whet.host import read_host
from whet.models.artifact import Artifact, seal
from whet.models.bundle import Bundle, PlanRecord, read_bundle, write_bundle
from whet.models.hosts import recall, remember
from whet.plan import Plan, Targets
from whet.serve.deployment import Deployment, divide, fit, version_order
from whet.serve.sources import choose, resolve
from whet.settings import ServeSettings
from whet.tensors import TensorSpec


def deployment(name, streams=1, threads=1, version="1"):
    plan = Plan("0" * 64, runtime="fake", streams=streams, threads=threads)
    return Deployment(name=name, version=version, artifact="/a", sha256="0" * 64, plan=plan, why="because")


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 32))
def test_a_fitted_plan_fits_and_one_that_fits_is_kept(streams, threads, cores):
    plan = Plan("0", streams=streams, threads=threads)
    fitted = fit(plan, cores)
    assert fitted.compute_threads <= cores
    assert fitted == plan or plan.compute_threads > cores
    assert fitted.threads == min(threads, cores)


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8), st.floats(0.1, 9)), min_size=1, max_size=6),
    st.integers(1, 24),
)
def test_busy_threads_never_exceed_the_cores(models, cores):
    wanted = [deployment(f"m{index}", streams, threads) for index, (streams, threads, _) in enumerate(models)]
    weights = {f"m{index}": weight for index, (*_, weight) in enumerate(models)}
    divided = divide(wanted, cores, weights)
    assert [one.name for one in divided] == [one.name for one in wanted]
    wide = sum(one.plan.compute_threads for one in divided if not one.gate_cores)
    gates = {one.gate_cores for one in divided if one.gate_cores}
    assert len(gates) <= 1
    assert wide + sum(gates) <= cores
    assert all(one.plan.threads == 1 for one in divided if one.gate_cores)


def test_a_model_alone_keeps_its_plan_as_it_was_measured():
    assert divide([deployment("a", 2, 3)], 8, {}) == [deployment("a", 2, 3)]
    (narrowed,) = divide([deployment("a", 4, 2)], 3, {})
    assert (narrowed.plan.streams, narrowed.plan.threads) == (1, 2)
    assert "narrowed to 1x2" in narrowed.why


def test_cores_follow_weights():
    divided = divide([deployment("a", 1, 8), deployment("b", 1, 8)], 8, {"a": 3})
    assert [one.plan.threads for one in divided] == [6, 2]


def test_weights_that_mean_nothing_are_refused():
    with pytest.raises(PlanRefused, match="nobody"):
        divide([deployment("a")], 2, {"nobody": 1})
    with pytest.raises(PlanRefused, match="weight"):
        divide([deployment("a"), deployment("b")], 2, {"a": 0})


def test_no_models_need_no_cores():
    assert divide([], 2, {}) == []


def test_versions_are_ordered_by_value():
    assert sorted(["10", "9", "beta", "1"], key=version_order) == ["beta", "1", "9", "10"]


@pytest.fixture
def host():
    return read_host()


def make_artifact(folder, text="x"):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.fake"
    file.write_text(text)
    spec = TensorSpec("x", "UINT8", (-1, 2))
    return seal(Artifact(Path(), file.name, "fake", "", (spec,), (spec,), batched=True), [file], folder / "store")


def make_bundle(out, *plans, name="echo"):
    artifact = make_artifact(out.parent / f".{out.name}")
    evidence = out.parent / f".{out.name}-evidence"
    evidence.mkdir()
    records = [PlanRecord(Plan(artifact.sha256, runtime="fake", **knobs), host) for knobs, host in plans or [({}, {})]]
    write_bundle(out, name, records, {artifact.sha256: artifact}, Targets(), evidence)
    return out


def settings(*sources, **more):
    return ServeSettings(sources=tuple(map(str, sources)), **more)


def test_a_bundle_is_served_under_its_name_or_another(tmp_path, host):
    bundle = make_bundle(tmp_path / "b")
    assert [(one.name, one.version) for one in resolve(settings(bundle), host)] == [("echo", "1")]
    assert [one.name for one in resolve(settings(bundle, name="cat"), host)] == ["cat"]


def test_the_plan_of_the_nearest_host_is_taken_and_said(host):
    here = dict(host.fingerprint_fields)
    cores = int(here["physical"])
    far, near = {**here, "cores": 64, "physical": 64}, {**here, "cores": 2 * cores, "physical": 2 * cores}
    plans = [Plan("0", streams=streams) for streams in (64, 2 * cores, cores)]
    bundle = Bundle(
        Path(), "b", {}, (PlanRecord(plans[0], far), PlanRecord(plans[1], near), PlanRecord(plans[2], here))
    )
    assert choose(bundle, host)[0] == plans[2]
    assert "like this one" in choose(bundle, host)[1]
    away = replace(bundle, plans=bundle.plans[:2])
    plan, said, measured = choose(away, host)
    assert (plan, measured) == (plans[1].with_(streams=cores), False)
    for words in (f"{2 * cores} cores there, {cores} here", "instead of", "whet optimize --revalidate"):
        assert words in said
    # What revalidating found and could not keep in the bundle serves.
    found = PlanRecord(plans[2].with_(precision="bf16"), here, {"revalidated": {"words": "holds here: 2x"}})
    plan, said, measured = choose(away, host, [found])
    assert (plan, measured) == (found.plan, True)
    assert said.endswith("revalidated here: holds here: 2x")
    unknown = replace(bundle, plans=(PlanRecord(plans[1]), PlanRecord(plans[0])))
    assert choose(unknown, host)[::2] == (plans[1], True)


def test_what_a_cache_knows_of_a_bundle_is_of_this_very_bundle(tmp_path, host):
    here = dict(host.fingerprint_fields)
    out = make_bundle(tmp_path / "b", ({}, {**here, "cores": 64}))
    bundle = read_bundle(out)
    record = replace(bundle.plans[0], host={"fingerprint": host.fingerprint, **here})
    remember(tmp_path / "cache", bundle, [record])
    assert recall(tmp_path / "cache", bundle, host.fingerprint) == (record,)
    (one,) = resolve(settings(out, cache_dir=str(tmp_path / "cache")), host)
    assert (one.plan, one.elsewhere) == (record.plan, "")
    (other,) = resolve(settings(out, cache_dir=str(tmp_path / "none")), host)
    assert other.elsewhere == str(out)
    changed = replace(bundle, plans=(replace(bundle.plans[0], measured={"throughput_per_s": 1}),))
    assert recall(tmp_path / "cache", changed, host.fingerprint) == ()


def test_a_repository_serves_the_highest_version_of_each_model(tmp_path, host):
    root = tmp_path / "r"
    for version in ("1", "2", "10"):
        make_bundle(root / "a" / version)
    make_bundle(root / "b")
    (root / "notes").mkdir()
    (root / ".hidden").mkdir()
    assert [(one.name, one.version) for one in resolve(settings(root), host)] == [("a", "10"), ("b", "1")]
    assert [one.name for one in resolve(settings(root), host, "b")] == ["b"]
    with pytest.raises(NotFound, match="c"):
        resolve(settings(root), host, "c")


def test_an_artifact_gets_a_safe_plan(tmp_path, host):
    artifact = make_artifact(tmp_path / "a")
    (one,) = resolve(settings(artifact.folder, name="a"), host)
    assert (one.plan.runtime, one.plan.precision, one.plan.threads) == ("fake", "f32", 1)
    assert one.plan.streams == host.budget.physical
    assert "safe defaults" in one.why
    plan, fallback = plain_plan(replace(artifact, format="onnx"), 4)
    assert (plan.runtime, fallback) == ("openvino", "onnxruntime")


def test_the_queue_bound_of_the_settings_wins(tmp_path, host):
    bundle = make_bundle(tmp_path / "b", ({"batch_sizes": (1, 8)}, {}))
    assert resolve(settings(bundle, queue_bound=20), host)[0].plan.queue_bound == 20
    assert resolve(settings(bundle, queue_bound=2), host)[0].plan.queue_bound == 8


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda tmp: settings(), UsageError, "nothing to serve"),
        (lambda tmp: settings(tmp / "nowhere"), ModelError, "nowhere"),
        (lambda tmp: settings(make_bundle(tmp / "b"), tmp / "b"), UsageError, "twice"),
        (lambda tmp: settings(make_bundle(tmp / "b"), name="a/b"), UsageError, "a/b"),
        (lambda tmp: settings(make_bundle(tmp / "b"), name="../b"), UsageError, "cannot name"),
        (lambda tmp: settings(_repository(tmp), name="x"), UsageError, "--name"),
        (lambda tmp: settings(_linked(tmp)), UsageError, "leads out"),
        (lambda tmp: settings(_crowded(tmp)), ModelError, "must hold one model"),
        (lambda tmp: settings(_damaged(tmp)), BundleError, "damaged"),
    ],
    ids=["none", "absent", "twice", "a path", "a climb", "a repository", "a link", "two models", "damaged"],
)
def test_what_cannot_be_served_is_named(tmp_path, host, build, error, words):
    with pytest.raises(error, match=words):
        resolve(build(tmp_path), host)


def _repository(tmp):
    make_bundle(tmp / "r" / "a")
    return tmp / "r"


def _linked(tmp):
    make_bundle(tmp / "outside")
    make_bundle(tmp / "r" / "a")
    (tmp / "r" / "b").symlink_to(tmp / "outside")
    return tmp / "r"


def _crowded(tmp):
    version = tmp / "r" / "a" / "1"
    version.mkdir(parents=True)
    for name in ("one", "two"):
        shutil.copytree(make_artifact(tmp / name, name).folder, version / name)
    return tmp / "r"


def _damaged(tmp):
    bundle = make_bundle(tmp / "b")
    (bundle / "bundle.json").write_text("{")
    return bundle
