"""Before and after a run: how many threads are fastest, what is said of the run, and what to type next."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch

from train import networks
from train.branches import grow
from train.data import Part
from train.loop import Average, Job, train_epoch
from train.precision import on_this_processor
from train.progress import Progress
from train.recipe import Recipe
from train.runs import Run

MEASURED_S = 0.3  # seconds of steps a measurement; of three the least counts where numbers of threads are compared
MOST_STEPS = 10  # of a measurement
HOPELESS = 1.5  # times as long as the best: not timed again
MARGIN = 1.1  # more threads are taken where fewer need longer by more than this factor


@dataclass(frozen=True)
class Speed:
    """threads: how many are fastest. step_s: seconds of a training step with them."""

    threads: int
    step_s: float


def fastest(recipe: Recipe, data: Part, threads: int | None = None) -> Speed:
    """Time a few training steps with 1, 2, 4 … threads, up to as many as torch would take.

    Networks this small are often fastest on one thread. The steps are those of the run, on a network that is thrown
    away, but for a teacher's share. Changes torch's number of threads and its global generator, which `fit` sets.

    Args:
        threads: where it is decided already, it is the only one that is timed.
    """
    counts, most = [threads or 1], torch.get_num_threads() if threads is None else threads
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    if most > counts[-1]:
        counts.append(most)
    step = _steps(recipe, data)
    next(step)  # the first takes longer
    seconds = dict.fromkeys(counts, float("inf"))
    for _ in range(3 if len(counts) > 1 else 1):
        for count in [count for count in counts if seconds[count] <= HOPELESS * min(seconds.values())]:
            torch.set_num_threads(count)
            seconds[count] = min(seconds[count], _measured(step))
    chosen = next(count for count in counts if seconds[count] <= MARGIN * min(seconds.values()))
    return Speed(chosen, seconds[chosen])


def _steps(recipe: Recipe, data: Part) -> Iterator[None]:
    """Training steps without end, each as `fit` makes them."""
    torch.set_flush_denormal(True)
    recipe = on_this_processor(recipe)
    network = networks.build(recipe)
    if recipe.branches:
        grow(network, recipe.branches)
    optimizer = getattr(torch.optim, recipe.optimizer)(network.parameters(), lr=0.0, **recipe.optimizer_options)
    average = Average(network, recipe.ema) if recipe.ema else None
    job = Job(recipe, "full", 0, 1, 1)
    batch = Part(data.name, data.images[: recipe.batch_size], data.labels[: recipe.batch_size])
    quiet = Progress("", live=False)
    while True:
        train_epoch(network, optimizer, average, batch, job, 0, quiet)
        yield


def _measured(step: Iterator[None]) -> float:
    """Seconds of a step: the mean of up to ten, or of as many as fit into 0.3 s."""
    started, done = time.perf_counter(), 0
    while done < MOST_STEPS and time.perf_counter() - started < MEASURED_S:
        next(step)
        done += 1
    return (time.perf_counter() - started) / done


def announcement(job: Job, run: Run, data: Part, step_s: float, resume: bool = False) -> str:
    """What is trained, on what, for how long, and where the run lies.

    Args:
        step_s: seconds of a step, 0 where it was not measured; where a run goes on that has done an epoch, that one
            counts.
        resume: whether a run goes on.
    """
    recipe, lines = job.recipe, run.metrics() if resume else []
    epoch_s = lines[-1]["seconds"] if lines else step_s * ceil(len(data) / recipe.batch_size)
    left = job.epochs - len(lines)
    where = "on the GPU" if job.device == "cuda" else _count(job.threads, "thread")
    duration_note = f": about {duration(left * epoch_s)}" if epoch_s else ""
    done = f", of which {len(lines)} are done" if lines else ""
    part = "all training images" if job.kind == "full" else "the training split, measured on the validation split"
    return (
        f"{recipe.name}: {recipe.title}.\n"
        f"{_count(job.epochs, 'epoch')}{done}, {len(data):,} images an epoch ({part}), seed {job.seed}, "
        f"{where}{duration_note}.\n"
        f"The run lies in {run.folder}; Ctrl-C stops it after its last whole epoch."
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}"


def duration(seconds: float) -> str:
    """In the unit that a person would take: `40 s`, `7 min`, `2.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def resume_command(job: Job, runs: Path | None) -> str:
    """The line that goes on with a run."""
    return f"{_command(job, runs)} --resume"


def next_command(job: Job, runs: Path | None) -> str:
    """The line to type when a run is finished: the full run after a calibration run, then the export."""
    if job.kind == "twin":
        return _command(Job(job.recipe, "full", job.seed, job.recipe.epochs, job.threads), runs)
    seed = f" --seed {job.seed}" if job.seed else ""
    return f"python -m train export {job.recipe.name} --as {job.recipe.architecture}.mine{seed}{_where(runs)}"


def _command(job: Job, runs: Path | None) -> str:
    seed, twin = f" --seed {job.seed}" if job.seed else "", " --twin" if job.kind == "twin" else ""
    return f"python -m train {job.recipe.name}{seed}{twin}{_where(runs)}"


def _where(runs: Path | None) -> str:
    return f" --runs {shlex.quote(str(runs))}" if runs else ""
