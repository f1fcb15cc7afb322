"""The protocol over HTTP, pure: round trips, every refusal, and that no bytes raise anything but the tree's errors."""

import contextlib
import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whet.errors import TensorError, TooLarge, WhetError
from whet.serve.arrays import elements, from_json, from_raw, to_json, to_raw
from whet.serve.protocol import DEFAULT_PRIORITY, Signature, decode, encode
from whet.tensors import TensorSpec, datatype_of

LIMIT = 1 << 20
ONE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),))
TWO = Signature(
    (TensorSpec("a", "INT64", (-1, 2)), TensorSpec("b", "BYTES", (-1, 1))),
    (TensorSpec("p", "FP32", (-1, 2)), TensorSpec("q", "FP16", (-1, 2))),
)
NUMERIC = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64"]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
ARRAYS = st.sampled_from(NUMERIC).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
TEXTS = hnp.arrays(object, SHAPES, elements=st.text(max_size=9).map(str.encode))


def finite(array):
    return array.dtype.kind != "f" or np.isfinite(array).all()


def ask(document, raw=b"", signature=ONE, *, sized=True):
    head = json.dumps(document).encode()
    return decode(memoryview(head + raw), len(head) if sized else None, signature, LIMIT)


def tensor(**changes):
    return {"name": "x", "datatype": "FP32", "shape": [1, 3], **changes}


@given(st.one_of(ARRAYS, hnp.arrays("float16", SHAPES), TEXTS))
def test_raw_bytes_give_the_array_back(array):
    back = from_raw("x", datatype_of(array.dtype), array.shape, memoryview(bytes(to_raw(array))))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert not back.flags.writeable


@given(st.one_of(ARRAYS.filter(finite), TEXTS), st.booleans())
def test_json_gives_the_array_back_nested_or_flat(array, nested):
    listed = array.tolist() if nested and array.dtype != object else to_json(array)
    back = from_json("x", datatype_of(array.dtype), array.shape, json.dumps(listed).encode())
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


def test_bfloat16_travels_raw():
    array = np.array([[1.5, -2.0]], dtype=ml_dtypes.bfloat16)
    back = from_raw("x", "BF16", (1, 2), memoryview(bytes(to_raw(array))))
    np.testing.assert_array_equal(back, array)


def test_a_raw_tensor_is_a_view_of_the_body():
    body = np.zeros(12, np.uint8)
    array = from_raw("x", "FP32", (1, 3), memoryview(body))
    body[:] = np.frombuffer(np.array([1, 2, 3], np.float32).tobytes(), np.uint8)
    np.testing.assert_array_equal(array, [[1, 2, 3]])


def test_a_contiguous_output_is_written_without_a_copy():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = to_raw(array)
    array[0, 0] = 7
    assert np.frombuffer(raw, np.float32)[0] == 7


def test_json_and_binary_inputs_mix():
    values = struct.pack("<2q", 5, 6)
    document = {
        "id": "42",
        "inputs": [
            {"name": "a", "datatype": "INT64", "shape": [1, 2], "parameters": {"binary_data_size": 16}},
            {"name": "b", "datatype": "BYTES", "shape": [1, 1], "data": ["hé"]},
        ],
        "outputs": [{"name": "q", "parameters": {"binary_data": True}}, {"name": "p"}],
        "parameters": {"priority": 1, "timeout": 2500},
    }
    question = ask(document, values, TWO)
    assert question.inputs["a"].tolist() == [[5, 6]]
    assert question.inputs["b"].tolist() == [["hé".encode()]]
    assert (question.id, question.wanted) == ("42", {"q": True, "p": False})
    assert (question.priority, question.timeout_s) == (0, 0.0025)


def test_what_is_not_said_has_defaults():
    question = ask({"inputs": [tensor(data=[1, 2, 3])]}, sized=False)
    assert (question.id, question.priority, question.timeout_s) == ("", DEFAULT_PRIORITY, None)
    assert question.wanted == {"y": False}
    assert ask({"inputs": [tensor(data=[1, 2, 3])], "parameters": {"binary_data_output": True}}).wanted == {"y": True}


def test_a_lone_tensor_may_leave_its_size_out():
    raw = np.array([1, 2, 3], np.float32).tobytes()
    assert ask({"inputs": [tensor()]}, raw).inputs["x"].tolist() == [[1, 2, 3]]


def test_a_raw_body_is_the_only_input_with_batch_one():
    body = memoryview(np.array([1, 2, 3], np.float32).tobytes())
    question = decode(body, 0, ONE, LIMIT)
    assert question.inputs["x"].tolist() == [[1, 2, 3]]
    assert question.wanted == {"y": True}
    words = Signature((TensorSpec("t", "BYTES", (-1, 1)),), ONE.outputs)
    assert decode(memoryview(b"jpeg"), 0, words, LIMIT).inputs["t"].tolist() == [[b"jpeg"]]
    free = Signature((TensorSpec("s", "INT16", (-1, -1, 2)),), ONE.outputs)
    assert decode(memoryview(bytes(12)), 0, free, LIMIT).inputs["s"].shape == (1, 3, 2)
    for signature in (TWO, Signature((TensorSpec("s", "INT16", (-1, -1, -1)),), ())):
        with pytest.raises(TensorError, match="raw body"):
            decode(body, 0, signature, LIMIT)


def test_an_answer_carries_its_raw_tensors_behind_the_json():
    question = ask({"id": "7", "inputs": [tensor(data=[1, 2, 3])], "parameters": {"binary_data_output": True}})
    outputs = {"y": np.array([[1.5, 2.5]], np.float32)}
    buffers, length = encode("m", "3", question, outputs)
    body = b"".join(buffers)
    assert json.loads(body[:length]) == {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
    }
    assert body[length:] == outputs["y"].tobytes()
    question.wanted = {"y": False}
    buffers, length = encode("m", "3", question, outputs)
    assert length is None
    assert json.loads(b"".join(buffers))["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}
    ]


def test_nan_in_an_answer_is_null_as_json_has_no_other_word():
    question = ask({"inputs": [tensor(data=[1, 2, 3])]})
    buffers, _ = encode("m", "1", question, {"y": np.array([[np.nan, np.inf]], np.float32)})
    assert json.loads(b"".join(buffers))["outputs"][0]["data"] == [None, None]


REFUSED = {
    "no inputs": ({}, b"", "inputs"),
    "inputs are no list": ({"inputs": 3}, b"", "inputs"),
    "a datatype nobody knows": ({"inputs": [tensor(datatype="FP31", data=[1])]}, b"", "FP31"),
    "a value past its datatype": ({"inputs": [tensor(datatype="UINT8", data=[1, 2, 300])]}, b"", "UINT8"),
    "a fraction in an integer": ({"inputs": [tensor(datatype="INT32", data=[1, 2, 0.5])]}, b"", "INT32"),
    "a float past FP32": ({"inputs": [tensor(data=[1, 2, 1e300])]}, b"", "FP32"),
    "a text in a number": ({"inputs": [tensor(data=[1, 2, "3"])]}, b"", "FP32"),
    "null among the data": ({"inputs": [tensor(data=[1, 2, None])]}, b"", "FP32"),
    "data that is no list": ({"inputs": [tensor(data=1)]}, b"", "FP32"),
    "too few values": ({"inputs": [tensor(data=[1, 2])]}, b"", r"\[1, 3\]"),
    "another nesting": ({"inputs": [tensor(data=[[1], [2], [3]])]}, b"", r"\[3, 1\]"),
    "ragged rows": ({"inputs": [tensor(shape=[2, 2], data=[[1, 2], [3]])]}, b"", "FP32"),
    "a negative size": ({"inputs": [tensor(shape=[-1, 3], data=[1, 2, 3])]}, b"", "none negative"),
    "a huge shape": ({"inputs": [tensor(shape=[0, 1 << 62], data=[])]}, b"", "past any"),
    "many dimensions": ({"inputs": [tensor(shape=[1] * 99, data=[1])]}, b"", "99 dimensions"),
    "half floats in JSON": ({"inputs": [tensor(datatype="FP16", data=[1, 2, 3])]}, b"", "binary"),
    "a tensor twice": ({"inputs": [tensor(data=[1, 2, 3]), tensor(data=[1, 2, 3])]}, b"", "twice"),
    "data and a size": (
        {"inputs": [tensor(data=[1, 2, 3], parameters={"binary_data_size": 12})]},
        bytes(12),
        "one of them",
    ),
    "a size past the body": ({"inputs": [tensor(parameters={"binary_data_size": 12})]}, bytes(8), "12 bytes"),
    "a size that is no number": ({"inputs": [tensor(parameters={"binary_data_size": "x"})]}, bytes(12), "number"),
    "a negative size of bytes": ({"inputs": [tensor(parameters={"binary_data_size": -1})]}, bytes(12), "number"),
    "bytes left over": ({"inputs": [tensor(parameters={"binary_data_size": 12})]}, bytes(13), "follow"),
    "neither data nor size": ({"inputs": [tensor(), tensor(name="z")]}, bytes(24), "neither"),
    "an output nobody has": ({"inputs": [tensor(data=[1, 2, 3])], "outputs": [{"name": "z"}]}, b"", "'z'"),
    "an output twice": ({"inputs": [tensor(data=[1, 2, 3])], "outputs": [{"name": "y"}] * 2}, b"", "twice"),
    "classification": (
        {"inputs": [tensor(data=[1, 2, 3])], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        b"",
        "classification",
    ),
    "shared memory": ({"inputs": [tensor(parameters={"shared_memory_region": "r"})]}, b"", "shared_memory"),
    "a priority that is no number": ({"inputs": [], "parameters": {"priority": "high"}}, b"", "priority"),
    "a timeout that is no number": ({"inputs": [], "parameters": {"timeout": -4}}, b"", "timeout"),
}


@pytest.mark.parametrize(("document", "raw", "words"), REFUSED.values(), ids=REFUSED)
def test_a_request_that_does_not_fit_is_refused_and_named(document, raw, words):
    with pytest.raises(TensorError, match=words):
        ask(document, raw)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x01\0\0", b"\xff\xff\xff\xffab", struct.pack("<I", 2) + b"abc", struct.pack("<I", 9) + b"abc"],
    ids=["nothing", "half a length", "a length past the body", "bytes left over", "an element cut off"],
)
def test_damaged_bytes_elements_are_refused(raw):
    with pytest.raises(TensorError, match="x"):
        from_raw("x", "BYTES", (1,), memoryview(raw))


def test_bytes_that_are_no_bool_are_refused():
    with pytest.raises(TensorError, match="BOOL"):
        from_raw("x", "BOOL", (3,), memoryview(b"\0\1\2"))


@pytest.mark.parametrize("text", [b"", b"{", b"[1", b"nan", b'{"inputs": [NaN]}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(TensorError):
        decode(memoryview(text), None, ONE, LIMIT)


def test_nan_in_the_data_is_refused():
    text = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[NaN,1,2]}]}'
    with pytest.raises(TensorError):
        decode(memoryview(text), None, ONE, LIMIT)


def test_a_header_that_lies_about_the_json_is_refused():
    for length in (-5, 99):
        with pytest.raises(TensorError, match=str(length)):
            decode(memoryview(b"{}"), length, ONE, LIMIT)


def test_json_is_bounded_and_raw_tensors_are_not():
    document = {"inputs": [tensor(shape=[100, 3], parameters={"binary_data_size": 1200})]}
    head = json.dumps(document).encode()
    assert decode(memoryview(head + bytes(1200)), len(head), ONE, 200).inputs["x"].shape == (100, 3)
    with pytest.raises(TooLarge, match="200"):
        decode(memoryview(head + bytes(1200)), None, ONE, 200)


def test_an_output_json_cannot_carry_is_refused_before_anything_is_computed():
    inputs = [
        {"name": "a", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]},
        {"name": "b", "datatype": "BYTES", "shape": [1, 1], "data": ["x"]},
    ]
    with pytest.raises(TensorError, match="FP16"):
        ask({"inputs": inputs}, signature=TWO)
    assert ask({"inputs": inputs, "outputs": [{"name": "p"}]}, signature=TWO).wanted == {"p": False}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["x", "a", "b"]),
                    "datatype": st.sampled_from(["FP32", "BYTES", "BOOL", "no"]),
                },
                optional={
                    "shape": st.lists(st.integers(-2, 2**70), max_size=3) | VALUES,
                    "data": VALUES,
                    "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "other"]), VALUES, max_size=2),
                },
            ),
            max_size=3,
        )
    },
    optional={"id": VALUES, "parameters": VALUES, "outputs": VALUES},
)


@given(st.binary(max_size=64), st.none() | st.integers(-3, 70), st.sampled_from([ONE, TWO]))
@example(b"", 0, ONE)
def test_any_bytes_raise_only_errors_of_the_tree(body, length, signature):
    with contextlib.suppress(WhetError):
        decode(memoryview(body), length, signature, LIMIT)


@given(NEARLY, st.binary(max_size=32), st.sampled_from([ONE, TWO]))
def test_any_request_raises_only_errors_of_the_tree(document, raw, signature):
    try:
        question = ask(document, raw, signature)
    except WhetError:
        return
    assert all(elements("x", array.shape) == array.size for array in question.inputs.values())
