"""fit(): one training run on the CPU, from a recipe to the final weights, resumable to the bit.

All images are in memory as uint8; a batch is gathered, augmented and normalised as a whole. Every epoch draws its
shuffle, augmentation and dropout from a generator seeded by (seed, epoch). A checkpoint therefore needs no random
state, and an interrupted run ends with the same weights as an uninterrupted one.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from train import augment, networks
from train.data import Kind, Split
from train.distill import Objective, Teacher, cross_entropy
from train.evaluate import accuracy, logits, loss, network_input
from train.precision import on_this_processor
from train.processes import Processes
from train.progress import Progress
from train.recipe import Recipe
from train.runs import Run

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


class Optimizer(Protocol):
    """The part of torch.optim.Optimizer that a training step uses."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def step(self) -> Any: ...


@dataclass(frozen=True)
class TrainingJob:
    """A training run as the command line describes it."""

    recipe: Recipe
    kind: Kind  # which images it trains on
    seed: int
    epochs: int
    threads: int
    device: str = "cpu"  # "cpu" (`fit` below) or "cuda" (`train/device.py`)
    processes: int = 1  # that share each batch (`train/processes.py`)

    def config(self) -> dict[str, Any]:
        """Return everything that determines the weights. The thread count is included: it changes the last bits."""
        return {
            **self.recipe.settings(),
            "kind": self.kind,
            "seed": self.seed,
            "epochs": self.epochs,
            "threads": self.threads,
            **({"device": self.device} if self.device != "cpu" else {}),
            **({"processes": self.processes} if self.processes != 1 else {}),
        }


def fit(
    job: TrainingJob,
    run: Run,
    data: Split,
    held_out: Split,
    progress: Progress,
    resume: bool = False,
    restart: bool = False,
    objective: Objective = cross_entropy,
    initialize: Callable[[nn.Sequential], None] | None = None,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Train with a checkpoint after every epoch; write and return the result.

    Args:
        data, held_out: training and held-out data of the job's kind (`train/data.py`). A full run reads `held_out`, the
            test set, once at the end. A calibration run is measured on it after every epoch.
        resume: continue from the run's checkpoint.
        restart: delete an earlier run in the same folder.
        objective: the loss of a batch, for a recipe without a teacher.
        initialize: sets the initial weights of a new run, in place of torch's.
        processes: those that share each batch; this one alone by default.
    Raises:
        RunError: the run's folder cannot be used.
        KeyboardInterrupt: the run was interrupted; `resume` continues it.
    """
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    recipe, processes = job.recipe, processes or Processes.alone()
    run = processes.run(run)
    teacher = Teacher(recipe, job.kind, run.folder.parents[1]) if recipe.distill else None
    config = job.config() | ({"teacher_sha256": teacher.sha256} if teacher else {})
    precision = fastest = on_this_processor(recipe).precision
    torch.manual_seed(job.seed)
    network = networks.build(recipe)
    if initialize and not resume:
        initialize(network)
    processes.prepare(network)
    optimizer = getattr(torch.optim, recipe.optimizer)(network.parameters(), lr=0.0, **recipe.optimizer_options)
    average = Average(network, recipe.ema) if recipe.ema else None
    measured = average.module if average else network
    if resume:
        run.check_config(config)
        precision = run.read("environment").get("precision", recipe.precision)  # do not change it
        done = run.load_checkpoint(network, optimizer, average)
    else:
        run.begin(config, precision, restart)
        run.save_checkpoint(0, network, optimizer, average)
        done = 0
    processes.wait()
    job = replace(job, recipe=replace(recipe, precision=precision))
    if precision != fastest:
        progress.note(f"continues in {precision}; {fastest} is faster on this processor but needs --restart.")
    elif precision != recipe.precision:
        progress.note(f"this processor has no {recipe.precision}; training in {precision}.")

    with progress:
        for epoch in range(done, job.epochs):
            line = train_epoch(network, optimizer, average, data, job, epoch, progress, teacher or objective, processes)
            if job.kind == "calibration":
                scores = logits(measured, held_out.images, recipe)
                line["validation_loss"] = loss(scores, held_out.labels)
                line["validation_accuracy"] = accuracy(scores, held_out.labels)
            run.add_metrics(line)  # before the checkpoint: resuming drops lines that are ahead of it
            run.save_checkpoint(epoch + 1, network, optimizer, average)
            progress.epoch_done(line)

    scores = logits(measured, held_out.images, recipe)
    result = result_of(job, run, held_out, scores)
    run.finish(measured, result)
    return result


def result_of(job: TrainingJob, run: Run, held_out: Split, scores: torch.Tensor) -> dict[str, Any]:
    """Return the result of a finished run, as written to result.json.

    Args:
        run: the run whose epoch times are summed.
        scores: logits of the held-out images, `(N, K)`.
    Returns:
        accuracy (0 to 1), loss (nats), training_s (seconds), and the job they belong to.
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
    network: nn.Module,
    optimizer: Optimizer,
    average: "Average | None",
    data: Split,
    job: TrainingJob,
    epoch: int,
    progress: Progress,
    objective: Objective = cross_entropy,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Train one epoch in a new order; return its line of metrics.jsonl. Epochs count from 0."""
    recipe, started = job.recipe, time.perf_counter()
    processes = processes or Processes.alone()
    generator = torch.Generator().manual_seed(epoch_seed(job.seed, epoch))
    torch.manual_seed(epoch_seed(job.seed, epoch) + 1)  # dropout draws from the global generator
    order = torch.randperm(len(data), generator=generator)
    network.train()
    seen, own, total_loss, correct, rate = 0, 0, 0.0, 0, 0.0
    for rows in order.split(recipe.batch_size):
        rate = recipe.schedule(epoch + seen / len(data), job.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images = augment.apply(recipe.augment, data.images[rows], (epoch + seen / len(data)) / job.epochs, generator)
        share = processes.share(len(rows))
        images, labels = images[share], data.labels[rows[share]]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            scores = network(network_input(images, recipe))
        batch_loss = processes.loss(objective, scores.float(), labels, images, len(rows))
        optimizer.zero_grad(set_to_none=True)
        batch_loss.backward()
        processes.sum_gradients(network)
        optimizer.step()
        if average:
            average.update_parameters(network)
        seen += len(rows)
        own += len(labels)
        total_loss += batch_loss.item() * len(rows)
        correct += int((scores.detach().argmax(1) == labels).sum())
        progress.step(epoch, job.epochs, seen, len(data), total_loss / max(own, 1), correct / max(own, 1))
    loss_sum, correct_sum = processes.total(total_loss, correct)
    seconds = time.perf_counter() - started
    return {
        "epoch": epoch + 1,
        "learning_rate": rate,
        "train_loss": loss_sum / seen,
        "train_accuracy": correct_sum / seen,
        "seconds": round(seconds, 3),
        "images_per_s": round(seen / seconds, 1),
    }


class Average(AveragedModel):
    """Exponential moving average of a network's weights and batch-norm statistics, updated after every step.

    After n steps the decay is (1 + n) / (10 + n), but at most `decay`, so that the initial weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        def update(averages: Tensors, values: Tensors, steps: torch.Tensor | int) -> None:
            current = min(decay, (1 + int(steps)) / (10 + int(steps)))
            get_ema_multi_avg_fn(current)(averages, values, steps)

        super().__init__(network, multi_avg_fn=update, use_buffers=True)


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a 62-bit seed that differs for every (seed, epoch)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8], "big") >> 2
