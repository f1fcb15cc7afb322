"""Caffe files with outputs of an independent implementation (OpenCV's reader) beside them, on both runtimes at f32."""

import csv
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from whet.models.importers import caffe
from whet.models.importers.base import Options

RUNTIMES = ("onnxruntime", "openvino")
MICRO = (
    *("bn_scale_inplace", "deconv_pad", "elt_coeff", "elt_prod", "flatten_axis", "lrn_within", "pool_rect"),
    *("prelu_shared", "reshape_axis", "slice_concat"),
    *(f"pool_AVE_{case}" for case in ("7x6_k2s2p1", "7x6_k3s2p0", "7x6_k5s3p2", "8x8_k3s1p1", "8x8_k3s2p1")),
    *(f"pool_AVE_{case}" for case in ("9x5_k2s2p1", "9x5_k3s2p0", "9x5_k5s3p2")),
    *(f"pool_MAX_{case}" for case in ("7x6_k3s1p1", "7x6_k3s2p1", "8x8_k2s2p1", "8x8_k3s2p0", "8x8_k5s3p2")),
    *(f"pool_MAX_{case}" for case in ("9x5_k3s1p1", "9x5_k3s2p1")),
)


def convert(model: Path, folder: Path, **options):
    return caffe.convert(model, Options(**options), folder)


def reference(path: Path):
    arrays = dict(np.load(path))
    return arrays.pop("x"), arrays


def test_every_micro_net_of_the_folder_is_tested(shared_data):
    assert {path.stem for path in (shared_data / "caffe/micro").glob("*.prototxt")} == set(MICRO)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", MICRO)
def test_a_micro_net_gives_the_reference(shared_data, tmp_path, run_net, name, runtime):
    folder = shared_data / "caffe/micro"
    converted = convert(folder / f"{name}.prototxt", tmp_path)
    x, wanted = reference(folder / f"{name}.npz")
    (y,) = run_net(runtime, converted.model, x).values()
    assert y.shape == wanted["y"].shape
    np.testing.assert_allclose(y, wanted["y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "name", ["squeezenet/SqueezeNet_deploy.prototxt", "ultraface/RFB-320.prototxt"], ids=["squeezenet", "ultraface"]
)
def test_a_real_net_gives_the_reference_by_its_tops_names(shared_data, tmp_path, run_net, name, runtime):
    model = shared_data / "caffe" / name
    x, wanted = reference(model.parent / "reference.npz")
    found = run_net(runtime, convert(model, tmp_path).model, x)
    assert found.keys() == wanted.keys()
    for output, y in wanted.items():
        np.testing.assert_allclose(found[output], y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ssd_finds_the_same_faces_on_both_runtimes(shared_data, tmp_path, run_net, runtime):
    folder = shared_data / "caffe/ssd_face"
    converted = convert(folder / "yufacedetectnet-open-v1.prototxt", tmp_path)
    x, wanted = reference(folder / "reference.npz")
    rows = run_net(runtime, converted.model, x)["detection_out"]
    assert rows.shape[:2] == (1, 1)
    found = rows[0, 0]
    real = wanted["y"][0, 0]
    real = real[real[:, 2] > 0]  # the reference fills up with rows of zeros
    assert len(found) == len(real) == 26
    for row in real:
        assert np.abs(found - row).max(1).min() < 1e-4
    assert any("103.94" in note for note in converted.notes)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_batch_is_free_where_the_net_permits(shared_data, tmp_path, run_net, runtime):
    for name in ("squeezenet/SqueezeNet_deploy.prototxt", "ultraface/RFB-320.prototxt"):
        model = shared_data / "caffe" / name
        x, wanted = reference(model.parent / "reference.npz")
        pair = np.concatenate([x[:, :, ::-1], x])
        found = run_net(runtime, convert(model, tmp_path).model, pair)
        for output, y in wanted.items():
            assert len(found[output]) == 2
            np.testing.assert_allclose(found[output][1:], y, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_squeezenet_reaches_its_known_accuracy(shared_data, tmp_path, run_net):
    model = convert(shared_data / "caffe/squeezenet/SqueezeNet_deploy.prototxt", tmp_path).model
    rows = list(csv.reader((shared_data / "imagenet200/labels.tsv").read_text().splitlines(), delimiter="\t"))
    right = 0
    for start in range(0, len(rows), 25):
        part = rows[start : start + 25]
        found = run_net(
            "onnxruntime", model, np.concatenate([picture(shared_data / "imagenet200" / row[0]) for row in part])
        )
        right += sum(
            int(scores.argmax()) == int(label)
            for scores, (_, label) in zip(found["pool_final"].reshape(-1, 1000), part, strict=True)
        )
    assert len(rows) == 200
    assert abs(right - 133) <= 1  # 0.665


def picture(path: Path):
    image = Image.open(path).convert("RGB")
    if image.size != (256, 256):
        image = image.resize((256, 256), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32)[14:241, 14:241, ::-1] - (104, 117, 123)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def test_the_file_is_valid_onnx_and_lists_no_initializer_as_input(shared_data, tmp_path):
    for name in ("squeezenet/SqueezeNet_deploy.prototxt", "ssd_face/yufacedetectnet-open-v1.prototxt"):
        converted = convert(shared_data / "caffe" / name, tmp_path)
        model = onnx.load(converted.model)
        onnx.checker.check_model(model, full_check=True)
        assert [spec.name for spec in model.graph.input] == ["data"]
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
        assert len(model.graph.initializer) > 50


def test_weights_are_found_under_the_usual_names(shared_data, tmp_path):
    source = shared_data / "caffe/micro"
    for model, weights in (("net.prototxt", "net"), ("net_deploy.prototxt", "net"), ("a.prototxt", "other")):
        folder = tmp_path / model
        folder.mkdir()
        shutil.copyfile(source / "deconv_pad.prototxt", folder / model)
        shutil.copyfile(source / "deconv_pad.caffemodel", folder / f"{weights}.caffemodel")
        assert convert(folder / model, tmp_path).model.exists()
