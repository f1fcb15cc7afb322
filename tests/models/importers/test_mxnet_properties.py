"""Random small MXNet nets against the rules of ``mxnet_rules``."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mxnet_made import Net, write_params
from mxnet_rules import KINDS, grow
from random_nets import alone_and_amidst, grown

from whet.errors import WhetError
from whet.models.importers import mxnet
from whet.models.importers.base import Options
from whet.models.importers.mxnet.build import build
from whet.models.importers.mxnet.symbol import parse_symbol


def check(net, folder, run_net, runtime):
    heads = net.heads()
    document = {"nodes": net.nodes, "arg_nodes": [], "heads": [[*ref, 0] for ref in heads]}
    (folder / "net-symbol.json").write_text(json.dumps(document))
    (folder / "net-0000.params").write_bytes(write_params(net.arrays))
    options = Options(input_shapes={"data": net.x.shape})
    converted = mxnet.convert(folder / "net-symbol.json", options, folder)
    found = list(run_net(runtime, converted.model, net.x).values())
    assert len(found) == len(heads)
    for y, ref in zip(found, heads, strict=True):
        wanted = net.tensors[ref]
        assert y.shape == wanted.shape, document
        bound = 2e-5 * max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=bound, err_msg=json.dumps(document["nodes"]))


@pytest.mark.parametrize("op", KINDS)
def test_an_operator_follows_its_rule(tmp_path, run_net, op):
    """The operators are those of the table, so none can be left out."""
    alone_and_amidst(Net, grow, KINDS, op, lambda net, runtime: check(net, tmp_path, run_net, runtime), amidst=2)


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_random_nets_follow_the_rules(tmp_path, run_net, rng):
    net = grown(Net(rng, tuple(rng.randrange(1, bound) for bound in (3, 5, 7, 7))), grow, KINDS, rng.randrange(1, 6))
    if net.heads():
        check(net, tmp_path, run_net, "onnxruntime")


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_net_with_a_wrong_parameter_is_read_or_refused(rng):
    net = grown(Net(rng, (2, 4, 5, 6)), grow, KINDS, rng.randrange(1, 4))
    spots = [(node[net.style], key) for node in net.nodes for key in node.get(net.style, {})]
    if spots:
        table, key = rng.choice(spots)
        table[key] = rng.choice(
            ("0", "-1", "(7,)", "1000000", "(4294967296, 1)", "nan", "None", "(0, -1)", "True", "x")
        )
    document = {"nodes": net.nodes, "heads": [[*head, 0] for head in net.heads()]}
    with contextlib.suppress(WhetError):
        symbol = parse_symbol(json.dumps(document).encode(), "net")
        build(symbol, net.arrays, "weights", {"data": net.x.shape})
