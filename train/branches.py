"""Branches that train and fold away: a convolution learns as a sum of several, and is shipped as one.

RepVGG (Ding et al., arXiv 2101.03697) adds to a 3x3 convolution a 1x1 convolution and the identity; MobileOne (Vasu et
al., arXiv 2206.04040) repeats whole branches. Each branch has a batch norm of its own, so their sum is linear in
evaluation mode, and one convolution can do it: the inference network is the recipe's, to the last parameter.
"""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class Branches(nn.Module):
    """The sum of `repeats` copies of a convolution, a 1x1 convolution where the kernel is larger, and the identity.

    Takes the place of a convolution and the batch norm behind it, whose settings all branches have. The identity is
    there where it can be: as many channels out as in, stride 1.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, repeats: int) -> None:
        super().__init__()
        like = {"stride": conv.stride, "groups": conv.groups, "bias": False}
        size, padding = conv.kernel_size[0], conv.padding[0]
        self.kernels = nn.ModuleList([conv])
        for _ in range(repeats - 1):
            self.kernels.append(nn.Conv2d(conv.in_channels, conv.out_channels, size, padding=padding, **like))
        if size > 1:
            self.kernels.append(nn.Conv2d(conv.in_channels, conv.out_channels, 1, **like))
        self.norms = nn.ModuleList([norm, *(_fresh(norm) for _ in self.kernels[1:])])
        self.identity = _fresh(norm) if conv.in_channels == conv.out_channels and conv.stride == (1, 1) else None
        self.crop = size // 2 - padding  # of the input, where a smaller kernel sees as much as the large one's middle

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        inner = slice(self.crop, -self.crop or None)
        middle = values[:, :, inner, inner]
        size = self.kernels[0].kernel_size
        total = sum(
            norm(kernel(values if kernel.kernel_size == size else middle))
            for kernel, norm in zip(self.kernels, self.norms, strict=True)
        )
        return total if self.identity is None else total + self.identity(middle)

    @torch.no_grad()
    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `(out, in / groups, k, k)` and bias `(out,)` of the one convolution that does the same; float32."""
        first = self.kernels[0]
        weight, bias = torch.zeros_like(first.weight, dtype=torch.float64), torch.zeros(len(first.weight)).double()
        for kernel, norm in zip(self.kernels, self.norms, strict=True):
            _add(weight, bias, kernel.weight, kernel.bias, norm)
        if self.identity is not None:
            rows = torch.arange(len(weight))
            unit = torch.zeros(*weight.shape[:2], 1, 1)
            unit[rows, rows % weight.shape[1]] = 1  # of its group, an output's own input
            _add(weight, bias, unit, None, self.identity)
        return weight.float(), bias.float()


def _fresh(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)


def _add(
    weight: torch.Tensor, bias: torch.Tensor, kernel: torch.Tensor, shift: torch.Tensor | None, norm: nn.BatchNorm2d
) -> None:
    """Add a convolution and its batch norm, as they are in evaluation mode, to `weight` and `bias`."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    border = (weight.shape[-1] - kernel.shape[-1]) // 2
    weight += F.pad(kernel.double() * scale[:, None, None, None], [border] * 4)
    bias += norm.bias.double() - norm.running_mean.double() * scale
    if shift is not None:
        bias += shift.double() * scale


def grow(network: nn.Sequential, repeats: int) -> nn.Sequential:
    """Put branches in the place of every convolution with a batch norm behind it; the network itself is changed."""
    for index, (layer, following) in enumerate(pairwise(network)):
        if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            network[index] = Branches(layer, following, repeats)
            network[index + 1] = nn.Identity()
    for layer in network.modules():
        if layer is not network and isinstance(layer, nn.Sequential):
            grow(layer, repeats)
    return network.to(memory_format=torch.channels_last)


def fold(network: nn.Sequential) -> nn.Sequential:
    """A copy with every `Branches` as one convolution and a batch norm that only adds: the network before `grow`."""
    folded = copy.deepcopy(network)
    _fold(folded)
    return folded


@torch.no_grad()
def _fold(network: nn.Module) -> None:
    if isinstance(network, nn.Sequential):
        for index, layer in enumerate(network):
            if isinstance(layer, Branches):
                weight, bias = layer.folded()
                conv, norm = layer.kernels[0], layer.norms[0]
                conv.weight.copy_(weight)
                if conv.bias is not None:
                    conv.bias.zero_()
                norm.weight.fill_(1)
                norm.bias.copy_(bias)
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
                network[index], network[index + 1] = conv, norm
    for layer in network.children():
        _fold(layer)
