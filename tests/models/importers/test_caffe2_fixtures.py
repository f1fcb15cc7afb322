"""The super-resolution net as NetDef against the ONNX file it came from."""

import numpy as np
import pytest

from whet.errors import ModelError, Unsupported
from whet.models.importers import caffe, caffe2, mxnet
from whet.models.importers.base import Options


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_super_resolution_equals_its_onnx_twin(shared_data, tmp_path, run_net, runtime):
    folder = shared_data / "caffe2/superres"
    converted = caffe2.convert(folder / "predict_net.pb", Options(), tmp_path)
    x = np.random.default_rng(0).uniform(0, 1, (1, 1, 224, 224)).astype(np.float32)
    (y,) = run_net(runtime, converted.model, x).values()
    (twin,) = run_net("openvino", folder / "super_resolution.onnx", x).values()
    assert y.shape == twin.shape == (1, 1, 672, 672)
    np.testing.assert_allclose(y, twin, rtol=0, atol=1e-5)


def test_an_init_net_in_place_of_the_predict_net_is_told_apart(shared_data, tmp_path):
    with pytest.raises(Unsupported, match="init_net"):
        caffe2.convert(shared_data / "caffe2/superres/init_net.pb", Options(), tmp_path)


def test_a_predict_net_in_place_of_the_init_net_is_told_apart(shared_data, tmp_path):
    predict = shared_data / "caffe2/superres/predict_net.pb"
    with pytest.raises(ModelError, match=r"'predict_net\.pb' fill no blob: they are no init_net"):
        caffe2.convert(predict, Options(weights=predict), tmp_path)


def test_each_importer_recognises_its_own_files_and_no_other(shared_data):
    files = [path for path in shared_data.rglob("*") if path.is_file()]
    assert len(files) > 200
    for package in (caffe, mxnet, caffe2):
        for path in files:
            name = path.relative_to(shared_data).as_posix()
            expected = {
                # Nets without weights have a caffemodel of no bytes, which says nothing.
                caffe: path.suffix in (".prototxt", ".caffemodel") and path.stat().st_size > 0,
                mxnet: name.startswith("mxnet/") and path.suffix in (".json", ".params", ".v0"),
                caffe2: name in ("caffe2/superres/predict_net.pb", "caffe2/superres/init_net.pb"),
            }[package]
            assert package.sniff(path) == expected, (package.__name__, name)
