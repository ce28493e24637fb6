"""What the project promises of one picture at a time, as ratios in one run, one thread each, same weights.

pytest bench/test_promises.py --benchmark-only
"""

from contextlib import suppress

import numpy as np
import pytest

from bench.measure import facts, in_blocks
from bench.networks import Unavailable
from bench.runtimes import RUNTIMES

PEERS = ("onnxruntime", "onnxruntime-all", "openvino", "openvino-bf16")
CALLS = {1: 50, 64: 3}  # in a block, by batch
RIVALS = ("torch", "torch-channels-last", "torch-folded", "torch-compile")
PROMISED = {"mnist14k", "cifar93k"}  # for others the ratios are told, not asserted


def test_one_picture_beside_a_bare_session_and_pytorch(benchmark, subject):
    """From an array to labels: `zoo.Model.run`, `session.run`, and PyTorch from the same array to labels."""
    image, entry = subject.images[:1], subject.entry
    try:
        networks = {name: RUNTIMES[name].open(entry, 1) for name in ("onnxruntime", *RIVALS)}
    except Unavailable as error:
        pytest.skip(str(error))
    zoo = networks["onnxruntime"]
    feed = zoo.native(image)
    things = {"zoo.Model.run": lambda: zoo.labels(image), "session.run": lambda: zoo.session(feed)}
    things |= {name: lambda network=networks[name]: network.labels(image) for name in RIVALS}
    times = in_blocks(things)
    ours = times["zoo.Model.run"].p50
    ratios = {name: round(ours / timing.p50, 4) for name, timing in times.items() if name != "zoo.Model.run"}
    benchmark.extra_info |= {
        "scope": "array to label, in turn", **facts(entry.card), "batch": 1, "threads": 1,
        "provider": {name: network.provider for name, network in networks.items()},
        "times": {name: timing.info() for name, timing in times.items()}, "ratios": ratios,
    }  # fmt: skip
    np.testing.assert_array_equal(benchmark(zoo.labels, image), subject.labels[:1])
    for name in RIVALS:
        np.testing.assert_array_equal(networks[name].labels(image), subject.labels[:1])
    assert ratios["session.run"] <= 1.10
    if entry.card.architecture in PROMISED:
        assert max(ratios["torch"], ratios["torch-channels-last"]) <= 1 / 4
        assert ratios["torch-compile"] <= 1 / 2


@pytest.mark.parametrize("size", CALLS)
def test_another_runtime_on_the_processor(benchmark, subject, size):
    """Is onnxruntime with one thread still the right choice? The sessions alone, in turn."""
    images, entry = subject.images[:size], subject.entry
    networks = {}
    for name in PEERS:
        with suppress(Unavailable):  # test_runtimes.py says why
            networks[name] = RUNTIMES[name].open(entry, size)
    feeds = {name: network.native(images) for name, network in networks.items()}
    things = {name: (lambda name=name: networks[name].session(feeds[name])) for name in networks}
    times = in_blocks(things, calls=CALLS[size])
    benchmark.extra_info |= {
        "scope": "session only, in turn", **facts(entry.card), "batch": size,
        "threads": {name: network.threads for name, network in networks.items()},
        "provider": {name: network.provider for name, network in networks.items()},
        "times": {name: timing.info() for name, timing in times.items()},
    }  # fmt: skip
    benchmark(things["onnxruntime"])
    for name, network in networks.items():
        np.testing.assert_array_equal(network.logits(things[name]()).argmax(1), subject.labels[:size], err_msg=name)
