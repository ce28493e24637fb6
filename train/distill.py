"""What a training minimises: the labels' cross-entropy, or a teacher's too, on the very views that the student sees."""

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
from train.runs import Run, RunError

# float32 logits (N, K), labels (N,) and the uint8 images (N, H, W, C) they belong to → the loss, in nats
Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def labels_alone(scores: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy."""
    return F.cross_entropy(scores, labels)


class Teacher:
    """A finished run of another recipe, from which a student learns (Hinton et al., arXiv 1503.02531).

    The loss is `(1 - share)` of the labels' cross-entropy and `share` of that with the teacher's probabilities, both
    networks' logits divided by `temperature`, times its square, so that the gradients keep their size.
    """

    def __init__(self, recipe: Recipe, kind: Kind, runs: Path) -> None:
        """Take seed 0 of the teacher that the student's recipe names: of a twin the twin, which learned from no more.

        Args:
            runs: where run folders lie. Draws from torch's global generator, as building a network does.
        Raises:
            RunError: the teacher's run is not finished, or was trained with other settings than its recipe has now.
        """
        self.share, self.temperature = recipe.distill["share"], recipe.distill["temperature"]
        self.recipe = find(recipe.distill["teacher"])
        run = Run.of(self.recipe.name, kind, 0, runs)
        if not (run.folder / "result.json").exists():
            twin = " --twin" if kind == "twin" else ""
            raise RunError(f"Its teacher is not there: first train it with python -m train {self.recipe.name}{twin}.")
        run.check_settings(self.recipe.settings())
        self.recipe = on_this_processor(self.recipe)
        self.network = networks.load(self.recipe, run.weights)
        self.sha256 = hashlib.sha256(run.weights.read_bytes()).hexdigest()

    def to(self, device: torch.device) -> "Teacher":
        """Move the teacher to a device, in place; it computes in what suits that device."""
        self.network.to(device)
        self.recipe = on_device(find(self.recipe.name), device)
        return self

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `(N, H, W, C)` → float32 `(N, K)`, computed as the teacher's training did."""
        with autocast(self.recipe.precision, images.device):
            return self.network(network_input(images, self.recipe)).float()

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The student's loss, an `Objective`."""
        taught = (self.logits(images) / self.temperature).softmax(1)
        soft = F.cross_entropy(scores / self.temperature, taught) * self.temperature**2
        return (1 - self.share) * F.cross_entropy(scores, labels) + self.share * soft
