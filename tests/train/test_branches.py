"""Branches give, folded, the network before them: the same layers, the same answers."""

import pytest
import torch
from torch import nn

from train import networks
from train.branches import Branches, fold, grow

NETWORKS = {"mnist_stack": (1, 28, 28), "cifar93k": (3, 32, 32), "resnet8": (3, 32, 32)}


def random_statistics(network):
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_folded_it_is_the_network_before_with_the_same_answers(name, repeats):
    torch.manual_seed(0)
    make = getattr(networks, name)
    network = grow(make(), repeats)
    random_statistics(network)
    network.eval()
    images = torch.randn(4, *NETWORKS[name])
    expected = network(images)
    folded = fold(network)
    assert [(k, v.shape) for k, v in folded.state_dict().items()] == [
        (k, v.shape) for k, v in make().state_dict().items()
    ]
    difference = (folded(images) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-5
    assert any(isinstance(layer, Branches) for layer in network.modules())  # the original is as it was
    assert not any(isinstance(layer, Branches) for layer in folded.modules())


@pytest.mark.parametrize(
    ("conv", "kernels", "identity"),
    [
        (nn.Conv2d(8, 8, 3, bias=False), [3, 3, 1], True),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), [3, 3, 1], True),
        (nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2), [3, 3, 1], False),
        (nn.Conv2d(8, 16, 1), [1, 1], False),
    ],
)
def test_which_branches_there_are(conv, kernels, identity):
    torch.manual_seed(0)
    network = grow(nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)), 2)
    assert [kernel.kernel_size[0] for kernel in network[0].kernels] == kernels
    assert (network[0].identity is not None) == identity
    random_statistics(network)
    network.eval()
    images = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(fold(network)(images), network(images), rtol=1e-4, atol=1e-4)


def test_branches_learn():
    network = grow(networks.mnist_stack(), 1)
    network(torch.randn(2, 1, 28, 28)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
