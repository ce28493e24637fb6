"""fit(): one training run from its recipe to its final weights, resumable to the bit.

All images lie in memory as uint8; a batch is gathered, augmented and normalised as a whole. Every epoch draws its
shuffle, augmentation and dropout from a generator seeded by (seed, epoch), so a checkpoint needs no random state: a
run that was interrupted ends with the same weights as one that was not.
"""

import hashlib
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from train import augment, networks
from train.branches import fold, grow
from train.data import Kind, Part
from train.distill import Objective, Teacher, labels_alone
from train.evaluate import accuracy, logits, loss, network_input
from train.precision import on_this_processor
from train.progress import Progress
from train.recipe import Recipe
from train.runs import Run


@dataclass(frozen=True)
class Job:
    """What the command line chose: a recipe, on which part of the data, from which seed, with how many threads, where.

    device: "cpu" (`fit` below) or "cuda" (`train/device.py`).
    """

    recipe: Recipe
    kind: Kind
    seed: int
    epochs: int
    threads: int
    device: str = "cpu"

    def config(self) -> dict[str, Any]:
        """What decides the weights; the thread count does too, in the last bits."""
        return {
            **self.recipe.settings(),
            "kind": self.kind,
            "seed": self.seed,
            "epochs": self.epochs,
            "threads": self.threads,
            **({"device": self.device} if self.device != "cpu" else {}),
        }


def fit(
    job: Job, run: Run, data: Part, held_out: Part, progress: Progress, resume: bool = False, restart: bool = False
) -> dict[str, Any]:
    """Train, checkpointing every epoch; returns and writes the result.

    Args:
        data, held_out: what to learn from and what to measure on, of the job's kind (`train/data.py`). A full run
            reads `held_out`, the test set, once, at the end; a twin is measured on it after every epoch.
        resume: continue from the run's checkpoint. restart: throw away what the run's folder holds.
    Raises:
        RunError: the run's folder does not fit. KeyboardInterrupt: `resume` continues after it.
    """
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    recipe = job.recipe
    teacher = Teacher(recipe, job.kind, run.folder.parents[1]) if recipe.distill else None
    config = job.config() | ({"teacher_sha256": teacher.sha256} if teacher else {})
    precision = suited = on_this_processor(recipe).precision
    torch.manual_seed(job.seed)
    network = networks.build(recipe)
    if recipe.branches:
        grow(network, recipe.branches)
    optimizer = getattr(torch.optim, recipe.optimizer)(network.parameters(), lr=0.0, **recipe.optimizer_options)
    average = Average(network, recipe.ema) if recipe.ema else None
    measured = average.module if average else network
    if resume:
        run.check_same(config)
        precision = run.read("environment").get("precision", recipe.precision)  # as it was begun, on whatever processor
        done = run.load_checkpoint(network, optimizer, average)
    else:
        run.begin(config, precision, restart)
        run.save_checkpoint(0, network, optimizer, average)
        done = 0
    job = replace(job, recipe=replace(recipe, precision=precision))
    if precision != suited:
        progress.note(f"goes on in {precision} as it was begun; --restart takes {suited}, which suits this processor.")
    elif precision != recipe.precision:
        progress.note(f"this processor has no {recipe.precision}, so the steps are computed in {precision}.")

    with progress:
        for epoch in range(done, job.epochs):
            line = train_epoch(network, optimizer, average, data, job, epoch, progress, teacher or labels_alone)
            if job.kind == "twin":
                scores = logits(measured, held_out.images, recipe)
                line["validation_loss"] = loss(scores, held_out.labels)
                line["validation_accuracy"] = accuracy(scores, held_out.labels)
            run.add_metrics(line)  # first: resuming drops lines that are ahead of the checkpoint
            run.save_checkpoint(epoch + 1, network, optimizer, average)
            progress.epoch_done(line)

    if recipe.branches:
        measured = fold(measured)
    scores = logits(measured, held_out.images, recipe)
    result = result_of(job, run, held_out, scores)
    run.finish(measured, result)
    return result


def result_of(job: Job, run: Run, held_out: Part, scores: torch.Tensor) -> dict[str, Any]:
    """What a finished run reports.

    Args:
        scores: logits of the held-out images, `(N, K)`. run: whose epochs' `seconds` are summed.
    Returns:
        accuracy from 0 to 1, loss in nats, training_s in seconds, and what they are of.
    """
    return {
        "recipe": job.recipe.name,
        "kind": job.kind,
        "seed": job.seed,
        "epochs": job.epochs,
        "measured_on": held_out.name,
        "images": len(held_out),
        "accuracy": accuracy(scores, held_out.labels),
        "loss": loss(scores, held_out.labels),
        "training_s": round(sum(line["seconds"] for line in run.metrics()), 1),
    }


def train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, average: "Average | None", data: Part, job: Job,
    epoch: int, progress: Progress, objective: Objective = labels_alone,
) -> dict[str, Any]:  # fmt: skip
    """One pass over the data in a fresh order; returns the epoch's line of metrics.jsonl."""
    recipe, started = job.recipe, time.perf_counter()
    generator = torch.Generator().manual_seed(epoch_seed(job.seed, epoch))
    torch.manual_seed(epoch_seed(job.seed, epoch) + 1)  # dropout draws from the global generator
    order = torch.randperm(len(data), generator=generator)
    network.train()
    seen, total_loss, right, rate = 0, 0.0, 0, 0.0
    for rows in order.split(recipe.batch_size):
        rate = recipe.schedule(epoch + seen / len(data), job.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images = augment.apply(recipe.augment, data.images[rows], (epoch + seen / len(data)) / job.epochs, generator)
        labels = data.labels[rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            scores = network(network_input(images, recipe))
        batch_loss = objective(scores.float(), labels, images)
        optimizer.zero_grad(set_to_none=True)
        batch_loss.backward()
        optimizer.step()
        if average:
            average.update_parameters(network)
        seen += len(rows)
        total_loss += batch_loss.item() * len(rows)
        right += int((scores.detach().argmax(1) == labels).sum())
        progress.step(epoch, job.epochs, seen, len(data), total_loss / seen, right / seen)
    seconds = time.perf_counter() - started
    return {
        "epoch": epoch + 1,
        "learning_rate": rate,
        "train_loss": total_loss / seen,
        "train_accuracy": right / seen,
        "seconds": round(seconds, 3),
        "images_per_s": round(seen / seconds, 1),
    }


class Average(AveragedModel):
    """The exponential moving average of a network's weights and statistics, a step at a time.

    After n steps the decay is (1 + n) / (10 + n) until it has grown to `decay`: the first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        def update(averages: list[torch.Tensor], values: list[torch.Tensor], steps: torch.Tensor) -> None:
            grown = min(decay, (1 + int(steps)) / (10 + int(steps)))
            get_ema_multi_avg_fn(grown)(averages, values, steps)

        super().__init__(network, multi_avg_fn=update, use_buffers=True)


def epoch_seed(seed: int, epoch: int) -> int:
    """A 62-bit seed that differs for every (seed, epoch)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8], "big") >> 2
