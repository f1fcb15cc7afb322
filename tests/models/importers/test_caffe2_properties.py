"""Random small Caffe2 nets against the rules of ``caffe2_rules``."""

import numpy as np
import pytest
from caffe2_rules import KINDS, Net, grow, operator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_nets import alone_and_amidst, grown
from wire_made import part

from whet.errors import ModelError, Unsupported
from whet.models.importers import caffe2
from whet.models.importers.base import Options


def check(net, folder, run_net, runtime):
    outputs = net.outputs()
    named = b"".join(part(7, name.encode()) for name in net.inside) + b"".join(part(8, n.encode()) for n in outputs)
    (folder / "predict_net.pb").write_bytes(part(1, b"net") + net.operators + named)
    (folder / "init_net.pb").write_bytes(net.fills or operator("ConstantFill", [], ["unused"], shape=(1,), value=1.0))
    assert caffe2.sniff(folder / "predict_net.pb")
    converted = caffe2.convert(folder / "predict_net.pb", Options(input_shapes={"": net.x.shape}), folder)
    found = run_net(runtime, converted.model, net.x)
    assert list(found) == outputs
    for name in outputs:
        wanted = net.tensors[name]
        assert found[name].shape == wanted.shape, net.used
        bound = 2e-5 * max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=bound, err_msg=str(net.used))


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_follows_its_rule(tmp_path, run_net, kind):
    """The operators are those of the table, so none can be left out."""
    alone_and_amidst(Net, grow, KINDS, kind, lambda net, runtime: check(net, tmp_path, run_net, runtime))


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_random_nets_follow_the_rules(tmp_path, run_net, rng):
    net = grown(Net(rng, tuple(rng.randrange(1, bound) for bound in (3, 5, 7, 7))), grow, KINDS, rng.randrange(1, 6))
    if net.outputs():
        check(net, tmp_path, run_net, "onnxruntime")


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("Int8Conv", {}, r"Int8Conv \(1\).*quantised"),
        ("GenerateProposals", {}, r"GenerateProposals \(1\).*detector"),
        ("MaxPool", {"kernel": 2, "legacy_pad": 3}, r"operator 'y' \(MaxPool\): legacy_pad 3"),
        ("MaxPool", {"kernel": 2, "order": "NHWC"}, r"operator 'y' \(MaxPool\): order 'NHWC'.*only NCHW"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, kind, arguments, said):
    net = operator(kind, ["x"], ["y"], **arguments) + part(7, b"x") + part(8, b"y")
    (tmp_path / "predict_net.pb").write_bytes(net)
    with pytest.raises(Unsupported, match=said):
        caffe2.convert(tmp_path / "predict_net.pb", Options(input_shapes={"x": (1, 3, 8, 8)}), tmp_path)


def test_a_power_that_no_float_holds_is_refused_by_name(tmp_path):
    net = operator("LRN", ["x"], ["y"], size=3, alpha=0.5, beta=-2.5e38, bias=2.25) + part(7, b"x") + part(8, b"y")
    (tmp_path / "predict_net.pb").write_bytes(net)
    with pytest.raises(ModelError, match=r"operator 'y' \(LRN\) divides by 2.25 \*\* -2.5e\+38"):
        caffe2.convert(tmp_path / "predict_net.pb", Options(input_shapes={"x": (1, 3, 8, 8)}), tmp_path)


def test_a_fill_of_absurd_size_or_random_numbers_is_refused(tmp_path):
    (tmp_path / "predict_net.pb").write_bytes(operator("Relu", ["x"], ["y"]) + part(7, b"x") + part(8, b"y"))
    fills = {
        operator("ConstantFill", [], ["w"], shape=(10**6, 10**6)): (ModelError, "1000000"),
        operator("ConstantFill", [], ["w"], shape=(1 << 13, 1 << 13)): (ModelError, "at most"),
        operator("XavierFill", [], ["w"], shape=(3, 3)): (Unsupported, "never trained"),
        operator("GivenTensorFill", [], ["w"], shape=(3, 3), values=np.ones(4)): (ModelError, r"9 numbers but holds 4"),
    }
    for fill, (error, said) in fills.items():
        (tmp_path / "init_net.pb").write_bytes(fill)
        with pytest.raises(error, match=said):
            caffe2.convert(tmp_path / "predict_net.pb", Options(input_shapes={"x": (1, 3)}), tmp_path)
