"""What the networks are made of: short lists of torch layers, and the modules that torch does not have."""

import torch
import torch.nn.functional as F
from torch import nn


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014) of channels_last activations, its masks cut from a pool of random ones.

    torch's own draws a Bernoulli variable a value, on one thread: 31 % of the training step of mnist14k.notes. Here
    `train()`, which begins an epoch, throws the pool away; the first batch draws a new one, larger than a mask by a
    million values, and every batch cuts its mask out at a random place. Identity in evaluation mode.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.pool = torch.empty(0)

    def train(self, mode: bool = True) -> "Dropout":
        self.pool = torch.empty(0)
        return super().train(mode)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.is_cuda:  # torch's own costs nothing there, and a CUDA graph can hold it
            return F.dropout(values, self.rate, self.training)
        return values * self._mask(values) if self.training else values

    def _mask(self, values: torch.Tensor) -> torch.Tensor:
        """Zeros at the given rate, else 1 / (1 - rate), in the type and memory order of `values`."""
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
    """Valid convolution without bias, max pool, batch norm, ReLU: the latter two see a quarter of the values."""
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
    """`relu(long(x) + short(x))` (He et al., arXiv 1512.03385), or the sum as it is."""

    def __init__(self, long: nn.Sequential, short: nn.Sequential, relu: bool = True) -> None:
        super().__init__()
        self.long, self.short, self.relu = long, short, relu

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        total = self.long(values) + self.short(values)
        return torch.relu(total) if self.relu else total


def residual(inputs: int, outputs: int, stride: int) -> Residual:
    """Two 3x3 convolutions with batch norm, beside a 1x1 convolution where the shape changes."""
    long = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
    )
    return Residual(long, nn.Sequential(*([nn.Conv2d(inputs, outputs, 1, stride)] if stride > 1 else [])))


def light_residual(channels: int, relu: bool = True) -> Residual:
    """Two separable convolutions of the same size, beside their input."""
    long = nn.Sequential(*light(channels, channels), *light(channels, channels)[:-1])
    return Residual(long, nn.Sequential(), relu)
