"""Stock clients get right answers, over both transports; what is wrong is refused in words; all of it is counted."""

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from whet.serve.messages import HEALTH
from whet.serve.metrics import METRICS


@pytest.fixture(scope="module")
def http(plain):
    with tritonclient.http.InferenceServerClient(plain.http.removeprefix("http://"), concurrency=4) as client:
        yield client


@pytest.fixture(scope="module")
def rpc(plain):
    with tritonclient.grpc.InferenceServerClient(plain.grpc.removeprefix("grpc://")) as client:
        yield client


def ask(module, client, x, *, binary=True, outputs=True, **more):
    """Infer with tritonclient's ``http`` or ``grpc`` module."""
    one = module.InferInput("x", list(x.shape), "UINT8")
    if module is tritonclient.http:
        one.set_data_from_numpy(x, binary_data=binary)
        wanted = [module.InferRequestedOutput("y", binary_data=binary)]
    else:
        one.set_data_from_numpy(x)
        wanted = [module.InferRequestedOutput("y")]
    return client.infer("echo", [one], outputs=wanted if outputs else None, **more)


CASES = {
    "HTTP, binary": (tritonclient.http, {}),
    "HTTP, JSON": (tritonclient.http, {"binary": False}),
    "HTTP, everything": (tritonclient.http, {"outputs": False}),
    "HTTP, compressed": (tritonclient.http, {"request_compression_algorithm": "gzip"}),
    "HTTP, deflated": (tritonclient.http, {"request_compression_algorithm": "deflate"}),
    "gRPC": (tritonclient.grpc, {}),
    "gRPC, everything": (tritonclient.grpc, {"outputs": False}),
    "gRPC, compressed": (tritonclient.grpc, {"compression_algorithm": "gzip"}),
}


@pytest.mark.parametrize("batch", [1, 3, 4, 9])
@pytest.mark.parametrize(("module", "more"), CASES.values(), ids=CASES)
def test_an_inference_is_answered_rightly(kit, http, rpc, module, more, batch):
    x = kit.rows(*range(5, 5 + batch))
    answer = ask(module, http if module is tritonclient.http else rpc, x, request_id="abc", **more)
    np.testing.assert_array_equal(answer.as_numpy("y"), kit.expected(x))
    response = answer.get_response()
    named = response if isinstance(response, dict) else {"id": response.id, "model_name": response.model_name}
    assert (named["id"], named["model_name"]) == ("abc", "echo")


def test_answers_say_how_long_each_stage_took(kit, plain):
    _, headers, _ = kit.Http(plain.http).infer(kit.rows(1))
    stages = dict(part.strip().split(";dur=") for part in headers["Server-Timing"].split(","))
    assert list(stages) == ["decode", "queue", "compute"]
    assert all(float(value) >= 0 for value in stages.values())


@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.grpc], ids=["HTTP", "gRPC"])
def test_the_server_describes_itself(http, rpc, module):
    client = http if module is tritonclient.http else rpc
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "1")
    document = client.get_model_metadata("echo") if module is tritonclient.http else None
    if document is None:
        document = client.get_model_metadata("echo", as_json=True)
    assert document["name"] == "echo"
    assert document["versions"] == ["1"]
    (one,) = document["inputs"]
    assert (one["name"], one["datatype"], [int(size) for size in one["shape"]]) == ("x", "UINT8", [-1, 6])
    server = client.get_server_metadata() if module is tritonclient.http else client.get_server_metadata(as_json=True)
    assert server["name"] == "whet"
    assert "binary_tensor_data" in server["extensions"]
    index = client.get_model_repository_index()
    assert "READY" in str(index)


def test_the_standard_health_service_answers(plain):
    with grpc.insecure_channel(plain.grpc.removeprefix("grpc://")) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            lambda message: message.SerializeToString(),
            HEALTH["HealthCheckResponse"].FromString,
        )
        for service in ("", "echo", "inference.GRPCInferenceService"):
            assert check(HEALTH["HealthCheckRequest"](service=service)).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            check(HEALTH["HealthCheckRequest"](service="nobody"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


WRONG = {
    "another width": ((1, 5), "UINT8", "NOTHING", "400", "INVALID_ARGUMENT", "shape"),
    "another datatype": ((1, 6), "INT8", "NOTHING", "400", "INVALID_ARGUMENT", "INT8"),
    "no rows": ((0, 6), "UINT8", "NOTHING", "400", "INVALID_ARGUMENT", "batch 0"),
    "another rank": ((6,), "UINT8", "NOTHING", "400", "INVALID_ARGUMENT", "shape"),
    "a model nobody has": ((1, 6), "UINT8", "nobody", "404", "NOT_FOUND", "nobody"),
    "a name that climbs": ((1, 6), "UINT8", "../../etc", "404", "NOT_FOUND", "etc"),
}


@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.grpc], ids=["HTTP", "gRPC"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_in_words(http, rpc, module, wrong):
    shape, datatype, model, http_code, rpc_code, words = wrong
    one = module.InferInput("x", list(shape), datatype)
    one.set_data_from_numpy(np.zeros(shape, np.uint8 if datatype == "UINT8" else np.int8))
    client, code = (http, http_code) if module is tritonclient.http else (rpc, f"StatusCode.{rpc_code}")
    with pytest.raises(InferenceServerException) as caught:
        client.infer("echo" if model == "NOTHING" else model.replace("/", "%2F"), [one])
    assert caught.value.status() == code
    assert words in caught.value.message()


def test_a_version_nobody_has_is_not_found(kit, http, rpc, plain):
    with pytest.raises(InferenceServerException, match="unknown"):
        rpc.is_model_ready("echo", "9")
    assert kit.Http(plain.http).json("GET", "/v2/models/echo/versions/9")[0] == 404
    assert not http.is_model_ready("echo", "9")


BROKEN = {
    "no JSON": (b"{", {}, 400),
    "NaN in JSON": (
        b'{"inputs":[{"name":"x","datatype":"UINT8","shape":[1,6],"data":[NaN,1,2,3,4,5]}]}',
        {},
        400,
    ),
    "deep JSON": (b"[" * 200_000, {}, 400),
    "a header length past the body": (b"{}", {"Inference-Header-Content-Length": "99"}, 400),
    "a header length that is no number": (b"{}", {"Inference-Header-Content-Length": "-1"}, 400),
    "nothing": (b"", {}, 400),
    "a raw body of the wrong size": (bytes(5), {"Inference-Header-Content-Length": "0"}, 400),
    "a content coding nobody knows": (b"{}", {"Content-Encoding": "br"}, 415),
    "gzip that is none": (b"{}", {"Content-Encoding": "gzip"}, 400),
}


@pytest.mark.parametrize(("body", "headers", "status"), BROKEN.values(), ids=BROKEN)
def test_a_broken_request_is_answered_in_json(kit, plain, body, headers, status):
    client = kit.Http(plain.http)
    got, _, answer = client.ask("POST", "/v2/models/echo/infer", body, headers)
    assert got == status
    assert answer.startswith(b'{"error":"')
    assert b"Traceback" not in answer
    assert client.infer(kit.rows(3))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/v2/health/live", 200),
        ("GET", "/v2/", 200),
        ("GET", "/models/echo", 200),
        ("GET", "/models/%65cho?x=1", 200),
        ("GET", "/models/nobody", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/echo/versions/1/nowhere", 404),
        ("GET", "/v2/models/%ff/ready", 404),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/models/echo/infer", 405),
        ("DELETE", "/metrics", 405),
        ("POST", "/v2/repository/models/echo/unload", 403),
        ("GET", "/v2/models/nobody/stats", 404),
    ],
)
def test_paths_lead_where_they_should(kit, plain, method, path, status):
    got, headers, body = kit.Http(plain.http).ask(method, path)
    assert got == status
    assert status != 405 or headers["Allow"]
    assert method == "HEAD" or status == 200 or b'"error"' in body


def test_a_description_says_which_plan_runs_and_why(kit, plain):
    _, document = kit.Http(plain.http).json("GET", "/models/echo")
    assert document["plan"]["words"].startswith("fake, f32")
    assert "host" in document["plan"]["why"]
    assert document["effective"]["streams"] >= 1


def test_everything_is_counted(kit, plain, http, rpc):
    client = kit.Http(plain.http)

    def counted(transport, code, model="echo"):
        return client.metric("whet_requests_total", model=model, transport=transport, code=code)

    before = {key: counted(*key) for key in (("http", "ok"), ("grpc", "ok"), ("http", "bad-tensor"))}
    unknown, samples = counted("http", "not-found", ""), client.metric("whet_samples_total")
    stats = http.get_inference_statistics("echo")["model_stats"][0]
    for _ in range(3):
        ask(tritonclient.http, http, kit.rows(1, 2))
        ask(tritonclient.grpc, rpc, kit.rows(1))
    client.ask("POST", "/v2/models/echo/infer", b"{")
    client.ask("POST", "/v2/models/nobody/infer", b"{")
    for key, more in ((("http", "ok"), 3), (("grpc", "ok"), 3), (("http", "bad-tensor"), 1)):
        assert counted(*key) == before[key] + more
    assert counted("http", "not-found", "") == unknown + 1
    assert client.metric("whet_samples_total") == samples + 9
    after = http.get_inference_statistics("echo")["model_stats"][0]
    assert after["inference_count"] == stats["inference_count"] + 9
    assert after["inference_stats"]["success"]["count"] == stats["inference_stats"]["success"]["count"] + 6
    assert after["inference_stats"]["fail"]["count"] == stats["inference_stats"]["fail"]["count"] + 1
    assert after["inference_stats"]["queue"]["count"] == after["inference_stats"]["success"]["count"]
    assert after["last_inference"] > 1_700_000_000_000
    over_grpc = rpc.get_inference_statistics("echo").model_stats[0]
    assert over_grpc.inference_count == after["inference_count"]


def test_every_metric_that_is_scraped_is_in_the_table_and_histograms_add_up(kit, plain):
    samples = kit.Http(plain.http).metrics()
    names = {name.partition("{")[0] for name in samples}
    families = {METRICS.get(name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")) for name in names}
    assert None not in families - {METRICS.get(name) for name in names}
    assert (
        samples['whet_queue_seconds_bucket{model="echo",version="1",le="+Inf"}']
        == (samples['whet_queue_seconds_count{model="echo",version="1"}'])
    )
    assert samples["whet_ready"] == 1
    assert samples['whet_process_rss_bytes{worker="0"}'] > 1e6


def test_a_deadline_that_is_over_is_told(kit, serve, tmp_path):
    server = serve(kit.make_bundle(tmp_path / "slow", options={"base_us": "300000"}.items(), streams=1))
    client = kit.Http(server.http)
    assert client.infer(kit.rows(1))[0] == 200
    status, _, document = client.infer(kit.rows(1), timeout=50_000)
    assert (status, "deadline" in document["error"]) == (504, True)
    with tritonclient.grpc.InferenceServerClient(server.grpc.removeprefix("grpc://")) as rpc:
        with pytest.raises(InferenceServerException) as caught:
            ask(tritonclient.grpc, rpc, kit.rows(1), client_timeout=0.05)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        np.testing.assert_array_equal(ask(tritonclient.grpc, rpc, kit.rows(4)).as_numpy("y"), [[4, 1, 2]])
