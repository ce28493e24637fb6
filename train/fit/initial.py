"""Initial weights from a model of the zoo (`--from`), read from its ONNX file, so that it works from the wheel.

In the file batch norm is folded into the convolutions. `load` undoes that: every batch norm gets the mean and the
variance that its input has on the new images, and the scale and shift that together leave the function unchanged.
"""

from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from train.evaluate import network_input
from train.networks import Dropout, Residual
from train.recipe import Recipe
from zoo.card import Card
from zoo.errors import WrongUsage

SAMPLE = 512  # images on which the statistics are measured


def source_settings(card: Card) -> dict[str, Any]:
    """The settings of a model's training that its successor needs. Raises WrongUsage for another kind of model."""
    settings = card.trained.training.settings
    known = {"network", "mean", "sd"} <= settings.keys() and isinstance(settings.get("network_options", {}), dict)
    if not known or settings["network"] not in ("cifar90k", "mnist_stack", "resnet8") or card.quantization:
        raise WrongUsage(
            f"Training cannot start from {card.name}: choose a model of cifar90k, resnet8 or mnist14k that is not int8."
        )
    return settings


def load(network: nn.Sequential, content: bytes, recipe: Recipe, images: torch.Tensor) -> int:
    """Copy the weights of an ONNX file into a network of the same architecture, except a last layer of another size.

    Args:
        images: training images, uint8 `(N, H, W, C)`.
    Returns:
        the number of layers that were copied.
    Raises:
        WrongUsage: the architectures differ.
    """
    weights = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer
    }
    pairs = list(_layers(network, "network."))
    copied = 0
    for number, (prefix, layer, norm) in enumerate(pairs):
        weight = weights.get(f"{prefix}.weight")
        if weight is None or tuple(weight.shape) != tuple(layer.weight.shape):
            if number == len(pairs) - 1 and weight is not None:
                continue  # the logits of other classes
            raise WrongUsage("The weights to start from are of another architecture: omit --arch and --size.")
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.array(weight)))
            bias = weights.get(f"{prefix}.bias")
            values = torch.zeros(len(weight)) if bias is None else torch.from_numpy(np.array(bias))
            if norm is not None:
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
                norm.weight.fill_(1)
                norm.bias.copy_(values)
            elif layer.bias is not None:
                layer.bias.copy_(values)
        copied += 1
    _measure_statistics(network, recipe, images[:SAMPLE])
    return copied


def _layers(network: nn.Sequential, prefix: str) -> Any:
    """Each layer with weights, its name in the ONNX file, and the batch norm that is folded into it.

    The numbers in the names are those of `train.onnx_graph.fold_batch_norm`, without folded layers and dropout.
    """
    number = 0
    norms = (nn.BatchNorm2d, nn.BatchNorm1d)
    modules = [module for module in network if not isinstance(module, Dropout)]
    for layer, following in zip_longest(modules, modules[1:]):
        if isinstance(layer, norms):
            continue
        if isinstance(layer, Residual):
            yield from _layers(layer.long, f"{prefix}{number}.long.")
            yield from _layers(layer.short, f"{prefix}{number}.short.")
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            yield f"{prefix}{number}", layer, following if isinstance(following, norms) else None
        number += 1


@torch.no_grad()
def _measure_statistics(network: nn.Sequential, recipe: Recipe, images: torch.Tensor) -> None:
    """Give every batch norm the statistics of its input, without a change of the function."""
    norms = [module for module in network.modules() if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d))]

    def measure(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        mean, variance = values.mean(1), values.var(1).clamp(min=1e-4)
        module.bias.add_(mean)  # type: ignore[operator]
        module.weight.copy_((variance + module.eps).sqrt())  # type: ignore[operator]
        module.running_mean.copy_(mean)  # type: ignore[operator]
        module.running_var.copy_(variance)  # type: ignore[operator]

    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    network.eval()
    network(network_input(images, recipe))
    for handle in handles:
        handle.remove()
