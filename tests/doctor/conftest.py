"""Servers of the fake runtime, loads that make them ill, and a control group with a quota."""

import contextlib
import http.client
import json
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from whet.load.launcher import Server
from whet.models.artifact import Artifact, seal
from whet.models.bundle import PlanRecord, write_bundle
from whet.plan import Plan, Targets
from whet.tensors import TensorSpec


@pytest.fixture
def bundle(tmp_path):
    """Write a bundle of the fake runtime: ``bundle(width=6, options={...}, precision_of_weights=..., **knobs)``."""

    def write(*, width=6, options=(), weights="f32", name="echo", **knobs):
        file = tmp_path / "model.fake"
        file.write_text("nothing")
        described = Artifact(
            Path(), file.name, "fake", "",
            (TensorSpec("x", "UINT8", (-1, width)),), (TensorSpec("y", "FP32", (-1, 3)),),
            batched=True, precision=weights,
        )  # fmt: skip
        artifact = seal(described, [file], tmp_path / "store")
        plan = Plan(artifact.sha256, runtime="fake", options=tuple(sorted(dict(options).items())), **knobs)
        (tmp_path / "evidence").mkdir(exist_ok=True)
        out = tmp_path / name
        write_bundle(out, name, [PlanRecord(plan)], {artifact.sha256: artifact}, Targets(), tmp_path / "evidence")
        return out

    return write


@pytest.fixture
def serve(tmp_path):
    """Start a server: ``serve(bundle, "--workers", "2")``; it is stopped at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(*args, **more):
            line = ["--cache-dir", str(tmp_path / "cache"), *map(str, args)]
            return stack.enter_context(Server(line, ready_s=60, stop_s=10, **more))

        yield start


@pytest.fixture
def load():
    """Clients of a server: ``with load(url, clients=4):`` each asks on one connection until the block ends."""
    return _load


@contextlib.contextmanager
def _load(url, *, clients=4, width=6, as_json=False, model="echo"):
    stop = threading.Event()
    if as_json:
        x = {"name": "x", "datatype": "UINT8", "shape": [1, width], "data": [7] * width}
        body, head = json.dumps({"inputs": [x]}).encode(), {}
    else:
        body, head = np.full((1, width), 7, np.uint8).tobytes(), {"Inference-Header-Content-Length": "0"}

    def ask():
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        with contextlib.closing(connection):
            while not stop.is_set():
                connection.request("POST", f"/v2/models/{model}/infer", body, head)
                connection.getresponse().read()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
