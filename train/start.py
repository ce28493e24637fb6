"""Before and after a run: the fastest number of threads, the messages, and the commands to type next."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch

from train import networks
from train.data import Split
from train.loop import Average, TrainingJob, train_epoch
from train.precision import on_this_processor
from train.progress import Progress
from train.recipe import Recipe
from train.runs import Run

MEASURE_S = 0.3  # duration of one measurement; thread counts are compared by the fastest of three
MAX_STEPS = 10  # per measurement
GIVE_UP_RATIO = 1.5  # thread counts slower than the best by this factor are not timed again
SPEEDUP_FOR_MORE_THREADS = 1.1  # more threads are used only if they are faster by more than this factor


@dataclass(frozen=True)
class Speed:
    """The fastest number of threads, and the seconds that a training step takes with it."""

    threads: int
    step_s: float


def fastest(recipe: Recipe, data: Split, threads: int | None = None) -> Speed:
    """Time a few training steps with 1, 2, 4 … threads, up to torch's default number.

    Networks this small are often fastest on one thread. The steps are those of the run without a teacher, on a
    temporary network. Changes torch's number of threads and its global generator; `fit` sets both.

    Args:
        threads: time only this number of threads.
    """
    counts, max_threads = [threads or 1], torch.get_num_threads() if threads is None else threads
    while counts[-1] * 2 < max_threads:
        counts.append(counts[-1] * 2)
    if max_threads > counts[-1]:
        counts.append(max_threads)
    step = _steps(recipe, data)
    next(step)  # the first step is slower
    seconds = dict.fromkeys(counts, float("inf"))
    for _ in range(3 if len(counts) > 1 else 1):
        for count in [count for count in counts if seconds[count] <= GIVE_UP_RATIO * min(seconds.values())]:
            torch.set_num_threads(count)
            seconds[count] = min(seconds[count], _mean_seconds(step))
    best = next(count for count in counts if seconds[count] <= SPEEDUP_FOR_MORE_THREADS * min(seconds.values()))
    return Speed(best, seconds[best])


def _steps(recipe: Recipe, data: Split) -> Iterator[None]:
    """Take a training step, as in `fit`, at every `next()`."""
    torch.set_flush_denormal(True)
    recipe = on_this_processor(recipe)
    network = networks.build(recipe)
    optimizer = getattr(torch.optim, recipe.optimizer)(network.parameters(), lr=0.0, **recipe.optimizer_options)
    average = Average(network, recipe.ema) if recipe.ema else None
    job = TrainingJob(recipe, "full", 0, 1, 1)
    batch = Split(data.name, data.images[: recipe.batch_size], data.labels[: recipe.batch_size])
    quiet = Progress("", live=False)
    while True:
        train_epoch(network, optimizer, average, batch, job, 0, quiet)
        yield


def _mean_seconds(step: Iterator[None]) -> float:
    """Return the mean seconds per step, over up to `MAX_STEPS` steps within `MEASURE_S`."""
    started, steps = time.perf_counter(), 0
    while steps < MAX_STEPS and time.perf_counter() - started < MEASURE_S:
        next(step)
        steps += 1
    return (time.perf_counter() - started) / steps


def announcement(job: TrainingJob, run: Run, data: Split, step_s: float, resume: bool = False) -> str:
    """Return the message before a run: what is trained, on which data, for how long, and the run's folder.

    Args:
        step_s: seconds per step, 0 if not measured. A resumed run uses the time of its last epoch instead.
        resume: whether the run is resumed.
    """
    recipe, lines = job.recipe, run.metrics() if resume else []
    epoch_s = lines[-1]["seconds"] if lines else step_s * ceil(len(data) / recipe.batch_size)
    remaining = job.epochs - len(lines)
    processor = "GPU" if job.device == "cuda" else _count(job.threads, "thread")
    time_left = f", about {duration(remaining * epoch_s)}" if epoch_s else ""
    done = f" ({len(lines)} done)" if lines else ""
    part = "all training images" if job.kind == "full" else "the training split, measured on the validation split"
    return (
        f"{recipe.name}: {recipe.title}.\n"
        f"{_count(job.epochs, 'epoch')}{done}, {len(data):,} images per epoch ({part}), seed {job.seed}, "
        f"{processor}{time_left}.\n"
        f"Run folder: {run.folder}. Stop with Ctrl-C; --resume continues after the last complete epoch."
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}"


def duration(seconds: float) -> str:
    """Format a duration with a suitable unit: `40 s`, `7 min`, `2.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def resume_command(job: TrainingJob, runs: Path | None) -> str:
    """Return the command that resumes a run."""
    return f"{_command(job, runs)} --resume"


def next_command(job: TrainingJob, runs: Path | None) -> str:
    """Return the command that follows a finished run: the full run after a calibration run, otherwise the export."""
    if job.kind == "calibration":
        return _command(TrainingJob(job.recipe, "full", job.seed, job.recipe.epochs, job.threads), runs)
    return export_command(job, runs)


def export_command(job: TrainingJob, runs: Path | None) -> str:
    """Return the command that makes a model of one's own from a run, finished or not."""
    seed = f" --seed {job.seed}" if job.seed else ""
    return f"python -m train export {job.recipe.name} --as {job.recipe.architecture}.mine{seed}{_runs_option(runs)}"


def _command(job: TrainingJob, runs: Path | None) -> str:
    seed = f" --seed {job.seed}" if job.seed else ""
    kind = " --calibration-run" if job.kind == "calibration" else ""
    return f"python -m train {job.recipe.name}{seed}{kind}{_runs_option(runs)}"


def _runs_option(runs: Path | None) -> str:
    return f" --runs {shlex.quote(str(runs))}" if runs else ""
