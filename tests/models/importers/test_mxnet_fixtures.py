"""MXNet files with outputs of mxnet 1.9.1 beside them, on both runtimes at f32."""

import shutil

import numpy as np
import pytest

from whet.errors import ModelError
from whet.models.importers import mxnet
from whet.models.importers.base import Options
from whet.models.importers.mxnet.ndarray import read_params

RUNTIMES = ("onnxruntime", "openvino")
MICRO = (
    *("bn_default", "bn_fg0", "deconv_adj", "fc", "leaky", "slice1", "pool_avg_full_k2s2p1_False"),
    *("pool_avg_full_k3s2p0_False", "pool_avg_full_k3s2p1_False", "pool_avg_valid_k2s2p1_False"),
    *("pool_avg_valid_k3s2p0_False", "pool_avg_valid_k3s2p1_False", "pool_max_full_k2s2p1_None"),
    *("pool_max_full_k3s2p1_None", "pool_max_valid_k3s2p0_None"),
)
GLUON = ("squeezenet1.1", "mobilenet0.25", "mobilenetv2_0.25")


def test_every_micro_net_of_the_folder_is_tested(shared_data):
    found = {path.name.removesuffix("-symbol.json") for path in (shared_data / "mxnet/micro").glob("*.json")}
    assert found == set(MICRO)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", [f"micro/{name}" for name in MICRO] + list(GLUON))
def test_a_net_gives_the_reference(shared_data, tmp_path, run_net, name, runtime):
    arrays = np.load(shared_data / f"mxnet/{name}.npz")
    model = shared_data / f"mxnet/{name}-symbol.json"
    assert mxnet.sniff(model)
    converted = mxnet.convert(model, Options(input_shapes={"": arrays["x"].shape}), tmp_path)
    (y,) = run_net(runtime, converted.model, arrays["x"]).values()
    assert y.shape == arrays["y"].shape
    np.testing.assert_allclose(y, arrays["y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_batch_is_free(shared_data, tmp_path, run_net, runtime):
    arrays = np.load(shared_data / "mxnet/mobilenet0.25.npz")
    options = Options(input_shapes={"data": (-1, 3, 224, 224)})
    converted = mxnet.convert(shared_data / "mxnet/mobilenet0.25-symbol.json", options, tmp_path)
    pair = np.concatenate([arrays["x"][:, :, ::-1], arrays["x"]])
    found = run_net(runtime, converted.model, pair)
    assert list(found) == ["mobilenet0_dense0_fwd_output"]
    np.testing.assert_allclose(found["mobilenet0_dense0_fwd_output"][1:], arrays["y"], rtol=0, atol=1e-5)


def test_a_symbol_asks_for_the_input_shape(shared_data, tmp_path):
    with pytest.raises(ModelError, match=r"--input-shape data=1,3,224,224"):
        mxnet.convert(shared_data / "mxnet/squeezenet1.1-symbol.json", Options(), tmp_path)


def test_the_oldest_array_file_is_read(shared_data):
    params = read_params(shared_data / "mxnet/legacy_ndarray.v0")
    assert [array.shape for array in params.values()] == [(128,)] * 6
    assert params["0"][:4].tolist() == [0, 1, 2, 3]


def test_the_highest_epoch_is_taken(shared_data, tmp_path):
    source = shared_data / "mxnet/micro"
    shutil.copyfile(source / "fc-symbol.json", tmp_path / "net-symbol.json")
    shutil.copyfile(source / "fc.params", tmp_path / "net-0012.params")
    (tmp_path / "net-0002.params").write_bytes(b"not read")
    mxnet.convert(tmp_path / "net-symbol.json", Options(input_shapes={"data": (2, 3, 4, 5)}), tmp_path)
