"""A bundle of another host is served: measured here first, or as it was carried over, and the log says which."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from whet.host import read_host
from whet.host.fingerprint import digest
from whet.models.bundle import PlanRecord, read_bundle
from whet.models.hosts import Share, put


def found_elsewhere(kit, out, **knobs):
    """Write the echo's bundle as a host of 64 cores would have left it."""
    plain = read_bundle(kit.make_bundle(out.parent / "plain"))
    host = {**read_host().fingerprint_fields, "model": "Xeon 8480+", "cores": 64, "physical": 64}
    evidence = out.parent / "evidence"
    evidence.mkdir()
    (evidence / "result.json").write_text(json.dumps({"host": {"fingerprint": digest(host)}}))
    record = PlanRecord(plain.plans[0].plan.with_(streams=64, **knobs), host, {"throughput_per_s": {"value": 9e4}})
    put(out, Share("echo", "m", digest(host), (record,), plain.artifacts, evidence=evidence))
    return digest(host)


def test_an_unknown_host_measures_before_it_serves_and_knows_the_bundle_from_then_on(kit, serve, tmp_path):
    out, here = tmp_path / "b", read_host().fingerprint
    there = found_elsewhere(kit, out)
    (tmp_path / ".b.lock").mkdir()  # nobody can lock it, so nobody can write it
    server = serve(out)
    (model,) = server.announced["models"]
    assert "revalidated here: holds: it is the plain f32 plan" in model["why"]
    assert kit.Http(server.http).infer(kit.rows(7))[0] == 200
    assert {one.fingerprint for one in read_bundle(out).plans} == {there}
    assert len(list((tmp_path / "cache" / "revalidated").iterdir())) == 1
    # A second start finds in the cache what the first one found out.
    (model,) = serve(out, "--no-revalidate").announced["models"]
    assert "revalidated here" in model["why"]
    # Without it: carried over, and how to measure is said.
    (model,) = serve(out, "--no-revalidate", "--cache-dir", tmp_path / "other").announced["models"]
    cores = read_host().budget.physical
    for words in (f"64 cores there, {read_host().budget.cores} here", "whet optimize --revalidate", "instead of 64x1"):
        assert words in model["why"]
    assert f"{cores}x1 streams" in model["words"]
    assert here != there


def test_a_server_that_is_told_to_stop_while_it_measures_stops(kit, tmp_path):
    out = tmp_path / "b"
    found_elsewhere(kit, out, options=(("base_us", "50000"),))
    command = [sys.executable, "-m", "whet", "serve", str(out), "--http-port", "0", "--grpc-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert any("measuring it on this one" in line for line in server.stderr)
        children = kit.until(lambda: Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split())
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert "Traceback" not in server.stderr.read()
    kit.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
