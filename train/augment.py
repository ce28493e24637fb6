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
    """Move each image by up to ±`pixels` in both directions; the border is repeated outwards, as Keras does."""
    n, height, width, _ = images.shape
    down, right = torch.randint(-pixels, pixels + 1, (2, n), generator=generator)
    rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1)[:, :, None]
    columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1)[:, None, :]
    return images[torch.arange(n)[:, None, None], rows, columns]
