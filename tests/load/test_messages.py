"""What the client writes, read by others' code; and what it reads, however broken."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from whet.errors import WrongAnswer
from whet.load import messages
from whet.tensors import datatype_of

arrays = hnp.arrays(
    st.sampled_from([np.uint8, np.int64, np.float32, np.float16, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, max_side=4),
)


@given(st.dictionaries(st.text(min_size=1, max_size=20), arrays, min_size=1, max_size=3), st.text(max_size=200))
def test_grpc_requests_are_what_protobuf_reads(tensors, version):
    request = pb.ModelInferRequest.FromString(messages.grpc_infer("modèl", version, tensors))
    assert (request.model_name, request.model_version) == ("modèl", version)
    assert [tensor.name for tensor in request.inputs] == list(tensors)
    for tensor, raw, array in zip(request.inputs, request.raw_input_contents, tensors.values(), strict=True):
        assert tensor.datatype == datatype_of(array.dtype)
        assert list(tensor.shape) == list(array.shape)
        assert raw == array.tobytes()


@given(st.dictionaries(st.text(max_size=20), arrays, max_size=3))
def test_grpc_answers_of_protobuf_are_read(outputs):
    answer = pb.ModelInferResponse(model_name="m", id="x")
    answer.parameters["p"].double_param = 2.5  # a fixed64 field within a field that is skipped
    for name, array in outputs.items():
        answer.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        answer.raw_output_contents.append(array.tobytes())
    found = messages.grpc_outputs(answer.SerializeToString())
    assert found.keys() == outputs.keys()
    for name, array in outputs.items():
        np.testing.assert_array_equal(found[name], array)


def test_grpc_metadata_is_read_with_free_dimensions():
    tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 3, 224])
    answer = pb.ModelMetadataResponse(name="m", versions=["1", "2"], platform="p", inputs=[tensor], outputs=[tensor])
    spec = {"name": "x", "datatype": "FP32", "shape": [-1, 3, 224]}
    assert messages.grpc_metadata(answer.SerializeToString()) == {
        "name": "m", "versions": ["1", "2"], "platform": "p", "inputs": [spec], "outputs": [spec],
    }  # fmt: skip


@given(st.binary(max_size=80))
def test_garbage_over_grpc_is_a_wrong_answer_and_nothing_else(garbage):
    for read in (messages.grpc_outputs, messages.grpc_metadata):
        with contextlib.suppress(WrongAnswer):
            read(garbage)


@given(st.binary(max_size=80), st.one_of(st.none(), st.integers(-5, 100)))
def test_garbage_over_http_is_a_wrong_answer_and_nothing_else(garbage, length):
    with pytest.raises(WrongAnswer):
        messages.http_outputs(garbage, length)


@pytest.mark.parametrize(
    "head",
    [
        {"outputs": [{"name": "y"}]},
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 4}}]},
        {"outputs": [{"name": "y", "datatype": "FP31", "shape": [1], "parameters": {"binary_data_size": 4}}]},
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1, "a"]}]},
        {"outputs": 3},
        [],
    ],
)
def test_answers_against_the_protocol_are_wrong(head):
    text = json.dumps(head).encode()
    with pytest.raises(WrongAnswer, match="protocol"):
        messages.http_outputs(text + b"\0" * 4, len(text))


@given(st.dictionaries(st.text(min_size=1, max_size=20), arrays, min_size=1, max_size=3))
def test_http_requests_hold_json_and_then_the_raw_tensors_in_order(tensors):
    body, length = messages.http_infer(tensors)
    head, rest = json.loads(body[:length]), body[length:]
    assert head["parameters"] == {"binary_data_output": True}
    for tensor, (name, array) in zip(head["inputs"], tensors.items(), strict=True):
        size = tensor["parameters"]["binary_data_size"]
        assert (tensor["name"], tensor["shape"]) == (name, list(array.shape))
        assert rest[:size] == array.tobytes()
        rest = rest[size:]
    assert rest == b""


@given(st.lists(st.binary(max_size=10), max_size=5))
def test_bytes_elements_travel_as_triton_writes_them(elements):
    array = np.array(elements, dtype=object)
    assert messages.to_raw(array) == (serialize_byte_tensor(array).item() if elements else b"")
    assert messages.from_raw(messages.to_raw(array), "BYTES", [len(elements)]).tolist() == elements
    assert list(deserialize_bytes_tensor(messages.to_raw(array))) == elements


@pytest.mark.parametrize("raw", [b"\1\0", struct.pack("<I", 5) + b"abc"])
def test_a_bytes_tensor_cut_short_is_refused(raw):
    with pytest.raises(ValueError, match="ends within"):
        messages.from_raw(raw, "BYTES", [1])


def test_answers_are_compared_by_name_shape_and_value():
    right = {"y": np.array([[1.0, np.nan]], np.float32)}
    assert messages.same({"y": np.array([[1.000001, np.nan]]), "more": np.ones(1)}, right, 1e-5) == ""
    assert "missing" in messages.same({"z": np.ones(1)}, right, 1e-5)
    assert "shape [2]" in messages.same({"y": np.ones(2)}, right, 1e-5)
    assert "by up to 0.5" in messages.same({"y": np.array([[1.5]])}, {"y": np.array([[1.0]])}, 1e-5)
    names = {"label": np.array([b"cat"], object)}
    assert messages.same(names, names, 0) == ""
    assert "differs" in messages.same({"label": np.array([b"dog"], object)}, names, 0)
