"""Random small nets of any format, grown layer by layer: a ``Net`` says where to begin, ``grow`` how to go on."""

import random

import pytest


def grown(net, grow, kinds, layers):
    """Add about ``layers`` layers of random kinds, one after the other; ``grow`` leaves out what does not fit."""
    place = net.first
    for _ in range(layers):
        place = grow(net, place, net.rng.choice(kinds))
    return net


def alone_and_amidst(make, grow, kinds, kind, check, *, amidst=3):
    """Check a layer of one kind alone, and ``amidst`` times between other layers; fail where that cannot be drawn."""
    seen = {"alone": 0, "amidst": 0}
    for seed in range(40):
        net = make(random.Random(seed), (2, 4, 5, 6))
        others = net.rng.randrange(1, 3) if seed >= amidst else 0
        place = net.first
        for _ in range(others):
            place = grow(net, place, net.rng.choice(kinds))
        before = len(net.used)
        place = grow(net, place, kind)
        if kind not in net.used[before:]:
            continue
        for _ in range(others):
            place = grow(net, place, net.rng.choice(kinds))
        check(net, "onnxruntime")
        if not seen["alone"]:
            check(net, "openvino")
        seen["amidst" if others else "alone"] += 1
        if seen["alone"] and seen["amidst"] >= amidst:
            return
    pytest.fail(f"{kind} was drawn {seen['alone']} times alone and {seen['amidst']} times in the midst of others")
