"""`python -m train mnist-fast`: the command, apart from `train/fast.py`, which imports torch."""

import os

import click

from train.fast_recipes import RECIPES


@click.command("mnist-fast")
@click.option("--target", type=click.Choice(list(RECIPES)), default="99.0", show_default=True, help="In percent.")
@click.option("--seed", default=0, show_default=True, help="Decides initial weights, order, augmentation.")
@click.option("--twin", is_flag=True, help="Learn from the training split only and measure on the validation split.")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
def mnist_fast(target: str, seed: int, twin: bool, data: str | None, threads: int) -> None:
    """Train on MNIST against the clock: docs/training-speed.md."""
    from train.fast import run

    result = run(target, "twin" if twin else "full", seed, threads, data)
    click.echo(f"{target} seed {seed}: {result}")
