"""Seconds of training to an accuracy, ours and the yardstick's in turn: `python -m bench.training_speed`.

Every run is a process of its own. Its result goes to docs/training-speed/, a file a run; those that are there are not
run again, so the same command goes on after an interruption. `python -m docs.build` writes the page.
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

from bench.measure import run_process
from train.fast.recipes import RECIPES
from zoo.datasets import catalog as datasets
from zoo.errors import ZooError

RESULTS = Path(__file__).parents[1] / "docs" / "training-speed"
YARDSTICK = "pytorch-example"
EPOCHS = 6  # that the yardstick is given
SCORE = re.compile(r"(\d+) of (\d+) test images")
LAP = re.compile(r"(imports|data|training|test) ([\d.]+)")


@dataclass(frozen=True)
class Contestant:
    """command: of Python, with places for seed, folder and threads; stops_at: the accuracy at whose first sight it is
    ended, if any.
    """

    command: str
    stops_at: float | None = None


CONTESTANTS = {
    **{
        target: Contestant(f"-m train mnist-fast --target={target} --seed={{seed}} --threads={{threads}}")
        for target in RECIPES
    },
    YARDSTICK: Contestant(f"-m bench.pytorch_example {{folder}} --epochs={EPOCHS} --seed={{seed}}", stops_at=0.99),
}


def watch(command: list[str], threads: int, stops_at: float | None) -> dict[str, Any]:
    """Run a command to its end, or to the first score of at least `stops_at`, and note when it prints its scores.

    Returns:
        scores: seconds since just before the process was made, right, images; laps: seconds that it told of itself;
        peak_mb: its peak resident memory.
    Raises:
        RuntimeError: it failed, or printed no score.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": str(threads)}
    scores, laps, enough = [], {}, False
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)
        try:
            for line in process.stdout:
                if found := SCORE.search(line):
                    right, images = map(int, found.groups())
                    scores.append({"seconds": round(time.perf_counter() - start, 3), "right": right, "images": images})
                    laps = {name: float(seconds) for name, seconds in LAP.findall(line[found.end() :])}
                    if enough := stops_at is not None and right >= stops_at * images:
                        break
        finally:
            if enough or sys.exc_info()[0]:
                process.terminate()
            process.stdout.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if not scores or (process.returncode and not enough):
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} left with {process.returncode}: {said.read()[-2000:]}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes here
    return {"scores": scores, "laps": laps, "peak_mb": round(usage.ru_maxrss / unit)}


def idx_folder(root: Path) -> Path:
    """MNIST as torchvision leaves it, written from our data; also leaves the decoded data where ours look for them."""
    for split, names in datasets.DATASETS["mnist"].raw.items():
        data = datasets.load("mnist", split)
        for name, array in zip(names, (data.images[..., 0], data.labels), strict=True):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            header = np.array([0x800 + array.ndim, *array.shape], ">i4")
            path.write_bytes(header.tobytes() + np.ascontiguousarray(array).tobytes())
    return root


def missing(only: tuple[str, ...], seeds: int, results: Path) -> Iterator[tuple[str, int, Path]]:
    """Runs that have no result yet, in turn: contestant, seed, file."""
    for seed in range(seeds):
        for name in CONTESTANTS:
            path = results / f"{name}.seed{seed}.json"
            if (not only or name in only) and not path.exists():
                yield name, seed, path


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="How many, from 0.")
@click.option("--only", multiple=True, type=click.Choice(list(CONTESTANTS)), help="Only this; may be repeated.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--results", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="Where they go.")
def main(seeds: int, only: tuple[str, ...], threads: int, results: Path) -> None:
    """Time the runs that have no result yet, each in a process of its own."""
    from bench.environment import environment

    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = idx_folder(Path(folder))
        except ZooError as error:
            raise click.ClickException(str(error)) from None
        run_process([sys.executable, "-c", "import torch, torchvision"])  # so that no run is the first to read them
        for name, seed, path in missing(only, seeds, results):
            contestant = CONTESTANTS[name]
            places = {"seed": seed, "folder": files, "threads": threads}
            command = [sys.executable, *(part.format(**places) for part in contestant.command.split())]
            try:
                seen = watch(command, threads, contestant.stops_at)
            except RuntimeError as error:
                raise click.ClickException(str(error)) from None
            facts = {"contestant": name, "seed": seed, "threads": threads, "date": time.strftime("%Y-%m-%d")}
            path.write_text(json.dumps({**facts, **seen, "environment": environment()}, indent=1) + "\n")
            last = seen["scores"][-1]
            click.echo(f"{name} seed {seed}: {last['right']} of {last['images']} after {last['seconds']:.1f} s.")
    click.echo("Every run is there: python -m docs.build writes the page.")


if __name__ == "__main__":
    main()
