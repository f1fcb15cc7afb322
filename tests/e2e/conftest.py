"""Real servers as subprocesses, serving a runtime that answers a function of its inputs, and clients to ask them."""

import contextlib
import http.client
import json
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest

from whet.load.launcher import Server
from whet.models.artifact import Artifact, seal
from whet.models.bundle import PlanRecord, write_bundle
from whet.plan import Plan, Targets
from whet.tensors import TensorSpec


def make_bundle(out, name="echo", *, width=6, options=(), post_scale=0, **knobs):
    """Write a bundle whose model answers, in FP32, the first values of each row of its UINT8 input.

    ``post_scale`` only makes the artifact another one: versions of a model differ by it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.parent / f".{out.name}.model"
    file.write_text(f"fake {post_scale}")
    described = Artifact(
        Path(),
        file.name,
        "fake",
        "",
        (TensorSpec("x", "UINT8", (-1, width)),),
        (TensorSpec("y", "FP32", (-1, 3)),),
        batched=True,
    )
    artifact = seal(described, [file], out.parent / f".{out.name}.store")
    plan = Plan(artifact.sha256, runtime="fake", options=tuple(sorted(dict(options).items())), **knobs)
    evidence = out.parent / f".{out.name}.evidence"
    evidence.mkdir(exist_ok=True)
    write_bundle(out, name, [PlanRecord(plan)], {artifact.sha256: artifact}, Targets(), evidence)
    return out


def rows(*first, width=6):
    """Return an input whose rows begin with the given values."""
    return np.array([[value, *range(1, width)] for value in first], np.uint8)


def expected(x):
    return x[:, :3].astype(np.float32)


class Http:
    """A plain HTTP client of one server: what is sent is what is written in the test."""

    def __init__(self, url):
        self.netloc = urlsplit(url).netloc

    def ask(self, method, path, body=None, headers=None, timeout=10):
        """Return (status, headers, body)."""
        connection = http.client.HTTPConnection(self.netloc, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def json(self, method, path, document=None, **headers):
        """Return (status, document)."""
        status, _, body = self.ask(method, path, None if document is None else json.dumps(document), headers)
        return status, json.loads(body or b"null")

    def infer(self, x, model="echo", **parameters):
        """Return (status, headers, document) of a JSON inference."""
        document = {
            "inputs": [{"name": "x", "datatype": "UINT8", "shape": list(x.shape), "data": x.ravel().tolist()}],
            "parameters": parameters,
        }
        status, headers, body = self.ask("POST", f"/v2/models/{model}/infer", json.dumps(document))
        return status, headers, json.loads(body)

    def metrics(self):
        """Return every sample by its full name."""
        _, _, text = self.ask("GET", "/metrics")
        lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def metric(self, name, **labels):
        """Return the sum of a metric's samples that have the labels."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        return sum(
            value
            for sample, value in self.metrics().items()
            if re.split(r"[{ ]", sample)[0] == name and wanted <= set(re.findall(r'\w+="[^"]*"', sample))
        )


def until(condition, patience=10.0):
    """Wait until ``condition()`` is true and return its value."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail("it never came true")


class Load:
    """Clients that ask over HTTP, each on one connection, for as long as the block runs, and check every answer.

    Attributes:
        good: right answers.
        wrong: answers that were not the right one.
        failed: (seconds since the start, what) of requests without an answer of 200.
        slowest: seconds of the slowest request.
    """

    def __init__(self, url, clients=4, model="echo", *, reconnect=False):
        self.good, self.wrong, self.failed, self.slowest = 0, 0, [], 0.0
        self._netloc, self._model, self._reconnect = urlsplit(url).netloc, model, reconnect
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(clients)]

    def __enter__(self):
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a request hangs"

    def _run(self, index):
        connection, value = None, index
        while not self._stop.is_set():
            value = value % 250 + 1
            began = time.monotonic()
            try:
                connection = connection or http.client.HTTPConnection(self._netloc, timeout=20)
                self._ask(connection, rows(value))
                if self._reconnect:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append((time.monotonic() - self._began, repr(error)))
                connection.close()
                connection = None
                time.sleep(0.01)
            self.slowest = max(self.slowest, time.monotonic() - began)
        if connection is not None:
            connection.close()

    def _ask(self, connection, x):
        head = {"Inference-Header-Content-Length": "0"}
        connection.request("POST", f"/v2/models/{self._model}/infer", x.tobytes(), head)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            self.failed.append((time.monotonic() - self._began, f"{answer.status} {body[:200]}"))
        elif body.endswith(expected(x).tobytes()):
            self.good += 1
        else:
            self.wrong += 1


@pytest.fixture
def serve(tmp_path):
    """Start a server: ``serve(bundle, "--workers", "2")``; it is stopped at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(*args, **more):
            args = ["--cache-dir", str(tmp_path / "cache"), *map(str, args)]
            return stack.enter_context(Server(args, **{"ready_s": 60, "stop_s": 10, **more}))

        yield start


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A server that is shared by tests that only ask: an echo in batches up to 4."""
    folder = tmp_path_factory.mktemp("plain")
    bundle = make_bundle(folder / "echo", batch_sizes=(1, 4), queue_bound=64)
    with Server([str(bundle), "--cache-dir", str(folder / "cache")], ready_s=60) as server:
        yield server


@pytest.fixture(scope="session")
def kit():
    """The helpers above, for tests to use."""
    return SimpleNamespace(make_bundle=make_bundle, rows=rows, expected=expected, Http=Http, until=until, Load=Load)
