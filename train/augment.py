"""Augmentation of whole batches, uint8 `(N, H, W, C)`. Recipes list the functions by name with their arguments.

The functions compute on the device of the images; the generator must be on the same device.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def apply(
    steps: tuple[tuple[str, dict[str, Any]], ...], images: torch.Tensor, done: float, generator: torch.Generator
) -> torch.Tensor:
    """Apply the named steps in order; `done` is the finished share of the training, 0 to 1."""
    for name, options in steps:
        images = STEPS[name](images, done, generator, **options)
    return images


def flip(images: torch.Tensor, done: float, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image horizontally with probability 0.5."""
    chosen = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


def shift(images: torch.Tensor, done: float, generator: torch.Generator, pixels: int) -> torch.Tensor:
    """Shift each image by up to ±`pixels` in both directions; the border is repeated outwards, as in Keras."""
    n, height, width, _ = images.shape
    down, right = torch.randint(-pixels, pixels + 1, (2, n), generator=generator, device=images.device)
    rows = (torch.arange(height, device=images.device) - down[:, None]).clamp(0, height - 1)[:, :, None]
    columns = (torch.arange(width, device=images.device) - right[:, None]).clamp(0, width - 1)[:, None, :]
    return images[torch.arange(n, device=images.device)[:, None, None], rows, columns]


def affine(
    images: torch.Tensor,
    done: float,
    generator: torch.Generator,
    degrees: float,
    scale: float,
    shear: float,
    pixels: float,
    fade: float,
    bend: float = 0.0,
    outside: str = "zeros",
) -> torch.Tensor:
    """Rotate, scale, shear and shift each image about its centre, and optionally distort it.

    The amounts are drawn uniformly per image, up to ±`degrees`, 1 ± `scale`, ±`shear` and ±`pixels`. Interpolation is
    bilinear, with black outside by default. In the last share `fade` of the training the amounts shrink linearly to
    zero, so that the training ends with the original images.

    Args:
        bend: elastic distortion (Simard et al., 2003). Each of 4 x 4 control points moves by up to ±`bend` pixels in
            both directions, with smooth interpolation between the points.
        outside: what lies outside of the image: "zeros" (black) or "border" (its border is repeated outwards).
    """
    n, height, width, _ = images.shape
    device = images.device
    drawn = torch.rand(6, n, generator=generator, device=device) * 2 - 1
    strength = _strength(done, fade)
    angle, across, up, sheared, right, down = drawn * strength
    angle, across, up, sheared = angle * math.radians(degrees), 1 + across * scale, 1 + up * scale, sheared * shear
    cos, sin = angle.cos(), angle.sin()  # from new to old positions, in units of -1 to 1
    rows = [
        [cos / across, (cos * sheared - sin) / up, right * 2 * pixels / width],
        [sin / across, (sin * sheared + cos) / up, down * 2 * pixels / height],
    ]
    grid = F.affine_grid(
        torch.stack([torch.stack(row, 1) for row in rows], 1), [n, 1, height, width], align_corners=False
    )
    if bend:
        coarse = (torch.rand(n, 4, 4, 2, generator=generator, device=device) * 2 - 1) * (strength * bend * 2)
        row_weights, column_weights = (_interpolation(4, size).to(device) for size in (height, width))
        smooth = torch.einsum("yi,nijk,xj->nyxk", row_weights, coarse, column_weights)
        grid += smooth / torch.tensor([width, height], device=device)
    sampled = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode=outside, align_corners=False)
    return sampled.round_().to(torch.uint8).permute(0, 2, 3, 1)


def _strength(done: float, fade: float) -> float:
    """Return 1, falling linearly to 0 over the last share `fade` of the training."""
    return min(1.0, (1 - done) / fade) if fade else 1.0


def _interpolation(points: int, pixels: int) -> torch.Tensor:
    """Return cubic interpolation weights `(pixels, points)`; the first and last point are at the ends."""
    unit = torch.eye(points)[None, :, :, None]
    weights: torch.Tensor = F.interpolate(unit, (pixels, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T
    return weights


def tone(
    images: torch.Tensor, done: float, generator: torch.Generator, contrast: float, light: float, fade: float
) -> torch.Tensor:
    """Reduce each image's contrast by up to the share `contrast` and add uneven light of up to `light` (1: white).

    The amounts are drawn uniformly per image. The light varies smoothly between nine points, from zero to the image's
    amount. Values are clipped at white. `fade` as in `affine`.
    """
    n, height, width, _ = images.shape
    strength = _strength(done, fade)
    reduction, amount = torch.rand(2, n, 1, 1, 1, generator=generator, device=images.device) * strength
    lights = torch.rand(n, 1, 3, 3, generator=generator, device=images.device) * amount * (255 * light)
    added = F.interpolate(lights, (height, width), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    toned: torch.Tensor = images * (1 - reduction * contrast) + added
    return toned.round_().clamp_(max=255).to(torch.uint8)


def noise(images: torch.Tensor, done: float, generator: torch.Generator, sd: float, fade: float) -> torch.Tensor:
    """Add Gaussian noise to every value, with a standard deviation of up to `sd` (1: white).

    The standard deviations are drawn uniformly per image. Values are clipped at black and white. `fade` as in `affine`.
    """
    device = images.device
    amounts = torch.rand(len(images), 1, 1, 1, generator=generator, device=device) * (_strength(done, fade) * 255 * sd)
    added = torch.randn(images.shape, generator=generator, device=device).mul_(amounts)
    return added.add_(images).round_().clamp_(0, 255).to(torch.uint8)


def colour(
    images: torch.Tensor, done: float, generator: torch.Generator, light: float, contrast: float, tint: float
) -> torch.Tensor:
    """Change each image's light by up to ±`light` (1: white), contrast by 1 ± `contrast`, channels by 1 ± `tint`.

    The amounts are drawn uniformly per image. Values are clipped at black and white.
    """
    n, channels = len(images), images.shape[3]
    drawn = torch.rand(n, 2 + channels, generator=generator, device=images.device) * 2 - 1
    lighter, steeper, tints = drawn[:, :1], drawn[:, 1:2], drawn[:, 2:]
    factors = (1 + steeper * contrast) * (1 + tints * tint)
    offsets = 127.5 - factors * 127.5 + lighter * (255 * light)
    changed: torch.Tensor = images * factors[:, None, None] + offsets[:, None, None]
    return changed.round_().clamp_(0, 255).to(torch.uint8)


def cutout(images: torch.Tensor, done: float, generator: torch.Generator, share: float) -> torch.Tensor:
    """Fill a square of each image with its mean colour (DeVries and Taylor, arXiv 1708.04552).

    The square's side is `share` of the image's; its centre is anywhere, so a part may lie outside.
    """
    n, height, width, _ = images.shape
    centres = torch.rand(2, n, 1, generator=generator, device=images.device)
    rows = (torch.arange(height, device=images.device) + 0.5) / height - centres[0]
    columns = (torch.arange(width, device=images.device) + 0.5) / width - centres[1]
    hidden = (rows.abs() < share / 2)[:, :, None, None] & (columns.abs() < share / 2)[:, None, :, None]
    means = images.float().mean((1, 2), keepdim=True).round().to(torch.uint8)
    return torch.where(hidden, means, images)


STEPS: dict[str, Callable[..., torch.Tensor]] = {
    "flip": flip,
    "shift": shift,
    "affine": affine,
    "tone": tone,
    "noise": noise,
    "colour": colour,
    "cutout": cutout,
}
