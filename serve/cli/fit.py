"""`zoo fit`: train a model on labelled images."""

import shlex
import sys
from typing import Any

import click

from serve.cli.options import FiniteRange, complete_models, device_choice
from serve.messages import say
from zoo.errors import printable


@click.command()
@click.argument("folder", type=click.Path(), metavar="FOLDER|FILE")
@click.option("--name", required=True, help="Name of the new model.")
@click.option(
    "--arch", type=click.Choice(["mnist14k", "cifar90k", "resnet8"]), help="Network.  [default: by the images]"
)
@click.option("--size", type=click.Choice(["28", "32", "64"]), help="Pixels per side.  [default: by the images]")
@click.option("--epochs", type=click.IntRange(min=1), help="Number of epochs.  [default: by images and minutes]")
@click.option(
    "--minutes",
    type=FiniteRange(min=0.05, max=10_000),
    default=10.0,
    show_default=True,
    help="Longest training time.",
)
@click.option("--from", "initial", metavar="MODEL", shell_complete=complete_models, help="Start from its weights.")
@click.option("--flip/--no-flip", default=None, help="Train on mirror images too.  [default: by the images]")
@click.option("--class-weights/--no-class-weights", default=True, help="Small classes count more.  [default: yes]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of split and training.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the fastest number]")
@click.option("--device", type=device_choice, default="cpu", show_default=True, help="Device to train on.")
@click.option("--resume", is_flag=True, help="Continue an interrupted training, with its own options.")
@click.option("--replace", "replace_model", is_flag=True, help="Replace a model or a training of this name.")
def fit(folder: str, name: str, size: str | None, **options: Any) -> None:
    """Train a small model on your own labelled images.

    The images are in a folder with one sub-folder per class (or below train, val and test), or listed in a CSV or
    parquet file with the columns path and label, or in a zip of these. The model is registered under its name, and
    then `zoo predict`, `zoo serve` and the page know it.

    Needs the extra `train`: pip install 'pocketzoo[cpu,train]'.
    """
    import zoo

    try:
        zoo.fit(
            folder,
            name,
            size=int(size) if size else None,
            progress=True,
            say=lambda text: say(printable(text)),
            **options,
        )
    except KeyboardInterrupt:
        command = f"zoo fit {shlex.quote(folder)} --name {name}" + f" --seed {options['seed']}" * bool(options["seed"])
        say(f"Stopped. To continue after the last complete epoch: {command} --resume")
        sys.exit(130)
    say(f"Next: zoo predict IMAGE --model {name}")
    say("      zoo serve    (the page and the HTTP API list the model)")
