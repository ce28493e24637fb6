"""Synthetic training data and a short recipe. Imports torch; `tests.support.paths` does not."""

from dataclasses import replace

import torch

from tests.support.paths import CARD, DEFAULT, REPOSITORY, VERSION, add_model, heed_ctrl_c
from train import recipe
from train.data import Split
from train.progress import Progress

__all__ = ["CARD", "DEFAULT", "RECIPE", "REPOSITORY", "VERSION", "add_model", "heed_ctrl_c", "quiet", "stripes"]

RECIPE = replace(recipe.find("mnist14k.notes"), epochs=3, batch_size=64, augment=(("shift", {"pixels": 2}),))


def stripes(n, seed):
    """Images whose label is the row that is lit, which a network learns in seconds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (n,), generator=generator)
    images = torch.randint(0, 40, (n, 28, 28, 1), generator=generator, dtype=torch.uint8)
    images[torch.arange(n), 4 + 2 * labels] = 250
    return Split("made up", images, labels)


def quiet():
    return Progress("test", live=False)
