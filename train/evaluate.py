"""Evaluation of a network: logits, accuracy with its confidence interval, loss, calibration."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from train.recipe import Recipe
from zoo.evaluation import BINS, reliability_of


def network_input(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """uint8 `(N, H, W, C)` → normalised float32 `(N, C, H, W)` in channels_last memory."""
    mean, sd = _constant(recipe.mean, images.device), _constant(recipe.sd, images.device)
    return ((images.float() - mean) / sd).permute(0, 3, 1, 2)


@cache  # no copy from the host is allowed while a CUDA graph is captured
@torch.inference_mode(False)
def _constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, device=device)


@torch.inference_mode()
def logits(network: nn.Module, images: torch.Tensor, recipe: Recipe, batch: int = 500) -> torch.Tensor:
    """uint8 `(N, H, W, C)` → float32 `(N, K)`, in evaluation mode; restores the network's mode."""
    was_training = network.training
    network.eval()
    try:
        return torch.cat([network(network_input(chunk, recipe)) for chunk in images.split(batch)])
    finally:
        network.train(was_training)


def accuracy(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of rows whose largest logit is that of the label, 0 to 1."""
    return (scores.argmax(1) == labels).double().mean().item()


def loss(scores: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> float:
    """Return the mean cross-entropy in nats."""
    return F.cross_entropy(scores.double(), labels, label_smoothing=smoothing).item()


def calibration_error(scores: torch.Tensor, labels: torch.Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error with equal-width bins, 0 to 1 (`zoo.evaluation.reliability_of`)."""
    confidence, chosen = scores.double().softmax(1).max(1)
    return reliability_of(confidence.cpu().numpy(), (chosen == labels).cpu().numpy(), bins)[0]


def confusion_counts(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return int64 `(K, K)`: the number of images by label (rows) and predicted class (columns)."""
    k = scores.shape[1]
    return torch.bincount(labels * k + scores.argmax(1), minlength=k * k).view(k, k)


def fit_temperature(scores: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> float:
    """Return the T > 0 that minimises the cross-entropy of `logits / T` (Guo et al., arXiv 1706.04599).

    Args:
        smoothing: label smoothing, for few images.
    """
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(60):  # the loss is convex in log T near its minimum: ternary search to 1e-9
        third = (high - low) / 3
        left, right = (loss(scores / math.exp(x), labels, smoothing) for x in (low + third, high - third))
        if left < right:
            high -= third
        else:
            low += third
    return math.exp((low + high) / 2)


def unsure_below(scores: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """Return the median top probability of the wrong answers: half of them are below it. 0.5 if there are none."""
    confidence, chosen = (scores.double() / temperature).softmax(1).max(1)
    wrong = confidence[chosen != labels]
    return wrong.median().item() if len(wrong) else 0.5
