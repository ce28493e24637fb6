"""Training against the clock: seconds from the start of the process to a target accuracy on MNIST's test set.

    python -m train mnist-fast --target 99.4

A run trains for the epochs of the target's recipe, reads the test set once and stops, whether or not it has reached the
target.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from train import networks
from train.data import Kind, Split, held_out_data, training_data
from train.evaluate import accuracy, logits
from train.fast.recipes import RECIPES
from train.loop import Average, TrainingJob, train_epoch
from train.precision import on_this_processor
from train.progress import Progress
from train.recipe import Recipe


@dataclass(frozen=True)
class Result:
    """Accuracy and times of a run."""

    split: str  # the split it was measured on: "test" or "validation"
    correct: int
    images: int
    seconds: dict[str, float]  # of each stage, in order

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.seconds.items())
        return (
            f"{self.correct} of {self.images} {self.split} images correct ({self.correct / self.images:.2%}), "
            f"{sum(self.seconds.values()):.2f} s after the start of the process ({parts})."
        )


class AdamW:
    """The step of torch.optim.AdamW (Loshchilov and Hutter, arXiv 1711.05101) without that class.

    Creating an optimizer of torch.optim imports torch's compiler, which slows the start.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], betas: tuple[float, float], weight_decay: float, eps: float = 1e-8
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": 0.0}]
        self.state = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in self.param_groups[0]["params"]]
        self.betas, self.weight_decay, self.eps, self.steps = betas, weight_decay, eps, 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        (group,), (first, second) = self.param_groups, self.betas
        self.steps += 1
        rate, root = group["lr"] / (1 - first**self.steps), (1 - second**self.steps) ** 0.5
        for parameter, (mean, square) in zip(group["params"], self.state, strict=True):
            mean.lerp_(parameter.grad, 1 - first)
            square.mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
            parameter.mul_(1 - group["lr"] * self.weight_decay)
            parameter.addcdiv_(mean, square.sqrt().div_(root).add_(self.eps), value=-rate)


def train(recipe: Recipe, seed: int, threads: int, data: Split) -> nn.Module:
    """Train as `train.loop.fit` does; return the network with the averaged weights."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    network = networks.build(recipe)
    optimizer, average = AdamW(network.parameters(), **recipe.optimizer_options), Average(network, recipe.ema)
    job, progress = TrainingJob(recipe, "full", seed, recipe.epochs, threads), Progress(recipe.name, live=False)
    for epoch in range(recipe.epochs):
        progress.epoch_done(train_epoch(network, optimizer, average, data, job, epoch, progress))
    return average.module


def run(target: str, kind: Kind, seed: int, threads: int, folder: str | None) -> Result:
    """Train the target's recipe, and measure it once on the held-out data of the run's kind (`train/data.py`).

    Args:
        target: a key of RECIPES.
        folder: folder with the data, as in `zoo.datasets.catalog.load`.
    """
    recipe, clock = on_this_processor(RECIPES[target]), 0.0
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal clock
        now = since_start()
        seconds[name], clock = now - clock, now

    lap("imports")
    data, held_out = training_data("mnist", kind, folder), held_out_data("mnist", kind, folder)
    lap("data")
    network = train(recipe, seed, threads, data)
    lap("training")
    share = accuracy(logits(network, held_out.images, recipe), held_out.labels)
    lap("test")
    return Result(held_out.name, round(share * len(held_out)), len(held_out), seconds)


def since_start() -> float:
    """Return the seconds since this process started; without /proc, since this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic() - _IMPORTED
    ticks = int(fields[19])  # starttime, the 22nd field of proc_pid_stat(5)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


_IMPORTED = time.monotonic()
