"""Image corruptions of whole batches, after CIFAR-10-C and MNIST-C, at 5 severities.

Every function takes uint8 images `(N, H, W, C)`, one of its five strengths and a generator, and returns images of the
same shape and type.

Photographs: corruptions and strengths of Hendrycks and Dietterich (arXiv 1903.12261), as in their program for CIFAR-10,
without glass blur and without snow and frost, which need additional images. Digits: corruptions of Mu and Gilmer
(arXiv 1906.02337), and thicker, thinner, larger and smaller digits. Their paper has one strength each, so the strengths
are our own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv


def _channels_first(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Adapt a function of float32 `(N, C, H, W)` from 0 to 1 to uint8 `(N, H, W, C)`."""

    def on_bytes(images: torch.Tensor, strength: Any, generator: torch.Generator) -> torch.Tensor:
        values = function(images.permute(0, 3, 1, 2).float() / 255, strength, generator)
        return (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)

    return on_bytes


@_channels_first
def gaussian_noise(values: torch.Tensor, sd: float, generator: torch.Generator) -> torch.Tensor:
    return values + sd * torch.randn(values.shape, generator=generator)


@_channels_first
def shot_noise(values: torch.Tensor, photons: float, generator: torch.Generator) -> torch.Tensor:
    return torch.poisson(values * photons, generator=generator) / photons


@_channels_first
def impulse_noise(values: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.rand(values.shape, generator=generator)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn < share, 1.0, values))


def _filtered(values: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Filter each image with its own kernel, `(N, k, k)`; the border is repeated outwards."""
    n, channels, height, width = values.shape
    half = kernels.shape[-1] // 2
    padded = F.pad(values, [half] * 4, mode="replicate").reshape(1, n * channels, height + 2 * half, width + 2 * half)
    weights = kernels.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, weights, groups=n * channels).view_as(values)


@_channels_first
def defocus_blur(values: torch.Tensor, disk: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """Blur with a disk: its radius, and the sd of a Gaussian that softens its edge, in pixels."""
    radius, softness = disk
    offset = np.arange(-4, 5)
    inside = (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.float32)
    kernel = torch.from_numpy(cv2.GaussianBlur(inside / inside.sum(), (3, 3), softness))
    return _filtered(values, kernel.expand(len(values), -1, -1))


@_channels_first
def motion_blur(values: torch.Tensor, path: tuple[int, float], generator: torch.Generator) -> torch.Tensor:
    """Blur along a line at an angle of -45 to 45 degrees: its reach in pixels, and the sd of its Gaussian weights."""
    reach, sd = path
    angles = (torch.rand(len(values), generator=generator) - 0.5) * (np.pi / 2)
    offset = torch.arange(-reach, reach + 1).float()
    along = offset * angles.cos()[:, None, None] + offset[:, None] * angles.sin()[:, None, None]
    across = offset[:, None] * angles.cos()[:, None, None] - offset * angles.sin()[:, None, None]
    kernels = torch.exp(-0.5 * (along / sd) ** 2) * (1 - across.abs()).clamp(min=0)
    return _filtered(values, kernels / kernels.sum((1, 2), keepdim=True))


@_channels_first
def zoom_blur(values: torch.Tensor, max_zoom: float, generator: torch.Generator) -> torch.Tensor:
    """Average the image with magnified copies, in steps of 0.01."""
    zooms = np.arange(1, max_zoom, 0.01)
    copies = [tv.affine(values, 0, [0, 0], float(zoom), [0, 0], tv.InterpolationMode.BILINEAR) for zoom in zooms]
    return (values + torch.stack(copies).sum(0)) / (len(copies) + 1)


@_channels_first
def fog(values: torch.Tensor, haze: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """Add uneven light: octaves of noise, each half as wide as the one before and `1 / decay` as strong."""
    density, decay = haze
    n, _, height, width = values.shape
    cloud = torch.zeros(n, 1, height, width)
    for octave in range(5):
        noise = torch.rand(n, 1, 2**octave + 1, 2**octave + 1, generator=generator)
        cloud += F.interpolate(noise, (height, width), mode="bicubic", align_corners=True) / decay**octave
    low, high = cloud.amin((1, 2, 3), keepdim=True), cloud.amax((1, 2, 3), keepdim=True)
    brightest = values.amax((1, 2, 3), keepdim=True)
    return (values + density * (cloud - low) / (high - low)) * brightest / (brightest + density)


@_channels_first
def brightness(values: torch.Tensor, added: float, generator: torch.Generator) -> torch.Tensor:
    """Add to the largest channel (V of HSV); the other channels keep their ratio to it."""
    largest = values.amax(1, keepdim=True)
    scaled = values * (largest + added).clamp(max=1) / largest.clamp(min=1e-6)
    return torch.where(largest > 0, scaled, torch.full_like(values, added))


@_channels_first
def contrast(values: torch.Tensor, factor: float, generator: torch.Generator) -> torch.Tensor:
    mean = values.mean((2, 3), keepdim=True)
    return mean + (values - mean) * factor


@_channels_first
def pixelate(values: torch.Tensor, scale: float, generator: torch.Generator) -> torch.Tensor:
    height, width = values.shape[2:]
    small = F.interpolate(values, (int(height * scale), int(width * scale)), mode="area")
    return F.interpolate(small, (height, width), mode="nearest")


def jpeg(images: torch.Tensor, quality: int, generator: torch.Generator) -> torch.Tensor:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    files = [cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1] for image in images.numpy()]
    decoded = [np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR)) for file in files]
    return torch.from_numpy(np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in decoded]))


@_channels_first
def elastic(values: torch.Tensor, warp: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """Displace every pixel by up to about `pixels`; displacements are smoothed over `smoothness` pixels."""
    pixels, smoothness = warp
    n, _, height, width = values.shape
    drawn = torch.rand(n, 2, height, width, generator=generator) * 2 - 1
    smooth = tv.gaussian_blur(drawn, [2 * round(3 * smoothness) + 1] * 2, [smoothness] * 2)
    displacement = (smooth / smooth.abs().amax((2, 3), keepdim=True) * pixels).permute(0, 2, 3, 1)
    identity = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 1, height, width], align_corners=False)
    grid = identity + displacement * 2 / torch.tensor([width, height])
    return F.grid_sample(values, grid, padding_mode="border", align_corners=False)


def _affine(
    images: torch.Tensor,
    generator: torch.Generator,
    angle: float = 0,
    move: float = 0,
    scale: float = 1,
    shear: float = 0,
) -> torch.Tensor:
    """Transform every image by the full amount, with random signs."""
    channels_first = images.permute(0, 3, 1, 2)
    signs = torch.randint(0, 2, (2, len(images)), generator=generator) * 2 - 1
    transformed = torch.empty_like(channels_first)
    for across in (-1, 1):
        for down in (-1, 1):
            rows = (signs[0] == across) & (signs[1] == down)
            transformed[rows] = tv.affine(
                channels_first[rows],
                angle * across,
                [move * across, move * down],
                scale,
                [shear * across, 0.0],
                tv.InterpolationMode.BILINEAR,
            )
    return transformed.permute(0, 2, 3, 1)


def rotate(images: torch.Tensor, degrees: float, generator: torch.Generator) -> torch.Tensor:
    return _affine(images, generator, angle=degrees)


def shear(images: torch.Tensor, degrees: float, generator: torch.Generator) -> torch.Tensor:
    return _affine(images, generator, shear=degrees)


def shift(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    return _affine(images, generator, move=pixels)


def rescale(images: torch.Tensor, scale: float, generator: torch.Generator) -> torch.Tensor:
    return _affine(images, generator, scale=scale)


def thicken(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Widen strokes by up to one pixel per side at strength 1, and by up to two at 2."""
    return _morphed(images, strength, cv2.dilate)


def thin(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Narrow strokes by up to one pixel per side at strength 1."""
    return _morphed(images, strength, cv2.erode)


def _morphed(images: torch.Tensor, strength: float, operation: Any) -> torch.Tensor:
    """Apply a morphological operation `strength` times, blending the last two results for a fraction."""
    kernel = np.ones((3, 3), np.uint8)
    times, share = int(strength), strength - int(strength)
    morphed = []
    for image in images.numpy()[..., 0]:
        less = operation(image, kernel, iterations=times) if times else image
        more = operation(image, kernel, iterations=times + 1)
        morphed.append(cv2.addWeighted(less, 1 - share, more, share, 0))
    return torch.from_numpy(np.stack(morphed)[..., np.newaxis])


def stripe(images: torch.Tensor, width: int, generator: torch.Generator) -> torch.Tensor:
    """Invert a vertical band of `width` pixels in the middle third."""
    left = torch.randint(9, 19 - width + 1, (len(images), 1), generator=generator)
    columns = torch.arange(images.shape[2])
    inside = ((columns >= left) & (columns < left + width))[:, None, :, None]
    return torch.where(inside, 255 - images, images)


@dataclass(frozen=True)
class Kind:
    """A kind of corruption."""

    change: Callable[[torch.Tensor, Any, torch.Generator], torch.Tensor]
    strengths: tuple[Any, Any, Any, Any, Any]  # for severity 1 to 5


KINDS: dict[str, dict[str, Kind]] = {  # dataset → name → kind
    "cifar10": {
        "gaussian noise": Kind(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.1)),
        "shot noise": Kind(shot_noise, (500, 250, 100, 75, 50)),
        "impulse noise": Kind(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
        "defocus blur": Kind(defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
        "motion blur": Kind(motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
        "zoom blur": Kind(zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
        "fog": Kind(fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
        "brightness": Kind(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
        "contrast": Kind(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
        "elastic": Kind(elastic, ((0.5, 2.0), (1.0, 2.0), (1.5, 2.0), (2.0, 2.0), (2.5, 2.0))),
        "pixelate": Kind(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
        "jpeg": Kind(jpeg, (80, 65, 58, 50, 40)),
    },
    "mnist": {
        "shot noise": Kind(shot_noise, (60, 25, 12, 5, 3)),
        "impulse noise": Kind(impulse_noise, (0.03, 0.06, 0.1, 0.17, 0.27)),
        "motion blur": Kind(motion_blur, ((3, 1.0), (4, 1.5), (5, 2.0), (6, 2.5), (8, 3.0))),
        "fog": Kind(fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
        "brightness": Kind(brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
        "contrast": Kind(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
        "stripe": Kind(stripe, (1, 2, 3, 4, 6)),
        "elastic": Kind(elastic, ((0.5, 2.0), (1.0, 2.0), (1.5, 2.0), (2.0, 2.0), (2.5, 2.0))),
        "pixelate": Kind(pixelate, (0.75, 0.6, 0.5, 0.4, 0.3)),
        "rotate": Kind(rotate, (10, 20, 25, 30, 40)),
        "shear": Kind(shear, (10, 17, 22, 27, 33)),
        "shift": Kind(shift, (1, 2, 3, 4, 5)),
        "larger": Kind(rescale, (1.1, 1.15, 1.2, 1.25, 1.3)),
        "smaller": Kind(rescale, (0.9, 0.8, 0.7, 0.6, 0.5)),
        "thicker": Kind(thicken, (0.25, 0.5, 0.75, 1.0, 1.5)),
        "thinner": Kind(thin, (0.2, 0.4, 0.6, 0.8, 1.0)),
    },
}
