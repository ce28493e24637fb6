"""What the project promises for one image at a time, as ratios within one run, with one thread and the same weights.

pytest bench/test_promises.py --benchmark-only
"""

from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from bench.measure import card_facts, time_in_blocks
from bench.runtimes import RUNTIMES, Unavailable
from bench.subjects import MODELS, QUANTIZED, Subject

CPU_RUNTIMES = ("onnxruntime", "onnxruntime-all", "openvino", "openvino-bf16")
CALLS = {1: 50, 64: 3}  # in a block, by batch size
PYTORCH = ("torch", "torch-channels-last", "torch-folded", "torch-compile")
BARE_LIMIT = 1.10  # times a bare session.run
BARE_LIMITS = {"mnist4k": 1.15}  # its network takes 0.04 ms, so a call's 3 µs weigh more: measured 1.08 to 1.09
PYTORCH_PROMISED = {"mnist14k", "cifar93k"}  # architectures; for others the ratios to PyTorch have no limit


@pytest.mark.parametrize("subject", [*MODELS, *QUANTIZED], indirect=True)
def test_model_run_beside_bare_session_and_pytorch(benchmark: Any, subject: Subject) -> None:
    """From an array to labels: `zoo.Model.run`, `session.run`, and PyTorch where there are weights for it."""
    image, entry = subject.images[:1], subject.entry
    networks = {"onnxruntime": RUNTIMES["onnxruntime"].open(entry, 1)}
    for name in PYTORCH:
        with suppress(Unavailable):  # int8 models exist as ONNX files only
            networks[name] = RUNTIMES[name].open(entry, 1)
    zoo = networks["onnxruntime"]
    feed = zoo.native(image)
    functions = {"zoo.Model.run": lambda: zoo.labels(image), "session.run": lambda: zoo.session(feed)}
    peers = {name: network for name, network in networks.items() if name in PYTORCH}
    functions |= {name: (lambda network=network: network.labels(image)) for name, network in peers.items()}  # type: ignore[misc]
    times = time_in_blocks(functions)
    ours = times["zoo.Model.run"].p50
    ratios = {name: round(ours / timing.p50, 4) for name, timing in times.items() if name != "zoo.Model.run"}
    benchmark.extra_info |= {
        "scope": "array to label, in turn", **card_facts(entry.card), "batch": 1, "threads": 1,
        "provider": {name: network.provider for name, network in networks.items()},
        "times": {name: timing.info() for name, timing in times.items()}, "ratios": ratios,
    }  # fmt: skip
    np.testing.assert_array_equal(benchmark(zoo.labels, image), subject.labels[:1])
    for network in peers.values():
        np.testing.assert_array_equal(network.labels(image), subject.labels[:1])
    assert ratios["session.run"] <= BARE_LIMITS.get(entry.card.architecture, BARE_LIMIT)
    if entry.card.architecture in PYTORCH_PROMISED and peers:
        assert max(ratios["torch"], ratios["torch-channels-last"]) <= 1 / 4
        assert ratios["torch-compile"] <= 1 / 2


@pytest.mark.parametrize("batch", CALLS)
def test_cpu_runtimes_in_turn(benchmark: Any, subject: Subject, batch: int) -> None:
    """Is onnxruntime on one thread still the right choice? The sessions alone, in turn."""
    images, entry = subject.images[:batch], subject.entry
    networks = {}
    for name in CPU_RUNTIMES:
        with suppress(Unavailable):  # test_runtimes.py skips with the reason
            networks[name] = RUNTIMES[name].open(entry, batch)
    feeds = {name: network.native(images) for name, network in networks.items()}
    functions = {name: (lambda name=name: networks[name].session(feeds[name])) for name in networks}
    times = time_in_blocks(functions, calls=CALLS[batch])
    benchmark.extra_info |= {
        "scope": "session only, in turn", **card_facts(entry.card), "batch": batch,
        "threads": {name: network.threads for name, network in networks.items()},
        "provider": {name: network.provider for name, network in networks.items()},
        "times": {name: timing.info() for name, timing in times.items()},
    }  # fmt: skip
    benchmark(functions["onnxruntime"])
    for name, network in networks.items():
        labels = network.logits(functions[name]()).argmax(1)
        np.testing.assert_array_equal(labels, subject.labels[:batch], err_msg=name)
