"""Random small Caffe nets against the rules of ``caffe_rules``."""

import contextlib
import re

import numpy as np
import pytest
from caffe_made import Net, caffemodel
from caffe_rules import KINDS, grow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_nets import alone_and_amidst, grown
from ssd_rules import in_order

from whet.errors import WhetError
from whet.models.importers import caffe
from whet.models.importers.base import Options
from whet.models.importers.caffe.build import build
from whet.models.importers.caffe.net import read_net
from whet.models.importers.caffe.prototxt import parse
from whet.models.importers.caffe.weights import parse_weights


def check(net, folder, run_net, runtime):
    (folder / "net.prototxt").write_text(net.text)
    (folder / "net.caffemodel").write_bytes(caffemodel(net.blobs))
    converted = caffe.convert(folder / "net.prototxt", Options(), folder)
    found = run_net(runtime, converted.model, net.x)
    wanted = net.outputs()
    assert found.keys() == wanted.keys()
    for name, y in wanted.items():
        assert found[name].shape == y.shape, net.text
        if name in net.detections:
            np.testing.assert_allclose(in_order(found[name][0, 0]), in_order(y[0, 0]), rtol=1e-4, atol=1e-5)
            continue
        bound = 2e-5 * max(1.0, float(np.abs(y).max()))
        np.testing.assert_allclose(found[name], y, rtol=1e-4, atol=bound, err_msg=net.text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_each_type_follows_its_rule(tmp_path, run_net, kind):
    """The types are those of the table, so none can be left out."""
    alone_and_amidst(Net, grow, KINDS, kind, lambda net, runtime: check(net, tmp_path, run_net, runtime))


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_random_nets_follow_the_rules(tmp_path, run_net, rng):
    net = grown(Net(rng, tuple(rng.randrange(1, bound) for bound in (3, 7, 9, 9))), grow, KINDS, rng.randrange(1, 6))
    if net.used:
        check(net, tmp_path, run_net, "onnxruntime")


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_net_with_a_wrong_number_is_read_or_refused(rng):
    net = grown(Net(rng, (2, 4, 5, 6)), grow, KINDS, rng.randrange(1, 4))
    weights = parse_weights(memoryview(caffemodel(net.blobs)), "weights")
    spots = [match.span() for match in re.finditer(r"(?<=: )-?[0-9][0-9.e-]*", net.text)]
    start, end = rng.choice(spots)
    wrong = rng.choice(("0", "-1", "7", "1000000", "2147483648", "1e30", "nan", "0.5", "AVE_EXC_PAD"))
    text = net.text[:start] + wrong + net.text[end:]
    with contextlib.suppress(WhetError):
        build(read_net(parse(text.encode(), "net"), "net"), weights, "weights", {})
