"""Training objectives: cross-entropy with the labels, and optionally with a teacher's probabilities (distillation)."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from train import networks
from train.data import Kind
from train.evaluate import network_input
from train.precision import autocast, on_device, on_this_processor
from train.recipe import Recipe, find
from train.runs import Run
from zoo.errors import RunError

# float32 logits (N, K), labels (N,) and their uint8 images (N, H, W, C) → the loss in nats
Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(scores: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy with the labels."""
    return F.cross_entropy(scores, labels)


class Teacher:
    """A finished run of another recipe as the teacher of a student (Hinton et al., arXiv 1503.02531).

    The teacher sees the same augmented images as the student. The loss is `(1 - share)` times the cross-entropy with
    the labels plus `share` times the cross-entropy with the teacher's probabilities. For the latter the logits of both
    networks are divided by `temperature`, and the result is multiplied by its square to preserve the gradients' scale.
    """

    def __init__(self, recipe: Recipe, kind: Kind, runs: Path) -> None:
        """Load seed 0 of the teacher named by the student's recipe. Draws from torch's global generator.

        Args:
            kind: kind of the student's run. The teacher of a calibration run is a calibration run too, so that neither
                has seen the validation split.
            runs: folder with the run folders.
        Raises:
            RunError: the teacher's run is not finished, or was trained with other settings than its recipe has now.
        """
        self.share, self.temperature = float(recipe.distill["share"]), float(recipe.distill["temperature"])
        self.recipe = find(recipe.distill["teacher"])
        run = Run.of(self.recipe.name, kind, 0, runs)
        if not (run.folder / "result.json").exists():
            option = " --calibration-run" if kind == "calibration" else ""
            raise RunError(f"The teacher is not trained yet. Run: python -m train {self.recipe.name}{option}")
        run.check_settings(self.recipe.settings())
        self.recipe = on_this_processor(self.recipe)
        self.network = networks.load(self.recipe, run.weights)
        self.sha256 = hashlib.sha256(run.weights.read_bytes()).hexdigest()

    def to(self, device: torch.device) -> "Teacher":
        """Move the teacher to a device in place, and compute in the precision that suits the device."""
        self.network.to(device)
        self.recipe = on_device(find(self.recipe.name), device)
        return self

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `(N, H, W, C)` → float32 `(N, K)`, in the precision of the teacher's training."""
        with autocast(self.recipe.precision, images.device):
            scores: torch.Tensor = self.network(network_input(images, self.recipe))
        return scores.float()

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the student's loss; the class is an `Objective`."""
        targets = (self.logits(images) / self.temperature).softmax(1)
        soft_loss: torch.Tensor = F.cross_entropy(scores / self.temperature, targets) * self.temperature**2
        hard_loss: torch.Tensor = F.cross_entropy(scores, labels)
        return (1 - self.share) * hard_loss + self.share * soft_loss
