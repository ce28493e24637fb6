"""Networks, schedules and recipes against the figures of the notes and MLPerf."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support.examples import DEFAULT
from train import networks, onnx_graph, recipe
from train.networks import Dropout
from train.recipe import InverseTime, OneCycle
from zoo.errors import WrongUsage
from zoo.inspection.onnx_layers import layers

pytestmark = pytest.mark.slow  # needs torch

LOGGED_RATES = [
    0.003, 0.0022744503, 0.0018315018, 0.0015329586, 0.0013181019, 0.0011560694, 0.0010295127, 0.0009279307,
    0.0008445946, 0.0007749935, 0.0007159905, 0.000665336, 0.0006213753, 0.0005828638, 0.0005488474, 0.0005185825,
    0.000491481, 0.0004670715, 0.0004449718, 0.000424869,
]  # fmt: skip  # printed in the course notes' log, epochs 1 to 20

KERAS_PARAMETERS = {
    "mnist14k.notes": 14_624, "mnist16k.notes": 16_472, "mnist10k.notes": 9_824, "cifar93k.notes": 92_901,
    "mnist10k.plus": 9_824, "mnist14k.plus": 14_624, "mnist4k.plus": 3_842,
    "cifar-base.notes": 1_172_410, "cifar93k.plus": 92_901, "cifar90k.plus": 92_634, "resnet8.plus": 78_666,
}  # fmt: skip  # from the notes, MLPerf Tiny or our own networks; there is no figure for mnist-base


def test_inverse_time_matches_the_logged_rates():
    schedule = recipe.find("mnist14k.notes").schedule
    assert schedule == InverseTime(0.003, 0.319)
    for epoch, logged in enumerate(LOGGED_RATES):
        for progress in (epoch, epoch + 0.5, epoch + 0.999):
            assert schedule(progress, 20) == pytest.approx(logged, rel=1e-6)


def test_one_cycle_rises_and_falls():
    schedule = OneCycle(0.1, warmup=0.25)
    assert [schedule(x, 4) for x in (0, 0.5, 1, 2.5, 4)] == pytest.approx([0, 0.05, 0.1, 0.05, 0])


@pytest.mark.parametrize(("name", "parameters"), KERAS_PARAMETERS.items())
def test_parameter_count_matches_keras(name, parameters):
    assert networks.parameter_counts(networks.build(recipe.find(name)))["keras"] == parameters


def test_each_architecture_has_at_most_one_default():
    defaults = [each.architecture for each in map(recipe.find, recipe.names()) if each.default]
    assert len(defaults) == len(set(defaults))


def test_cifar90k_stays_within_its_limits():
    """At most the notes' 92,901 parameters, and resnet8's MACs in the ONNX file."""
    network = networks.cifar90k().eval()
    assert networks.parameter_counts(network)["keras"] == 92_634
    macs = [
        sum(layer.macs for layer in layers(onnx_graph.to_onnx(each.eval(), recipe.find("resnet8"), 1.0)))
        for each in (network, networks.resnet8())
    ]
    assert macs[0] <= macs[1]


@pytest.mark.parametrize("skips", [False, True])
def test_mnist4k_stays_within_its_limit(skips):
    network = networks.mnist4k(skips)
    assert networks.parameter_counts(network)["keras"] <= 4_000
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_resnet8_folds_and_matches_mlperf_macs():
    torch.manual_seed(0)
    network = networks.resnet8()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    network.eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = network(images)
        folded = onnx_graph.fold_batch_norm(network)
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    chosen = replace(recipe.find("cifar93k.notes"), network="resnet8", network_options={}, keras_defaults=False)
    exported = layers(onnx_graph.to_onnx(network, chosen, 1.0))
    assert sum(layer.macs for layer in exported) == pytest.approx(12.5e6, rel=0.01)


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_builds_a_network(name):
    chosen = recipe.find(name)
    assert chosen.name == name
    assert chosen.source
    torch.manual_seed(0)
    network = networks.build(chosen)
    side, channels = (28, 1) if chosen.dataset == "mnist" else (32, 3)
    assert network(torch.zeros(3, channels, side, side)).shape == (3, 10)


def test_find_resolves_bare_and_refuses_unknown_names():
    assert recipe.find("mnist14k").name == DEFAULT
    with pytest.raises(WrongUsage, match="Unknown recipe 'mnist15k'"):
        recipe.find("mnist15k")


def test_keras_defaults_of_weights_and_batch_norm():
    network = networks.build(recipe.find("mnist14k.notes"))
    norm = network[1]
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)
    bound = math.sqrt(6 / (9 * 1 + 9 * 16))
    assert network[0].weight.abs().max() <= bound
    assert network[0].weight.abs().max() > 0.9 * bound


@pytest.mark.parametrize("shape", [(64, 20, 30, 30), (512, 300)])
def test_dropout_has_its_rate_and_preserves_the_mean(shape):
    torch.manual_seed(0)
    layer, values = Dropout(0.1), torch.ones(shape)
    if len(shape) == 4:
        values = values.to(memory_format=torch.channels_last)
    values.requires_grad_()
    dropped = layer(values)
    n = values.numel()
    assert (dropped == 0).double().mean().item() == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / n))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.9])
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, dropped.detach())  # same mask in the backward pass
    assert not torch.equal(layer(values), dropped)
    layer.eval()
    assert layer(values) is values


def test_dropout_is_independent_between_neighbours():
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(1000, 1000)) > 0).double()
    for shifted in (kept[:, 1:] * kept[:, :-1], kept[1:] * kept[:-1], kept[:, 4:] * kept[:, :-4]):
        assert shifted.mean().item() == pytest.approx(0.25, abs=0.003)


def test_dropout_draws_a_new_pool_per_epoch():
    layer, values = Dropout(0.5), torch.ones(100, 100)
    torch.manual_seed(1)
    layer.train()
    first = layer(values)
    pool = layer.pool
    layer(values)
    assert layer.pool is pool
    layer.train()
    layer(values)
    assert not torch.equal(layer.pool[:10_000], pool[:10_000])
    torch.manual_seed(1)
    layer.train()
    assert torch.equal(layer(values), first)
