"""MXNet's two files: every version and type of array, every way to write a parameter, damage that is named."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from whet.errors import ModelError, Unsupported, UsageError
from whet.models.importers import mxnet
from whet.models.importers.base import Options
from whet.models.importers.mxnet.ndarray import parse_params
from whet.models.importers.mxnet.symbol import parse_symbol

TYPES = {
    **dict(enumerate((np.float32, np.float64, np.float16, np.uint8, np.int32, np.int8, np.int64, np.bool_))),
    12: ml_dtypes.bfloat16,
}
MAGIC = {1: 0xF993FAC8, 2: 0xF993FAC9, 3: 0xF993FACA}


def one(array, kind, version, storage=0):
    head = struct.pack("<I", MAGIC[version]) if version else b""
    head += struct.pack("<i", storage) if version >= 2 else b""
    head += struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}{'q' if version else 'I'}", *array.shape)
    return head + (struct.pack("<iii", 1, 0, kind) + array.tobytes() if array.ndim or version == 3 else b"")


def listed(arrays, names=()):
    out = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names))
    return memoryview(out + b"".join(struct.pack("<Q", len(name)) + name for name in names))


@pytest.mark.parametrize("version", range(4))
@pytest.mark.parametrize("kind", TYPES)
def test_every_version_and_type_is_read(version, kind):
    array = (np.arange(6).reshape(2, 3) % 2).astype(TYPES[kind])
    params = parse_params(listed([one(array, kind, version)] * 2, [b"arg:w", b"aux:m"]), "'f'")
    assert list(params) == ["w", "m"]
    np.testing.assert_array_equal(params["m"].astype(np.float32), array.astype(np.float32))


def test_arrays_without_names_are_numbered_and_a_scalar_is_one_number():
    params = parse_params(listed([one(np.float32(7).reshape(()), 0, 3), struct.pack("<I", 0)]), "'f'")
    assert params["0"] == 7
    assert params["1"].size == 0


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (listed([one(np.ones(2, np.float32), 0, 2, storage=1)]), Unsupported, "array 0 is sparse"),
        (listed([one(np.ones(2, np.float32), 99, 2)]), Unsupported, "number type 99"),
        (listed([one(np.ones(2, np.float32), 0, 2)])[:40], ModelError, "truncated"),
        (listed([struct.pack("<IiIqq", MAGIC[2], 0, 2, 10**6, 10**6)]), ModelError, "claims a tensor"),
        (listed([struct.pack("<I", 50) * 60]), ModelError, "50 axes"),
        (memoryview(struct.pack("<QQQ", 0x112, 0, 1 << 60)), ModelError, "truncated"),
        (memoryview(struct.pack("<QQQ", 0x113, 0, 0)), ModelError, "no MXNet .params"),
        (listed([one(np.ones(2, np.float32), 0, 2)] * 2, [b"a"]), ModelError, "2 arrays but 1 names"),
    ],
)
def test_damage_is_named(data, error, said):
    with pytest.raises(error, match=said):
        parse_params(data, "'f'")


def symbol(op, inputs=1, style="attrs", **attributes):
    nodes = [{"op": "null", "name": f"in{i}", "inputs": []} for i in range(inputs)]
    nodes.append({"op": op, "name": "n", style: attributes, "inputs": [[i, 0, 0] for i in range(inputs)]})
    return {"nodes": nodes, "heads": [[inputs, 0, 0]]}


def convert(folder, document, **shapes):
    (folder / "net-symbol.json").write_text(json.dumps(document))
    return mxnet.convert(folder / "net-symbol.json", Options(input_shapes=shapes), folder)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "lacks a list 'nodes'"),
        ({"nodes": []}, "lacks a list 'nodes'"),
        ({"nodes": [{"op": 3, "name": "a"}], "heads": [[0]]}, "node 0 lacks an op or a name"),
        ({"nodes": [{"op": "null", "name": "a", "inputs": []}], "heads": [[1, 0]]}, "names no node before it"),
        ({"nodes": [{"op": "null", "name": "a", "inputs": [[0, 0]]}], "heads": [[0]]}, "names no node before it"),
        ({"nodes": [{"op": "null", "name": "a", "inputs": []}]}, "names no node"),
        ({"nodes": [{"op": "null", "name": "a", "inputs": []}], "heads": []}, "has 0 heads"),
        ({"nodes": [{"op": "null", "name": "a", "attrs": 3, "inputs": []}], "heads": [[0]]}, "attrs of node 'a'"),
    ],
)
def test_a_damaged_symbol_is_named(document, said):
    with pytest.raises(ModelError, match=said):
        parse_symbol(json.dumps(document).encode(), "'net'")


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"\xff\xfe", b""])
def test_what_is_no_json_is_named(data):
    with pytest.raises(ModelError, match="no readable JSON"):
        parse_symbol(data, "'net'")


@pytest.mark.parametrize(
    ("document", "error", "said"),
    [
        (symbol("MultiBoxPrior"), Unsupported, r"MultiBoxPrior \(1\)"),
        (symbol("Pooling", kernel="(2, 2)", pool_type="lp"), Unsupported, r"node 'n' \(Pooling\): pool_type 'lp'"),
        (
            symbol("Pooling", kernel="(2, 2)", stride="(0, 1)"),
            ModelError,
            "stride is '.0, 1.', not at most 32 integers from 1",
        ),
        (symbol("Pooling", kernel="two"), ModelError, "kernel is 'two', not integers"),
        (symbol("clip", a_min="nan", a_max="1"), ModelError, "a_min is 'nan', not a finite number"),
        (symbol("SliceChannel", num_outputs="2"), ModelError, "cuts axis 1 of 'in0'"),
        (symbol("Reshape", shape="(0, 0, 0, 0, 0)"), ModelError, "cannot reshape|more axes"),
        (symbol("Pooling", kernel="(9, 9)"), ModelError, "window .* is larger than 'in0'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, document, error, said):
    with pytest.raises(error, match=said):
        convert(tmp_path, document, in0=(1, 3, 4, 4))


@pytest.mark.parametrize("mode", ["channel", "spatial"])
def test_l2_normalization_over_positions_is_refused_where_there_are_none_as_mxnet_does(tmp_path, mode):
    with pytest.raises(ModelError, match=r"node 'n' \(L2Normalization\) needs at least 3 axes but gets 'in0'"):
        convert(tmp_path, symbol("L2Normalization", mode=mode), in0=(2, 3))


def test_missing_weights_and_wrong_names_are_named(tmp_path):
    document = symbol("FullyConnected", 2, num_hidden="2", no_bias="1")
    document["nodes"][1]["name"] = "n_weight"
    with pytest.raises(ModelError, match=r"no \.params file lies beside.*lack 1 arrays.*n_weight"):
        convert(tmp_path, document, in0=(1, 3))
    with pytest.raises(UsageError, match=r"'other', but the net's inputs are \['in0'\]"):
        convert(tmp_path, symbol("relu"), other=(1, 3))
    (tmp_path / "a.params").write_bytes(b"")
    (tmp_path / "b.params").write_bytes(b"")
    with pytest.raises(ModelError, match=r"several .*a\.params, b\.params"):
        convert(tmp_path, document, in0=(1, 3))


def test_a_label_is_no_input_and_half_precision_weights_become_float(tmp_path, run_net):
    document = symbol("FullyConnected", 2, "param", num_hidden="2", no_bias="True")
    document["nodes"][1]["name"] = "w"
    document["nodes"] += [
        {"op": "null", "name": "softmax_label", "inputs": []},
        {"op": "SoftmaxOutput", "name": "softmax", "attr": {"grad_scale": "1"}, "inputs": [[2, 0], [3, 0]]},
    ]
    document["heads"] = [[4, 0]]
    weight = np.array([[1, 2, 3], [3, 2, 1]], np.float16)
    (tmp_path / "net-0001.params").write_bytes(listed([one(weight, 2, 2)], [b"arg:w"]))
    x = np.array([[0.1, 0.2, 0.3]], np.float32)
    converted = convert(tmp_path, document, in0=(-1, 3))
    found = run_net("onnxruntime", converted.model, np.repeat(x, 2, 0))
    assert list(found) == ["softmax_output"]
    e = np.exp(x @ weight.T.astype(np.float32))
    np.testing.assert_allclose(found["softmax_output"], np.repeat(e / e.sum(), 2, 0), rtol=1e-5)
