"""Whole-batch augmentation: functions of uint8 `(N, H, W, C)` batches, named by recipes with their arguments.

They compute where the images lie; the generator belongs to the same device.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F


def apply(
    steps: tuple[tuple[str, dict[str, Any]], ...], images: torch.Tensor, done: float, generator: torch.Generator
) -> torch.Tensor:
    """Run the named steps in order; `done` is the share of the training that is over, 0 to 1."""
    for name, options in steps:
        images = globals()[name](images, done, generator, **options)
    return images


def flip(images: torch.Tensor, done: float, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images left to right."""
    chosen = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


def shift(images: torch.Tensor, done: float, generator: torch.Generator, pixels: int) -> torch.Tensor:
    """Move each image by up to ±`pixels` in both directions; the border is repeated outwards, as Keras does."""
    n, height, width, _ = images.shape
    down, right = torch.randint(-pixels, pixels + 1, (2, n), generator=generator, device=images.device)
    rows = (torch.arange(height, device=images.device) - down[:, None]).clamp(0, height - 1)[:, :, None]
    columns = (torch.arange(width, device=images.device) - right[:, None]).clamp(0, width - 1)[:, None, :]
    return images[torch.arange(n, device=images.device)[:, None, None], rows, columns]


def affine(
    images: torch.Tensor, done: float, generator: torch.Generator, degrees: float, scale: float, shear: float,
    pixels: float, fade: float, bend: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Turn by up to ±`degrees`, magnify by up to 1 ± `scale`, shear by up to ±`shear` and move by up to ±`pixels`.

    Each image by amounts of its own, uniformly drawn, about its middle; bilinear, black outside. Not affine is the
    bend: each of 4 x 4 places over the image moves by up to ±`bend` pixels in both directions, smoothly between them
    (elastic distortion: Simard et al., 2003). In the last share `fade` of the training the amounts shrink linearly to
    nothing, so that it ends with the images as they are.
    """
    n, height, width, _ = images.shape
    device = images.device
    drawn = torch.rand(6, n, generator=generator, device=device) * 2 - 1
    strength = _strength(done, fade)
    angle, across, up, sheared, right, down = drawn * strength
    angle, across, up, sheared = angle * math.radians(degrees), 1 + across * scale, 1 + up * scale, sheared * shear
    cos, sin = angle.cos(), angle.sin()  # from places in the new image to places in the old one, in units of -1 to 1
    rows = [
        [cos / across, (cos * sheared - sin) / up, right * 2 * pixels / width],
        [sin / across, (sin * sheared + cos) / up, down * 2 * pixels / height],
    ]
    places = F.affine_grid(
        torch.stack([torch.stack(row, 1) for row in rows], 1), [n, 1, height, width], align_corners=False
    )
    if bend:
        coarse = (torch.rand(n, 4, 4, 2, generator=generator, device=device) * 2 - 1) * (strength * bend * 2)
        down_from, across_from = (_between(4, size).to(device) for size in (height, width))
        smooth = torch.einsum("yi,nijk,xj->nyxk", down_from, coarse, across_from)
        places += smooth / torch.tensor([width, height], device=device)
    moved = F.grid_sample(images.permute(0, 3, 1, 2).float(), places, align_corners=False)
    return moved.round_().to(torch.uint8).permute(0, 2, 3, 1)


def _strength(done: float, fade: float) -> float:
    """1, and in the last share `fade` of the training linearly less, 0 at its end."""
    return min(1.0, (1 - done) / fade) if fade else 1.0


def _between(places: int, pixels: int) -> torch.Tensor:
    """How much each of the places, the first and last at the ends, gives to each pixel, cubic: `(pixels, places)`."""
    unit = torch.eye(places)[None, :, :, None]
    return F.interpolate(unit, (pixels, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T


def tone(
    images: torch.Tensor, done: float, generator: torch.Generator, contrast: float, light: float, fade: float
) -> torch.Tensor:
    """Take away up to `contrast` of each image's contrast and let up to `light`, a share of white, fall upon it.

    Each image by amounts of its own, uniformly drawn. The light is uneven: it varies smoothly between nine places,
    from none to all of the image's amount. Brighter than white is white. `fade` as for `affine`.
    """
    n, height, width, _ = images.shape
    strength = _strength(done, fade)
    taken, amount = torch.rand(2, n, 1, 1, 1, generator=generator, device=images.device) * strength
    lights = torch.rand(n, 1, 3, 3, generator=generator, device=images.device) * amount * (255 * light)
    fallen = F.interpolate(lights, (height, width), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    return (images * (1 - taken * contrast) + fallen).round_().clamp_(max=255).to(torch.uint8)


def noise(images: torch.Tensor, done: float, generator: torch.Generator, sd: float, fade: float) -> torch.Tensor:
    """Add Gaussian noise of up to `sd`, a share of white, to every value; each image of an amount of its own.

    The amounts are uniformly drawn; darker than black is black, brighter than white is white. `fade` as for `affine`.
    """
    device = images.device
    amounts = torch.rand(len(images), 1, 1, 1, generator=generator, device=device) * (_strength(done, fade) * 255 * sd)
    added = torch.randn(images.shape, generator=generator, device=device).mul_(amounts)
    return added.add_(images).round_().clamp_(0, 255).to(torch.uint8)
