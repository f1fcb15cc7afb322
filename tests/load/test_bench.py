"""``bench`` end to end: addresses, samples, the document and its rows."""

import asyncio
import json

import msgspec
import numpy as np
import pytest

from whet.errors import DataError, InputError, NotFound, Unreachable, UsageError, WrongAnswer
from whet.load.address import Address
from whet.load.bench import BenchRequest, bench
from whet.load.rows import latency_rows, summary_rows
from whet.load.samples import from_file, synthesise
from whet.tensors import TensorSpec


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h:1/models/n", "/v2/models/n"),
        ("http://h:1/v2/models/n/", "/v2/models/n"),
        ("http://h:1/v2/models/n/infer", "/v2/models/n"),
        ("http://h:1/v2/models/n/versions/3/infer", "/v2/models/n/versions/3"),
        ("https://h/models/a%2Fb", "/v2/models/a%2Fb"),
        ("grpc://h:1/n", "/v2/models/n"),
        ("grpc://h:1/n/versions/7", "/v2/models/n/versions/7"),
        ("http://h:1", "/v2"),
        ("http://h:1/v2", "/v2"),
    ],
)
def test_addresses_are_read_in_every_form(url, path):
    assert Address.parse(url).path == path


def test_addresses_know_their_defaults():
    assert [Address.parse(url).port for url in ("http://h", "https://h", "grpc://h", "grpc://h:5")] == [
        8000,
        443,
        8001,
        5,
    ]
    assert Address.parse("http://[::1]:9/models/n").authority == "[::1]:9"
    assert Address.parse("grpcs://h/n").url == "grpcs://h:8001/n"
    assert Address.parse("http://h/v2/models/a%2Fb").url == "http://h:8000/models/a%2Fb"


@pytest.mark.parametrize("url", ["h:1/n", "ftp://h/n", "http:///models/n", "http://h/model/n", "http://h/models/n/x/y",
                                 "grpc://h/a/b", "http://h:x/models/n", "http://h:99999/models/n"])  # fmt: skip
def test_other_addresses_are_refused_with_the_forms_that_are_known(url):
    with pytest.raises(UsageError, match="grpc://HOST:PORT/NAME"):
        Address.parse(url)


def measure(server, path="/models/double", options=None, **request):
    async def story():
        async with server(**(options or {})) as behaviour:
            request.setdefault("warmup_s", 0.0)
            request.setdefault("duration_s", 0.3)
            return await bench(behaviour.url + path, BenchRequest(**request)), behaviour

    return asyncio.run(story())


def test_every_scenario_gives_one_document(http_server):
    for scenario, extra in (("single-stream", {}), ("multi-stream", {}), ("server", {"qps": 80.0}), ("offline", {})):
        document, behaviour = measure(http_server, scenario=scenario, **extra)
        assert msgspec.json.decode(msgspec.json.encode(document)) == json.loads(json.dumps(document))
        result = document["result"]
        assert result["scenario"] == scenario
        assert result["requests"]["answered"] == behaviour.requests > 0
        assert result["errors"] == {}
        assert set(behaviour.rows) == {8 if scenario == "multi-stream" else 1}
        assert len(behaviour.inputs) > 1
        assert behaviour.most_at_once == {"server": behaviour.most_at_once, "offline": 16}.get(scenario, 1)
        assert bool(latency_rows(document)) == (scenario != "offline")
        assert dict(summary_rows(document))["scenario"].startswith(scenario)


def test_grpc_gives_the_same_document(grpc_server, http_server):
    found, behaviour = measure(grpc_server, "/double", scenario="closed", callers=2, rows=3)
    other, _ = measure(http_server, scenario="closed", callers=2, rows=3)
    assert found.keys() == other.keys()
    assert found["result"].keys() == other["result"].keys()
    assert found["model"] == other["model"]
    assert found["result"]["rows"] == 3 * behaviour.requests


def test_rows_say_what_the_document_holds(http_server):
    document, _ = measure(http_server, options={"status": 429}, scenario="closed", max_requests=5)
    rows = dict(summary_rows(document))
    assert rows["failed: queue-full"] == "5"
    assert rows["requests"].startswith("0 answered, 5 failed")
    assert latency_rows(document)[0] == ("p50", "not enough data", "0 of 11 samples", "")
    document, _ = measure(http_server, scenario="closed", max_requests=100)
    p90 = document["result"]["latency_ms"]["p90"]
    assert latency_rows(document)[1][:2] == ("p90", f"{p90['value']:.2f} ms")
    assert latency_rows(document)[3][1:3] == ("not enough data", "100 of 662 samples")


def test_a_model_that_is_not_there_is_named(http_server, grpc_server):
    for server, path in ((http_server, "/models/other"), (grpc_server, "/other")):
        with pytest.raises(NotFound, match="no such model"):
            measure(server, path)
    with pytest.raises(UsageError, match="names no model; add it"):
        measure(http_server, "/v2")


def test_nobody_there_is_said_at_once():
    for url in ("http://127.0.0.1:1/models/n", "grpc://127.0.0.1:1/n"):
        with pytest.raises(Unreachable):
            asyncio.run(bench(url, BenchRequest()))


def metadata(*shape, datatype="FP32"):
    return {"metadata": {"name": "double", "inputs": [{"name": "x", "datatype": datatype, "shape": list(shape)}]}}


def test_what_cannot_be_sent_is_refused(http_server):
    with pytest.raises(DataError, match="BYTES, which cannot be made up"):
        measure(http_server, options=metadata(-1, datatype="BYTES"))
    with pytest.raises(DataError, match="free dimensions"):
        measure(http_server, options=metadata(-1, -1))
    with pytest.raises(UsageError, match="no batch axis"):
        measure(http_server, options=metadata(2, 3), scenario="multi-stream")
    with pytest.raises(WrongAnswer, match="metadata"):
        measure(http_server, options={"metadata": {"inputs": [{"name": "x"}]}})
    with pytest.raises(WrongAnswer, match="names no input"):
        measure(http_server, options={"metadata": {"inputs": []}})
    document, behaviour = measure(http_server, options=metadata(-1, -1), shapes={"x": (2, 3)}, max_requests=3)
    assert behaviour.rows == [2, 2, 2]
    assert document["result"]["rows"] == 6


def test_data_of_a_file_is_what_is_sent(http_server, tmp_path):
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "d.npz", x=data)
    _, behaviour = measure(http_server, data=tmp_path / "d.npz", rows=2, scenario="closed", max_requests=30)
    assert behaviour.inputs == {data[:2].tobytes(), data[2:].tobytes()}


SPEC = TensorSpec("x", "FP32", (-1, 3))


def test_made_up_samples_fit_their_specs_and_repeat():
    specs = [SPEC, TensorSpec("image", "UINT8", (-1, 8, 8, 3)), TensorSpec("ids", "INT64", (-1, 16)),
             TensorSpec("flag", "BOOL", (-1, 1)), TensorSpec("h", "BF16", (-1, 2))]  # fmt: skip
    found = synthesise(specs, rows=2, seed=9)
    again = synthesise(specs, rows=2, seed=9)
    assert len(found) == 64
    for spec in specs:
        assert found[0][spec.name].dtype == spec.dtype
        assert found[0][spec.name].shape == spec.with_batch(2)
        assert np.array_equal(found[5][spec.name], again[5][spec.name])
    assert not np.array_equal(found[0]["x"], found[1]["x"])
    assert {int(value) for request in found for value in request["ids"].ravel()} == {0, 1}
    assert len(synthesise([TensorSpec("big", "FP32", (-1, 3000, 3000))])) < 10


def test_a_file_that_does_not_fit_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "d.npz"
    for arrays, words in (
        ({"y": np.zeros((4, 3))}, "name arrays as the inputs"),
        ({"x": np.zeros((4, 3))}, "datatype FP64"),
        ({"x": np.zeros((4, 5), np.float32)}, "shape"),
        ({"x": np.zeros((1, 3), np.float32)}, "needs 2"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=words):
            from_file(path, [SPEC], rows=2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot read"):
        from_file(path, [SPEC])
    path.write_bytes(b"no file of arrays")
    with pytest.raises(DataError, match="cannot read"):
        from_file(path, [SPEC])
    with pytest.raises(DataError, match="cannot read"):
        from_file(tmp_path / "absent.npz", [SPEC])
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="cannot read"):  # a pickle is not opened
        from_file(tmp_path / "o.npy", [SPEC])


def test_a_model_without_a_batch_axis_gets_one_sample_a_request(tmp_path):
    np.save(tmp_path / "d.npy", np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    fixed = [TensorSpec("x", "FP32", (2, 3))]
    found = from_file(tmp_path / "d.npy", fixed)
    assert [request["x"].tolist() for request in found] == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    with pytest.raises(DataError, match="no batch axis"):
        from_file(tmp_path / "d.npy", fixed, rows=2)


def test_texts_of_a_file_become_bytes(tmp_path):
    np.save(tmp_path / "d.npy", np.array(["ä", "bcd"]))
    assert from_file(tmp_path / "d.npy", [TensorSpec("t", "BYTES", (-1,))])[0]["t"].tolist() == ["ä".encode()]
