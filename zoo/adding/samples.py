"""Pictures to compare a model with its file: made by program, or from a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.card import Input
from zoo.errors import BadInput, WrongUsage
from zoo.images.prepare import prepare

MADE = 12
MAX_PICTURES = 200
MAX_LISTED = 20_000  # files of a folder
SIZES = ((240, 320), (320, 240), (300, 300), (64, 96), (500, 375))  # heights and widths, larger and smaller than inputs


@cache
def made_pictures(count: int = MADE) -> tuple[npt.NDArray[np.uint8], ...]:
    """Pictures with gradients, shapes and noise, always the same: uint8 `(H, W, 3)` of several sizes."""
    generator = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j][..., np.newaxis]
        frequency, phase = generator.uniform(0.5, 12, 3), generator.uniform(0, 6, 3)
        waves = np.sin(frequency * (rows * generator.uniform(0, 6) + columns * generator.uniform(0, 6)) + phase)
        centre = generator.uniform(0.2, 0.8, 2)
        distance = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
        disc = (distance < generator.uniform(0.01, 0.1)) * generator.uniform(-160, 160, 3)
        noise = generator.normal(0, generator.uniform(0, 40), (height, width, 3))
        picture = 128 + generator.uniform(10, 110) * waves + disc + noise
        pictures.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    return tuple(pictures)


def folder_pictures(folder: Path) -> list[str]:
    """The files of a folder and its subfolders, sorted; hidden ones are left out. Raises WrongUsage: not a folder."""
    if not folder.is_dir():
        raise WrongUsage(f"{folder} is not a folder of pictures: check --samples.")
    paths: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in names if not name.startswith(".")]
        if len(paths) > MAX_LISTED:
            break
    return sorted(paths)


def prepared_pictures(sources: Sequence[Any], expected: Input) -> npt.NDArray[np.uint8]:
    """Up to `MAX_PICTURES` of the sources that can be read, as the network takes them: uint8 `(N, H, W, C)`.

    Raises:
        WrongUsage: none can be read.
    """
    arrays = []
    for source in sources:
        try:
            arrays.append(prepare(source, expected)[0])
        except BadInput:
            continue
        if len(arrays) == MAX_PICTURES:
            break
    if not arrays:
        raise WrongUsage("--samples has no picture that can be read: choose a folder with pictures.")
    return np.stack(arrays)
