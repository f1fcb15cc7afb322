"""A job as a file, flags over it, and what the kind of service adds."""

import pytest

from whet.cli.optimize_verb import command
from whet.errors import UsageError
from whet.optimize.job import Job, aimed, read_job
from whet.optimize.request import OptimizeRequest
from whet.plan import Targets

WHOLE = """
data = "pictures"
service = "stream"
budget = "90s"
runtimes = ["openvino"]
seed = 4

[targets]
p99_ms = 30
min_qps = 100
max_drop = 0.01
metric = "mine:iou"
max_rss_mb = 500.5

[variants]
pruned30 = "nets/pruned30.onnx"
"""


def write(folder, text: str):
    path = folder / "job.toml"
    path.write_text(text)
    return path


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Run the command line and return the request it makes, without a search."""
    made = []

    def stop(request, _progress):
        made.append(request)
        raise UsageError("enough")

    monkeypatch.setattr("whet.optimize.run.optimize", stop)

    def ask(*arguments: str) -> OptimizeRequest:
        with pytest.raises(UsageError, match="enough"):
            command.main(["net.onnx", "-o", str(tmp_path / "b"), *arguments], standalone_mode=False)
        return made[-1]

    return ask


def test_a_file_holds_all_of_it_and_its_paths_count_from_its_folder(asked, tmp_path):
    request = asked("--targets", str(write(tmp_path, WHOLE)))
    assert request.data == str(tmp_path / "pictures")
    assert request.variants == {"pruned30": tmp_path / "nets/pruned30.onnx"}
    assert (request.service, request.budget_s, request.runtimes, request.seed) == ("stream", 90.0, ("openvino",), 4)
    assert request.targets == Targets(
        p99_ms=30, min_qps=100, max_drop=0.01, metric="mine:iou", max_rss_mb=500.5, objective="cores"
    )


def test_flags_win_over_the_file_and_the_file_over_what_the_service_suggests(asked, tmp_path):
    path = str(write(tmp_path, WHOLE))
    request = asked("--targets", path, "--p99-ms", "50", "--synthetic", "8", "--objective", "latency", "--budget", "2m")
    assert (request.targets.p99_ms, request.targets.min_qps, request.targets.objective) == (50, 100, "latency")
    assert (request.data, request.synthetic, request.budget_s) == (None, 8, 120.0)
    assert request.assumed == ()


def test_without_a_file_or_flags_the_defaults_hold(asked):
    request = asked("--synthetic", "8")
    assert request == OptimizeRequest(model=request.model, out=request.out, synthetic=8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("targts = 1", "job.toml: targts is unknown; did you mean 'targets'"),
        ("[targets]\np9_ms = 1", "job.toml: targets.p9_ms is unknown; did you mean 'p99_ms'"),
        ("[targets]\np99_ms = 'soon'", "job.toml: targets.p99_ms is 'soon'"),
        ("[targets]\nobjective = 'fame'", "targets.objective is 'fame'"),
        ("service = 'lunch'", "job.toml: service is 'lunch'"),
        ("synthetic = 0", "job.toml: synthetic is 0"),
        ("variants = 1", r"'variants' must be a table: write \[variants\]"),
        ("[targets", "is no TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_path(tmp_path, text, says):
    with pytest.raises(UsageError, match=says):
        read_job(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml: No such file"):
        read_job(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("given", "service", "wanted"),
    [
        ({}, None, Targets()),
        ({}, "online", Targets(p99_ms=100.0)),
        ({"p50_ms": 5.0}, "online", Targets(p50_ms=5.0)),
        ({}, "stream", Targets(p99_ms=40.0, objective="latency")),
        ({"min_qps": 50.0}, "stream", Targets(p99_ms=20.0, min_qps=50.0, objective="cores")),
        ({"min_qps": 50.0, "objective": "throughput"}, "stream", Targets(p99_ms=20.0, min_qps=50.0)),
        ({"objective": "latency"}, "batch", Targets(objective="latency")),
    ],
)
def test_the_kind_of_service_sets_what_was_not_given_and_says_so(given, service, wanted):
    targets, words = aimed(given, service)
    assert targets == wanted
    added = {name for name in Targets.__slots__ if getattr(targets, name) != getattr(Targets(**given), name)}
    assert len(words) >= len(added)
    assert all(f"(from --service {service})" in one for one in words)


def test_one_kind_of_samples_replaces_the_other():
    assert Job(synthetic=4).over(Job(data="x.npz")) == Job(synthetic=4)
    assert Job(data="x.npz").over(Job(synthetic=4)) == Job(data="x.npz")
