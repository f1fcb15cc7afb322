"""SSD's layers, and the Caffe layers that pick or drop numbers, against numpy rules from their definitions."""

import math
import random

import numpy as np
import pytest
from ssd_rules import detection_rule, in_order, prior_rule

from whet.errors import ModelError, Unsupported
from whet.models.importers import caffe
from whet.models.importers.base import Options

CODES = ("CORNER", "CENTER_SIZE", "CORNER_SIZE")


def convert(folder, text, blobs=b""):
    (folder / "net.prototxt").write_text(text)
    (folder / "net.caffemodel").write_bytes(blobs)
    return caffe.convert(folder / "net.prototxt", Options(), folder)


def inputs(**shapes):
    return "\n".join(
        f'input: "{name}" input_shape {{ {" ".join(f"dim: {d}" for d in shape)} }}' for name, shape in shapes.items()
    )


@pytest.mark.parametrize("seed", range(8))
def test_prior_boxes_follow_the_rule(tmp_path, run_net, seed):
    rng = random.Random(seed)
    rows, columns, height, width = (rng.randrange(*bounds) for bounds in ((1, 5), (1, 5), (20, 60), (20, 60)))
    small, large, ratio = rng.uniform(4, 10), rng.uniform(11, 20), rng.choice((2.0, 3.0))
    flip, clip, big = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5
    step, variance = rng.choice((0, 8.0)), rng.choice(([0.1] * 4, [0.1, 0.1, 0.2, 0.2]))
    sizes = [(small, small)] + ([(math.sqrt(small * large),) * 2] if big else [])
    sizes += [(small * math.sqrt(r), small / math.sqrt(r)) for r in ([ratio, 1 / ratio] if flip else [ratio])]
    wanted = prior_rule(rows, columns, (height, width), sizes, clip=clip, variance=variance, step=step, offset=0.5)
    params = (
        f"min_size: {small} aspect_ratio: {ratio} aspect_ratio: 1 flip: {str(flip).lower()} clip: {str(clip).lower()}"
    )
    params += f" max_size: {large}" if big else ""
    params += f" step: {step}" if step else ""
    params += " ".join(f" variance: {v}" for v in variance)
    text = inputs(x=(1, 2, rows, columns), data=(1, 3, height, width))
    text += f'layer {{ name: "p" type: "PriorBox" bottom: "x" bottom: "data" top: "p" prior_box_param {{ {params} }} }}'
    arrays = [np.zeros((1, 2, rows, columns), np.float32), np.zeros((1, 3, height, width), np.float32)]
    (found,) = run_net("onnxruntime", convert(tmp_path, text).model, *arrays).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("seed", range(12))
def test_detections_follow_the_rule(tmp_path, run_net, seed, runtime):
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    case = {
        "classes": rng.randrange(2, 5),
        "background": rng.choice((0, 0, 1, -1)),
        "shared": rng.random() < 0.6,
        "code": CODES[seed % 3],
        "encoded": rng.random() < 0.3,
        "top_k": rng.choice((-1, 5, 400)),
        "keep": rng.choice((-1, 4, 200)),
        "overlap": rng.choice((0.3, 0.45)),
        "threshold": rng.choice((0.01, 0.5)),
    }
    count, images = rng.randrange(1, 30), rng.randrange(1, 4)
    sets = 1 if case["shared"] else case["classes"]
    low = numbers.uniform(0, 0.6, (count, 2))
    priors = np.concatenate([low, low + numbers.uniform(0.1, 0.4, (count, 2))], 1)
    priors = np.stack([priors.reshape(-1), np.tile([0.1, 0.1, 0.2, 0.2], count)])[None].astype(np.float32)
    scale = 0.02 if case["encoded"] and case["code"] == "CORNER" else 0.1
    location = numbers.uniform(-scale, scale, (images, count * sets * 4)).astype(np.float32)
    confidence = numbers.uniform(0, 1, (images, count * case["classes"])).astype(np.float32)
    params = (
        f"num_classes: {case['classes']} background_label_id: {case['background']} share_location:"
        f" {str(case['shared']).lower()} code_type: {case['code']} variance_encoded_in_target:"
        f" {str(case['encoded']).lower()} keep_top_k: {case['keep']} confidence_threshold: {case['threshold']}"
        f" nms_param {{ nms_threshold: {case['overlap']} top_k: {case['top_k']} }}"
    )
    text = inputs(loc=location.shape, conf=confidence.shape, priors=priors.shape)
    bottoms = 'bottom: "loc" bottom: "conf" bottom: "priors"'
    text += f'layer {{ name: "d" type: "DetectionOutput" {bottoms} top: "d" detection_output_param {{ {params} }} }}'
    (found,) = run_net(runtime, convert(tmp_path, text).model, location, confidence, priors).values()
    wanted = detection_rule(case, location, confidence, priors)
    assert found.shape == (1, 1, len(wanted), 7)
    np.testing.assert_allclose(in_order(found[0, 0]), in_order(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_nothing_found_is_no_row(tmp_path, run_net, runtime):
    text = inputs(loc=(1, 8), conf=(1, 4), priors=(1, 2, 8))
    text += 'layer { name: "d" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "priors" top: "d"'
    text += " detection_output_param { num_classes: 2 confidence_threshold: 0.5 nms_param { top_k: 9 } } }"
    arrays = [np.zeros(shape, np.float32) for shape in ((1, 8), (1, 4), (1, 2, 8))]
    (found,) = run_net(runtime, convert(tmp_path, text).model, *arrays).values()
    assert found.shape == (1, 1, 0, 7)


def test_adaptive_suppression_and_what_does_not_fit_are_refused(tmp_path):
    text = inputs(loc=(1, 8), conf=(1, 4), priors=(1, 2, 8))
    layer = 'layer {{ name: "d" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "priors" top: "d" {} }}'
    with pytest.raises(Unsupported, match=r"layer 'd' .*eta 0\.5"):
        convert(tmp_path, text + layer.format("detection_output_param { num_classes: 2 nms_param { eta: 0.5 } }"))
    with pytest.raises(ModelError, match=r"needs 6 numbers of confidence"):
        convert(tmp_path, text + layer.format("detection_output_param { num_classes: 3 }"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("params", "rule"),
    [
        ("top_k: 2", lambda x: np.argsort(-x.reshape(2, -1), 1)[:, None, :2]),
        ("axis: 1", lambda x: x.argmax(1)[:, None]),
        ("axis: 2 top_k: 2 out_max_val: true", lambda x: -np.sort(-x, 2)[:, :, :2]),
        (
            "top_k: 3 out_max_val: true",
            lambda x: np.stack([np.argsort(-x.reshape(2, -1), 1)[:, :3], -np.sort(-x.reshape(2, -1), 1)[:, :3]], 1),
        ),
    ],
)
def test_the_largest_follow_the_rule(tmp_path, run_net, runtime, params, rule):
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 5)).astype(np.float32)
    text = inputs(x=x.shape) + f'layer {{ name: "a" type: "ArgMax" bottom: "x" top: "a" argmax_param {{ {params} }} }}'
    (found,) = run_net(runtime, convert(tmp_path, text).model, x).values()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rule(x))


def test_threshold_embed_and_silence_follow_their_rules(tmp_path, run_net):
    x = np.array([[0.0, 1, 2], [2, 1, 0]], np.float32)
    text = (
        inputs(x=x.shape)
        + 'layer { name: "t" type: "Threshold" bottom: "x" top: "t" threshold_param { threshold: 1 } }'
    )
    text += 'layer { name: "s" type: "Split" bottom: "x" top: "kept" top: "dropped" }'
    text += 'layer { name: "q" type: "Silence" bottom: "dropped" }'
    text += 'layer { name: "e" type: "Embed" bottom: "kept" top: "e" embed_param { input_dim: 3 num_output: 2 } }'
    table, bias = np.arange(6, dtype="<f4"), np.array([0.5, -0.5], "<f4")
    blobs = b"".join(
        b"\x3a" + bytes([len(b) + 2]) + b"\x2a" + bytes([len(b)]) + b for b in (table.tobytes(), bias.tobytes())
    )
    body = b"\x0a\x01e" + blobs  # LayerParameter: name, then two blobs without a shape
    model = convert(tmp_path, text, b"\xa2\x06" + bytes([len(body)]) + body).model
    found = run_net("onnxruntime", model, x)
    assert found.keys() == {"t", "e"}
    np.testing.assert_array_equal(found["t"], x > 1)
    np.testing.assert_allclose(found["e"], table.reshape(3, 2)[x.astype(int)] + bias)
