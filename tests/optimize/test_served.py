"""The chosen plan behind a real server and under load: what is promised was shown, and failures are words."""

import contextlib
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest
from small_nets import pictures, write_net

from whet.errors import EnvironmentLacks
from whet.optimize import capacity, finals, served, stages
from whet.optimize.evidence import document
from whet.optimize.prepare import prepare
from whet.optimize.request import OptimizeRequest, silent
from whet.optimize.state import Clock
from whet.optimize.values import plain
from whet.plan import Targets
from whet.report.model import read


def searched(tmp_path, targets: Targets, budget_s: float = 60.0):
    """A search that has just chosen between two f32 plans."""
    net = write_net(tmp_path / "gratings.onnx")
    images, labels = pictures(64, seed=5)
    np.savez(tmp_path / "data.npz", x=images, label=labels)
    request = OptimizeRequest(
        model=net, out=tmp_path / "b", data=str(tmp_path / "data.npz"), targets=targets, budget_s=budget_s,
        runtimes=("openvino",),
    )  # fmt: skip
    work = tmp_path / "work"
    work.mkdir()
    state = prepare(request, work, silent, Clock(budget_s))
    stages.build_space(state, 1.0)
    state.allowed.add((state.artifact.sha256, "f32"))
    plain = [one for one in state.space.plans if one.max_batch == 1 and not one.options and one.isa_ceiling is None]
    state.contenders = [stages.case_of(state, plan) for plan in plain[:2]]
    stages.measured_round(state, state.contenders, 2)
    state.chosen = state.contenders[0]
    return state


@pytest.fixture
def state_of(tmp_path):
    made = []

    def make(targets, **more):
        made.append(searched(tmp_path, targets, **more))
        return made[-1]

    yield make
    for state in made:
        state.lab.close()
        state.journal.close()


def answers(url: str) -> bool:
    """Tell whether anybody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(urlsplit(url).netloc.split(":"), timeout=5):
        return True
    return False


@pytest.mark.slow
def test_under_a_latency_target_the_rate_promised_is_one_that_http_was_shown_to_hold(state_of, monkeypatch):
    state = state_of(Targets(p99_ms=200))
    monkeypatch.setattr(served, "SHARE", 0.13)
    monkeypatch.setattr(capacity, "SHARE", 0.04)
    capacity.measure(state)
    in_process = state.rates[state.chosen.plan.id]
    assert in_process["runs"]
    served.measure(state)
    found = state.served
    assert found["reason"] is None
    for protocol in ("http", "grpc"):
        assert found[protocol]["requests"]["answered"] > 0
        assert found[protocol]["requests"]["failed"] == 0
        assert found[protocol]["client_cpu_share"] > 0
    over_http = [one for one in found["loads"] if one["protocol"] == "HTTP"]
    assert over_http
    assert {one["protocol"] for one in found["loads"]} == {"HTTP", "gRPC"}
    held = finals.highest_qps(state)
    assert held == found["highest_qps"]
    if held is not None:
        assert sum(one["latency_ms"]["count"] for one in over_http if one["qps"] == held) >= 1500
        assert held < found["http"]["throughput_per_s"]["value"] * 1.5
    evidence = read(plain(document(state)))
    assert evidence.served.http["requests"] == found["http"]["requests"]
    assert len(evidence.served.loads) == len(found["loads"])


def test_a_budget_without_time_to_serve_says_so(state_of, monkeypatch):
    state = state_of(Targets(), budget_s=12.0)
    monkeypatch.setattr(Clock, "left_s", property(lambda _: 3.0))
    served.measure(state)
    assert state.served == {"reason": "not served: 1 s of 12 s were left, it takes 5; give a longer --budget"}
    assert finals.highest_qps(state) is None


def test_a_server_that_does_not_start_is_a_reason_and_the_promise_is_what_held_in_process(state_of, monkeypatch):
    state = state_of(Targets(p99_ms=200))
    state.rates[state.chosen.plan.id] = {"runs": [], "highest_qps": 70.0, "promising_qps": 80.0}

    def broken(*_args, **_options):
        raise EnvironmentLacks("the server ended with exit code 1 before it was ready")

    monkeypatch.setattr(served, "Server", broken)
    served.measure(state)
    assert state.served["reason"] == "not served: the server ended with exit code 1 before it was ready"
    assert finals.highest_qps(state) == 70.0
    assert not (state.work / "served").exists()


def test_ctrl_c_while_it_is_served_leaves_no_server_behind(state_of, monkeypatch):
    state = state_of(Targets())

    there = []

    def interrupted(self, callers, seconds):
        there.append(self.url)
        assert answers(self.url)
        raise KeyboardInterrupt

    monkeypatch.setattr(served.Front, "closed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        served.measure(state)
    assert there
    assert not answers(there[0])
    assert not (state.work / "served").exists()
