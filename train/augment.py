"""Whole-batch augmentation: functions of uint8 `(N, H, W, C)` batches, named by recipes with their arguments."""

from typing import Any

import torch


def apply(
    steps: tuple[tuple[str, dict[str, Any]], ...], images: torch.Tensor, done: float, generator: torch.Generator
) -> torch.Tensor:
    """Run the named steps in order; `done` is the share of the training that is over, 0 to 1."""
    for name, options in steps:
        images = globals()[name](images, done, generator, **options)
    return images


def flip(images: torch.Tensor, done: float, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images left to right."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


def shift(images: torch.Tensor, done: float, generator: torch.Generator, pixels: int) -> torch.Tensor:
    """Move each image by up to ±`pixels` in both directions; what comes in from outside is zero."""
    n, height, width, channels = images.shape
    padded = images.new_zeros(n, height + 2 * pixels, width + 2 * pixels, channels)
    padded[:, pixels : pixels + height, pixels : pixels + width] = images
    top, left = torch.randint(0, 2 * pixels + 1, (2, n), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, :]
    return padded[torch.arange(n)[:, None, None], rows, columns]
