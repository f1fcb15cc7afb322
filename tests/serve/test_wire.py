"""The protocol over gRPC, pure: against tritonclient's own stubs, and that no bytes raise anything but the tree."""

import contextlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2

from whet.errors import TensorError, TooLarge, WhetError
from whet.serve.arrays import from_raw
from whet.serve.messages import HEALTH, INFERENCE
from whet.serve.protocol import DEFAULT_PRIORITY, Question, Signature
from whet.serve.wire import Received, decode, encode, split
from whet.tensors import TensorSpec, datatype_of

ONE = Signature(
    (TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "BYTES", (-1,)))
)
LIMIT = 1 << 20
CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)


def question(message):
    return decode(Received(message.SerializeToString(), LIMIT), ONE)


def stock(**changes):
    """Return a request built with the client's own stubs."""
    message = service_pb2.ModelInferRequest(model_name="m", id="7")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    for name, value in changes.items():
        getattr(message, name).extend(value)
    return message


@pytest.mark.parametrize("name", INFERENCE)
def test_our_messages_are_those_of_the_published_protocol(name):
    nested = {
        "TensorMetadata": "ModelMetadataResponse.TensorMetadata",
        "InferInputTensor": "ModelInferRequest.InferInputTensor",
        "InferRequestedOutputTensor": "ModelInferRequest.InferRequestedOutputTensor",
        "InferOutputTensor": "ModelInferResponse.InferOutputTensor",
        "ModelIndex": "RepositoryIndexResponse.ModelIndex",
    }
    theirs = service_pb2.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{nested.get(name, name)}")
    ours = INFERENCE[name].DESCRIPTOR
    for field in ours.fields:
        other = theirs.fields_by_number[field.number]
        assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
        assert (field.containing_oneof is None) == (other.containing_oneof is None)
    if name != "ModelStatistics":
        assert len(ours.fields) == len(theirs.fields)


def test_health_has_the_published_numbers():
    assert HEALTH["HealthCheckResponse"](status=1).SerializeToString() == b"\x08\x01"
    assert HEALTH["HealthCheckRequest"].FromString(b"\x0a\x01m").service == "m"


def test_a_raw_tensor_is_a_view_of_the_message():
    values = np.array([[1, 2, 3]], np.float32)
    data = stock(raw_input_contents=[values.tobytes()]).SerializeToString()
    received = Received(data, LIMIT)
    array = decode(received, ONE).inputs["x"]
    np.testing.assert_array_equal(array, values)
    assert received.raws[0].obj is data
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


@given(st.sampled_from(sorted(CONTENTS)).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_typed_contents_give_the_array_back(array):
    message = service_pb2.ModelInferRequest()
    one = message.inputs.add(name="x", datatype=datatype_of(array.dtype), shape=array.shape)
    getattr(one.contents, CONTENTS[array.dtype.name]).extend(array.reshape(-1).tolist())
    back = question(message).inputs["x"]
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=6)))
def test_bytes_travel_typed(array):
    message = service_pb2.ModelInferRequest()
    one = message.inputs.add(name="x", datatype="BYTES", shape=array.shape)
    one.contents.bytes_contents.extend(array.reshape(-1).tolist())
    np.testing.assert_array_equal(question(message).inputs["x"], array)


def test_half_floats_travel_raw_only():
    values = np.array([[1, 2, 3]], ml_dtypes.bfloat16)
    message = stock(raw_input_contents=[values.tobytes()])
    message.inputs[0].datatype = "BF16"
    np.testing.assert_array_equal(question(message).inputs["x"], values)
    message.ClearField("raw_input_contents")
    with pytest.raises(TensorError, match="raw"):
        question(message)


def test_parameters_and_selection_are_read():
    message = stock(raw_input_contents=[bytes(12)])
    message.outputs.add(name="z")
    message.parameters["priority"].uint64_param = 2
    message.parameters["timeout"].int64_param = 5000
    message.parameters["note"].string_param = "x"
    asked = question(message)
    assert (asked.id, asked.wanted, asked.priority, asked.timeout_s) == ("7", {"z": True}, 1, 0.005)
    assert question(stock(raw_input_contents=[bytes(12)])).priority == DEFAULT_PRIORITY


def test_an_answer_reads_with_the_clients_own_stubs():
    outputs = {"y": np.array([[1.5, 2.5]], np.float32), "z": np.array([b"ab"], object)}
    asked = Question({}, "7", {"z": True, "y": True})
    answer = service_pb2.ModelInferResponse.FromString(b"".join(encode("m", "2", asked, outputs)))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "2", "7")
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("z", "BYTES", [1]),
        ("y", "FP32", [1, 2]),
    ]
    assert list(answer.raw_output_contents) == [b"\2\0\0\0ab", outputs["y"].tobytes()]


def _typed(message):
    message.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    return message


REFUSED = {
    "fewer raw contents than inputs": (lambda: _second(stock(raw_input_contents=[bytes(12)])), "in order"),
    "raw and typed": (lambda: _typed(stock(raw_input_contents=[bytes(12)])), "beside raw"),
    "too few bytes": (lambda: stock(raw_input_contents=[bytes(8)]), "8 bytes"),
    "too few values": (stock, "0 values"),
    "an input twice": (lambda: _second(stock(raw_input_contents=[bytes(12), bytes(12)]), "x"), "twice"),
    "a datatype nobody knows": (lambda: _datatype(stock(raw_input_contents=[bytes(12)]), "FP31"), "FP31"),
    "a value past its datatype": (lambda: _wide(stock()), "INT8"),
    "an output nobody has": (lambda: _output(stock(raw_input_contents=[bytes(12)]), "w"), "'w'"),
    "shared memory": (lambda: _shared(stock(raw_input_contents=[bytes(12)])), "shared_memory"),
}


def _second(message, name="w"):
    message.inputs.add(name=name, datatype="FP32", shape=[1, 3])
    return message


def _datatype(message, datatype):
    message.inputs[0].datatype = datatype
    return message


def _wide(message):
    message.inputs[0].datatype = "INT8"
    message.inputs[0].contents.int_contents.extend([1, 2, 300])
    return message


def _output(message, name):
    message.outputs.add(name=name)
    return message


def _shared(message):
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return message


@pytest.mark.parametrize(("build", "words"), REFUSED.values(), ids=REFUSED)
def test_a_request_that_does_not_fit_is_refused_and_named(build, words):
    with pytest.raises(TensorError, match=words):
        question(build())


@given(st.binary(max_size=60))
def test_any_bytes_raise_only_errors_of_the_tree(data):
    with contextlib.suppress(WhetError):
        decode(Received(data, LIMIT), ONE)


@given(st.data())
def test_a_damaged_message_raises_only_errors_of_the_tree(data):
    whole = bytearray(stock(raw_input_contents=[bytes(12)]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WhetError):
        decode(Received(bytes(whole[: data.draw(st.integers(0, len(whole)))]), LIMIT), ONE)


@given(st.lists(st.binary(max_size=300), max_size=4), st.text(max_size=5))
def test_cutting_raws_out_leaves_the_rest_of_the_message(raws, name):
    message = service_pb2.ModelInferRequest(model_name=name, raw_input_contents=raws)
    head, cut = split(message.SerializeToString(), 7)
    assert [bytes(raw) for raw in cut] == raws
    message.ClearField("raw_input_contents")
    assert service_pb2.ModelInferRequest.FromString(head) == message


def test_what_costs_time_on_the_loop_is_bounded():
    message = service_pb2.ModelInferRequest()
    message.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1.0] * 1000)
    with pytest.raises(TooLarge, match="raw"):
        Received(message.SerializeToString(), 1000)
    raw = stock(raw_input_contents=[bytes(5000)]).SerializeToString()
    assert len(Received(raw, 1000).raws[0]) == 5000
    with pytest.raises(TooLarge, match="fields"):
        split(b"\x08\x01" * 20_000, 7)
    with pytest.raises(TooLarge, match="BYTES"):
        from_raw("x", "BYTES", (1 << 20,), memoryview(bytes(8)))
