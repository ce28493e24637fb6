"""The networks, as plain stacks of torch layers in the order in which the data pass them.

Every network function returns an `nn.Sequential` that takes float32 `(N, C, H, W)` and returns logits `(N, K)`.
Comments at line ends give `output size, receptive field` in pixels.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from train.recipe import Recipe

# Building blocks: short lists of torch layers, and modules that torch does not have.


class Dropout(nn.Module):
    """Fast dropout (Srivastava et al., 2014) for channels_last activations on a CPU.

    torch's dropout draws one Bernoulli variable per value on one thread, which takes 31 % of the training step of
    mnist14k.notes. This module cuts masks out of a pool of random values. `train()`, called at the start of an epoch,
    discards the pool. The first batch draws a new one, a million values larger than a mask, and every batch takes its
    mask from a random position. Identity in evaluation mode.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.pool = torch.empty(0)

    def train(self, mode: bool = True) -> "Dropout":
        self.pool = torch.empty(0)
        return super().train(mode)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.is_cuda:  # torch's dropout is fast there, and a CUDA graph can contain it
            return F.dropout(values, self.rate, self.training)
        return values * self._mask(values) if self.training else values

    def _mask(self, values: torch.Tensor) -> torch.Tensor:
        """Return zeros with probability `rate`, else 1 / (1 - rate), in the type and memory format of `values`."""
        size = values.numel()
        if len(self.pool) < size or self.pool.dtype != values.dtype:
            bits = torch.empty((size + 2**20) // 4 + 1, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
            self.pool = (bits >= round(self.rate * 65536) - 32768).to(values.dtype) / (1 - self.rate)
        start = int(torch.randint(len(self.pool) - size + 1, ()))
        mask = self.pool[start : start + size]
        if values.ndim == 2:
            return mask.view(values.shape)
        n, channels, height, width = values.shape
        return mask.view(n, height, width, channels).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"{self.rate}"


def conv(inputs: int, outputs: int, kernel: int, dropout: float = 0.0) -> list[nn.Module]:
    """Valid convolution without bias, batch norm, ReLU and, where `dropout` > 0, dropout."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return [*layers, Dropout(dropout)] if dropout else layers


def pooled(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Valid convolution without bias, max pool, batch norm, ReLU; the last two process a quarter of the values."""
    return [
        nn.Conv2d(inputs, outputs, kernel, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def separable(inputs: int, outputs: int, same: bool, dropout: float = 0.0) -> list[nn.Module]:
    """Depthwise 3x3 without bias, pointwise with bias (Keras' SeparableConv2D), batch norm, ReLU, dropout."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, inputs, 3, padding=1 if same else 0, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return [*layers, Dropout(dropout)] if dropout else layers


def light(inputs: int, outputs: int, same: bool = True) -> list[nn.Module]:
    """Depthwise 3x3 and pointwise convolution, both without bias, batch norm, ReLU."""
    return [
        nn.Conv2d(inputs, inputs, 3, padding=1 if same else 0, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def plain(inputs: int, outputs: int, kernel: int, same: bool = False) -> list[nn.Module]:
    """Convolution with bias, and ReLU."""
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 if same else 0), nn.ReLU(inplace=True)]


class Residual(nn.Module):
    """`relu(long(x) + short(x))` (He et al., arXiv 1512.03385); without `relu` only the sum."""

    def __init__(self, long: nn.Sequential, short: nn.Sequential, relu: bool = True) -> None:
        super().__init__()
        self.long, self.short, self.relu = long, short, relu

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        total = self.long(values) + self.short(values)
        return torch.relu(total) if self.relu else total


def residual(inputs: int, outputs: int, stride: int) -> Residual:
    """Two 3x3 convolutions with batch norm, parallel to a 1x1 convolution if the shape changes, else the identity."""
    long = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
    )
    return Residual(long, nn.Sequential(*([nn.Conv2d(inputs, outputs, 1, stride)] if stride > 1 else [])))


def light_residual(channels: int, relu: bool = True) -> Residual:
    """Two separable convolutions of the same size, parallel to the identity."""
    long = nn.Sequential(*light(channels, channels), *light(channels, channels)[:-1])
    return Residual(long, nn.Sequential(), relu)


def mnist_stack(
    body: tuple[int, int, int, int] = (16, 16, 16, 10),
    squeeze_first: bool = False,
    dropout: float = 0.0,
    logit_dropout: float = 0.0,
    classes: int = 10,
) -> nn.Sequential:
    """Build a network of the course notes' week 2: two 3x3 convolutions, max pool, 1x1, four 3x3, 4x4 to the logits.

    With the default `body` it is mnist14k: 14,624 parameters as Keras counts them.

    Args:
        body: channels of the four 3x3 convolutions after the pool.
        squeeze_first: put the 1x1 convolution before the max pool instead of after it.
        dropout: rate after every convolution except the last.
        logit_dropout: rate on the logits.
        classes: number of logits.
    """
    squeeze: list[nn.Module] = conv(32, 10, 1, dropout)
    pool: list[nn.Module] = [nn.MaxPool2d(2)]
    a, b, c, d = body
    return nn.Sequential(
        *conv(1, 16, 3, dropout),  # 26, 3
        *conv(16, 32, 3, dropout),  # 24, 5
        *(squeeze + pool if squeeze_first else pool + squeeze),  # 12, 6
        *conv(10, a, 3, dropout),  # 10, 10
        *conv(a, b, 3, dropout),  # 8, 14
        *conv(b, c, 3, dropout),  # 6, 18
        *conv(c, d, 3, dropout),  # 4, 22
        nn.Conv2d(d, classes, 4, bias=False),  # 1, 28
        nn.Flatten(),
        *([Dropout(logit_dropout)] if logit_dropout else []),
    )


def cifar93k(dropout: float = 0.0, dense_dropout: float = 0.0) -> nn.Sequential:
    """The course notes' week-3 network: six separable convolutions, 92,901 parameters as Keras counts them."""
    dense_end = [Dropout(dense_dropout)] if dense_dropout else []
    return nn.Sequential(
        *separable(3, 64, True, dropout),  # 32, 3
        *separable(64, 64, False, dropout),  # 30, 5
        nn.MaxPool2d(2),  # 15, 6
        *separable(64, 64, True, dropout),  # 15, 10
        *separable(64, 128, False, dropout),  # 13, 14
        nn.MaxPool2d(2),  # 6, 16
        *separable(128, 128, True, dropout),  # 6, 24
        *separable(128, 128, False, dropout),  # 4, 32
        nn.AdaptiveAvgPool2d(1),  # 1, 44 (the notes say 2, 36)
        nn.Flatten(),
        nn.Linear(128, 256),
        nn.BatchNorm1d(256),
        nn.ReLU(inplace=True),
        *dense_end,
        nn.Linear(256, 10),
    )


def mnist4k(skips: bool = False) -> nn.Sequential:
    """Our smallest network: 3,842 parameters as Keras counts them. All convolutions after the first are separable.

    Args:
        skips: use two residual blocks with a convolution between them after the pool: 3,863 parameters.
    """
    if skips:
        middle: list[nn.Module] = [
            light_residual(16, relu=False),  # 12, 14
            *light(16, 19, same=False),  # 10, 18
            light_residual(19, relu=False),  # 10, 26
            nn.MaxPool2d(2),  # 5, 28
            nn.Conv2d(19, 19, 5, groups=19, bias=False),  # 1, 44: learned weights instead of an average
            nn.Flatten(),
            nn.Linear(19, 10),
        ]
    else:
        middle = [
            *light(16, 16),  # 12, 10
            *light(16, 16, same=False),  # 10, 14
            *light(16, 20, same=False),  # 8, 18
            *light(20, 20, same=False),  # 6, 22
            *light(20, 20, same=False),  # 4, 26
            nn.Conv2d(20, 20, 4, groups=20, bias=False),  # 1, 32: learned weights instead of an average
            nn.Flatten(),
            nn.Linear(20, 10),
        ]
    return nn.Sequential(
        *conv(1, 12, 3),  # 26, 3
        *light(12, 16, same=False),  # 24, 5
        nn.MaxPool2d(2),  # 12, 6
        *middle,
    )


def mnist_base() -> nn.Sequential:
    """A reconstruction of the course notes' week-1 network: plain 3x3 and 1x1 convolutions with max pooling."""
    return nn.Sequential(
        *plain(1, 32, 3),  # 26, 3
        *plain(32, 64, 3),  # 24, 5
        nn.MaxPool2d(2),  # 12, 6
        *plain(64, 32, 1),  # 12, 6
        *plain(32, 64, 3),  # 10, 10
        *plain(64, 64, 3),  # 8, 14
        nn.MaxPool2d(2),  # 4, 16
        *plain(64, 32, 1),  # 4, 16
        nn.Conv2d(32, 10, 4),  # 1, 28
        nn.Flatten(),
    )


def cifar_base(dropout: float = 0.0, dense_dropout: float = 0.0) -> nn.Sequential:
    """A reconstruction of the course notes' week-3 base network: a stack of 3x3 convolutions, 1,172,410 parameters."""
    drop, dense_drop = ([Dropout(rate)] if rate else [] for rate in (dropout, dense_dropout))
    return nn.Sequential(
        *plain(3, 48, 3, same=True),  # 32, 3
        *plain(48, 48, 3),  # 30, 5
        nn.MaxPool2d(2),  # 15, 6
        *drop,
        *plain(48, 96, 3, same=True),  # 15, 10
        *plain(96, 96, 3),  # 13, 14
        nn.MaxPool2d(2),  # 6, 16
        *drop,
        *plain(96, 192, 3, same=True),  # 6, 24
        *plain(192, 192, 3),  # 4, 32
        nn.MaxPool2d(2),  # 2, 36
        *drop,
        nn.Flatten(),
        nn.Linear(768, 512),
        nn.ReLU(inplace=True),
        *dense_drop,
        nn.Linear(512, 256),
        nn.ReLU(inplace=True),
        *dense_drop,
        nn.Linear(256, 10),
    )


def cifar90k(relu: bool = True, classes: int = 10, channels: int = 3, reduce: bool = False) -> nn.Sequential:
    """Our network of the size of cifar93k and resnet8: 92,634 parameters as Keras counts them, 12.4 million MACs.

    It is separable and residual, and therefore deep: 17 convolutions in sequence. It uses pooling instead of strides
    because gradients of strided depthwise convolutions are slow on a CPU.

    Args:
        relu: apply a ReLU after the sum of every residual block.
        classes: number of logits.
        channels: of the images, 1 or 3.
        reduce: halve the image in the first convolution, for images of 64 pixels per side at the cost of 32.
    """
    first = nn.Conv2d(channels, 32, 5, 2, padding=2, bias=False) if reduce else None
    return nn.Sequential(
        first or nn.Conv2d(channels, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        light_residual(32, relu),  # 32
        nn.MaxPool2d(2),
        *light(32, 48),
        *(light_residual(48, relu) for _ in range(3)),  # 16
        nn.MaxPool2d(2),
        *light(48, 96),
        *(light_residual(96, relu) for _ in range(3)),  # 8
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, classes),
    )


def resnet8(classes: int = 10, channels: int = 3) -> nn.Sequential:
    """MLPerf Tiny's image classification network: 78,666 parameters as Keras counts them, 12.5 million MACs.

    Its strided convolutions pad both sides by one pixel; Keras' "same" pads one side only.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),  # 32
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        residual(16, 16, 1),  # 32
        residual(16, 32, 2),  # 16
        residual(32, 64, 2),  # 8
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def mnist_fast(width: int = 1) -> nn.Sequential:
    """A network for training against the clock (`train/fast/run.py`): three convolutions with early pooling.

    Args:
        width: factor on the 16, 32 and 64 channels.
    """
    return nn.Sequential(
        *pooled(1, 16 * width, 5),  # 12, 6
        *pooled(16 * width, 32 * width, 3),  # 5, 12
        *conv(32 * width, 64 * width, 3),  # 3, 20
        nn.Flatten(),
        nn.Linear(576 * width, 10),
    )


NETWORKS: dict[str, Callable[..., nn.Sequential]] = {
    "mnist_stack": mnist_stack,
    "mnist4k": mnist4k,
    "mnist_base": mnist_base,
    "mnist_fast": mnist_fast,
    "cifar93k": cifar93k,
    "cifar_base": cifar_base,
    "cifar90k": cifar90k,
    "resnet8": resnet8,
}


def build(recipe: Recipe) -> nn.Sequential:
    """Return a recipe's network with new weights from torch's global generator, in channels_last memory."""
    network = NETWORKS[recipe.network](**recipe.network_options)
    network = as_keras(network) if recipe.keras_defaults else network
    return network.to(memory_format=torch.channels_last)


def load(recipe: Recipe, weights: Path) -> nn.Sequential:
    """Return the recipe's network with the weights of a safetensors file, in evaluation mode."""
    network = build(recipe)
    network.load_state_dict(load_file(weights))
    return network.eval()


def as_keras(network: nn.Sequential) -> nn.Sequential:
    """Apply Keras' defaults in place: Glorot-uniform weights, zero biases, batch norm with eps 1e-3, momentum 0.99."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)):
            layer.eps, layer.momentum = 1e-3, 0.01  # torch's momentum is the weight of the new value
    return network


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """Return the counts `trainable` and `keras`; the latter includes batch norm's moving mean and variance."""
    trainable = sum(parameter.numel() for parameter in network.parameters())
    statistics = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    return {"trainable": trainable, "keras": trainable + statistics}
