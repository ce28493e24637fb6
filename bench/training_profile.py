"""How long each part of a training step takes, for the recipes of `train/fast`: `python -m bench.training_profile`.

Every target is profiled in its own process. An epoch of the training loop itself is timed there too: the parts must add
up to it. Writes docs/training-speed/profile.json.
"""

import json
import os
import resource
import sys
import time
from collections import defaultdict
from typing import Any

import click
import torch
import torch.nn.functional as F

from bench.environment import environment
from bench.measure import megabytes, run_process
from bench.training_speed import RESULTS
from train import augment, networks
from train.__main__ import KEEP_MEMORY
from train.data import Split, training_data
from train.evaluate import network_input
from train.fast import run as fast
from train.fast.recipes import RECIPES
from train.loop import Average, TrainingJob, train_epoch
from train.precision import on_this_processor
from train.progress import Progress

STEPS = 200


def profile(target: str, threads: int, data: Split, steps: int = STEPS) -> dict[str, Any]:
    """Time `steps` steps of the target's recipe.

    Returns:
        parts_ms: median of each part of a step, in order.
        step_ms: mean of a step of `train_epoch` on the same number of images.
        batch, threads, steps: the conditions.
    """
    recipe = on_this_processor(RECIPES[target])
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    network = networks.build(recipe)
    optimizer, average = fast.AdamW(network.parameters(), **recipe.optimizer_options), Average(network, recipe.ema)
    generator = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = defaultdict(list)
    clock = 0.0

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        times[name].append((now - clock) * 1e3)
        clock = now

    order = torch.randint(len(data), (steps + 10, recipe.batch_size), generator=generator)
    network.train()
    for rows in order:  # as in train.loop.train_epoch
        optimizer.param_groups[0]["lr"] = 1e-3
        clock = time.perf_counter()
        images, labels = data.images[rows], data.labels[rows]
        lap("gather")
        images = augment.apply(recipe.augment, images, 0.5, generator)
        lap("augmentation")
        values = network_input(images, recipe)
        lap("normalisation")
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            scores = network(values)
        loss = F.cross_entropy(scores.float(), labels)
        lap("forward")
        optimizer.zero_grad()
        loss.backward()
        lap("backward")
        optimizer.step()
        lap("optimizer")
        average.update_parameters(network)
        lap("average")
    subset = Split(data.name, *(part[: steps * recipe.batch_size] for part in (data.images, data.labels)))
    job = TrainingJob(recipe, "full", 0, recipe.epochs, threads)
    metrics = train_epoch(network, optimizer, average, subset, job, 0, Progress("profile", live=False))
    return {
        "batch": recipe.batch_size,
        "threads": threads,
        "steps": steps,
        "parts_ms": {name: round(sorted(milliseconds[10:])[steps // 2], 3) for name, milliseconds in times.items()},
        "step_ms": round(metrics["seconds"] * 1e3 * recipe.batch_size / len(subset), 3),
    }


def peak_mb() -> int:
    """Peak resident memory of this process so far."""
    return round(megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def profile_in_this_process(target: str, threads: int) -> dict[str, Any]:
    """The profile with peak memory after the imports, after loading the data, and after the steps."""
    imported = peak_mb()
    data = training_data("mnist", "full")
    loaded = peak_mb()
    result = profile(target, threads, data)
    return {**result, "peak_mb": {"imports": imported, "data": loaded, "steps": peak_mb()}}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), help="Repeatable; 1 and 2 by default."
)
@click.option(
    "--target", type=click.Choice(list(RECIPES)), help="Profile this target only; prints the result and writes no file."
)
def main(threads: tuple[int, ...], target: str | None) -> None:
    """Profile the training steps of every fast recipe."""
    if target:
        click.echo(json.dumps(profile_in_this_process(target, threads[0])))
        return
    os.environ.update(KEEP_MEMORY)
    python = [sys.executable, "-m", "bench.training_profile"]
    profiles = {
        name: [json.loads(run_process([*python, f"--target={name}", f"--threads={n}"]).output) for n in threads]
        for name in RECIPES
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "profile.json"
    path.write_text(json.dumps({"profiles": profiles, "environment": environment()}, indent=1) + "\n")
    click.echo(path)


if __name__ == "__main__":
    main()
