"""Seconds of training to an accuracy, of our fast recipes and the baseline in turn: `python -m bench.training_speed`.

Every run is a process of its own and writes one file to docs/training-speed/. Runs that have a file are skipped, so the
same command continues after an interruption. `python -m docs.build` writes the page.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.measure import megabytes, run_process
from train.fast.recipes import RECIPES
from zoo.datasets import catalog as datasets
from zoo.errors import ZooError

RESULTS = Path(__file__).parents[1] / "docs" / "training-speed"
BASELINE = "pytorch-example"
EPOCHS = 6  # of the baseline, at most
SCORE_LINE = re.compile(r"(\d+) of (\d+) test images")
LAP = re.compile(r"(imports|data|training|test) ([\d.]+)")


@dataclass(frozen=True)
class Contestant:
    """A program that is timed."""

    command: str  # arguments of Python, with fields for seed, folder and threads
    stops_at: float | None = None  # the process is ended at the first test accuracy that reaches this


CONTESTANTS = {
    **{
        target: Contestant(f"-m train mnist-fast --target={target} --seed={{seed}} --threads={{threads}}")
        for target in RECIPES
    },
    BASELINE: Contestant(f"-m bench.pytorch_example {{folder}} --epochs={EPOCHS} --seed={{seed}}", stops_at=0.99),
}


def watch(command: list[str], threads: int, stops_at: float | None) -> dict[str, Any]:
    """Run a command to its end, or to the first score of at least `stops_at`, and record when it prints its scores.

    Returns:
        scores: seconds since just before the process started, correct answers (`right`) and images.
        laps: seconds of each phase, as the command prints them.
        peak_mb: its peak resident memory.
    Raises:
        RuntimeError: the command failed or printed no score.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": str(threads)}
    scores: list[dict[str, Any]] = []
    laps: dict[str, float] = {}
    stopped = False
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert process.stdout
        try:
            for line in process.stdout:
                if score := SCORE_LINE.search(line):
                    right, images = map(int, score.groups())
                    scores.append({"seconds": round(time.perf_counter() - start, 3), "right": right, "images": images})
                    laps = {name: float(seconds) for name, seconds in LAP.findall(line[score.end() :])}
                    if stopped := stops_at is not None and right >= stops_at * images:
                        break
        finally:
            if stopped or sys.exc_info()[0]:
                process.terminate()
            process.stdout.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if not scores or (process.returncode and not stopped):
            errors.seek(0)
            raise RuntimeError(
                f"{' '.join(command)} failed with exit code {process.returncode}: {errors.read()[-2000:]}"
            )
    return {"scores": scores, "laps": laps, "peak_mb": round(megabytes(usage.ru_maxrss))}


def idx_folder(root: Path) -> Path:
    """Write MNIST in torchvision's layout from our data, which also fills the cache that our recipes read."""
    for split, names in datasets.DATASETS["mnist"].raw.items():
        data = datasets.load("mnist", split)
        for name, array in zip(names, (data.images[..., 0], data.labels), strict=True):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            header = np.array([0x800 + array.ndim, *array.shape], ">i4")
            path.write_bytes(header.tobytes() + np.ascontiguousarray(array).tobytes())
    return root


def missing(only: tuple[str, ...], seeds: int, results: Path) -> Iterator[tuple[str, int, Path]]:
    """Runs that have no result yet: contestant, seed, file. The contestants take turns."""
    for seed in range(seeds):
        for name in CONTESTANTS:
            path = results / f"{name}.seed{seed}.json"
            if (not only or name in only) and not path.exists():
                yield name, seed, path


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Number of seeds, from 0.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(CONTESTANTS)), help="Run this contestant only; repeatable."
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--results", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="Folder for the results."
)
def main(seeds: int, only: tuple[str, ...], threads: int, results: Path) -> None:
    """Time the runs that have no result yet, each in its own process."""
    from bench.environment import environment

    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = idx_folder(Path(folder))
        except ZooError as error:
            raise click.ClickException(str(error)) from None
        run_process(
            [sys.executable, "-c", "import torch, torchvision"]
        )  # so that the first run finds the libraries in the file cache, as the others do
        for name, seed, path in missing(only, seeds, results):
            contestant = CONTESTANTS[name]
            fields = {"seed": seed, "folder": files, "threads": threads}
            command = [sys.executable, *(part.format(**fields) for part in contestant.command.split())]
            try:
                result = watch(command, threads, contestant.stops_at)
            except RuntimeError as error:
                raise click.ClickException(str(error)) from None
            facts = {"contestant": name, "seed": seed, "threads": threads, "date": time.strftime("%Y-%m-%d")}
            path.write_text(json.dumps({**facts, **result, "environment": environment()}, indent=1) + "\n")
            last = result["scores"][-1]
            click.echo(f"{name} seed {seed}: {last['right']} of {last['images']} after {last['seconds']:.1f} s.")
    click.echo("All runs are complete. Write the page with: python -m docs.build")


if __name__ == "__main__":
    main()
