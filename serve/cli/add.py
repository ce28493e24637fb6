"""`zoo add` and `zoo remove`: models of other programs among your own."""

import sys
from typing import TYPE_CHECKING, Any

import click

from serve.cli.options import complete_files, complete_own_models
from serve.messages import say

if TYPE_CHECKING:
    from zoo.card import Card

INTERPOLATIONS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


def parse_numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """One number, or several with commas between them."""
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number, nor numbers such as 0.485,0.456,0.406.") from None


def parse_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """A side, or height and width as 48x192."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and 0 < len(part) < 5 for part in parts):
        raise click.BadParameter(f"{value!r} is not a number of pixels, nor height x width such as 48x192.")
    return int(parts[0]), int(parts[-1])


@click.command("add")
@click.argument("file", shell_complete=complete_files)
@click.option("--name", "-n", required=True, metavar="NAME", help="Name of the new model.")
@click.option(
    "--labels",
    metavar="FILE",
    shell_complete=complete_files,
    help="Labels: one per line, or JSON.  [default: from the model's metadata]",
)
@click.option(
    "--preset",
    type=click.Choice(["torchvision", "timm", "ultralytics"]),
    help="Preprocessing of that library's ImageNet models.  [default: from the model's metadata]",
)
@click.option(
    "--size",
    callback=parse_size,
    metavar="N|HxW",
    help="Input size, if the model takes any.  [default: from the model]",
)
@click.option(
    "--mean", callback=parse_numbers, metavar="N,N,N", help="Mean per channel, of pixels / 255.  [default: 0]"
)
@click.option(
    "--std",
    callback=parse_numbers,
    metavar="N,N,N",
    help="Standard deviation per channel, of pixels / 255.  [default: 1]",
)
@click.option("--scale", type=float, metavar="X", help="Factor of pixels before mean and std.  [default: 1/255]")
@click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of the axes.  [default: from the model]")
@click.option("--channels", type=click.Choice(["rgb", "bgr", "grey"]), help="Order of the colours.  [default: rgb]")
@click.option(
    "--resize",
    type=click.Choice(["shortest", "exact"]),
    help="Resize the shorter side and crop, or stretch the image.  [default: shortest for square inputs]",
)
@click.option(
    "--resize-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Shorter side before cropping, such as 256 for an input of 224.  [default: the input's size]",
)
@click.option(
    "--crop",
    type=click.Choice(["center"]),
    default="center",
    show_default=True,
    help="Part that --resize shortest keeps.",
)
@click.option("--interpolation", type=click.Choice(INTERPOLATIONS), help="Interpolation.  [default: bilinear]")
@click.option(
    "--antialias/--no-antialias",
    default=None,
    help="Resize as Pillow and torchvision do, or as OpenCV does.  [default: --antialias]",
)
@click.option(
    "--form",
    type=click.Choice(["photo", "digit"]),
    default="photo",
    show_default=True,
    help="Kind of images; digit is for 28x28 networks of light digits on dark.",
)
@click.option(
    "--output",
    type=click.Choice(["auto", "logits", "probabilities"]),
    default="auto",
    show_default=True,
    help="What the model gives; auto looks at its last operator and its values.",
)
@click.option("--output-name", metavar="NAME", help="Output with the scores, if the model has several.")
@click.option(
    "--samples",
    metavar="DIR",
    shell_complete=complete_files,
    help="Pictures to compare the new model with the file.  [default: made by program]",
)
@click.option("--title", metavar="TEXT", help="Short description for `zoo list`.")
@click.option("--licence", default="unknown", show_default=True, metavar="TEXT", help="Licence of the weights.")
def add_command(file: str, crop: str, **options: Any) -> None:
    """Add an ONNX image classifier of another program.

    FILE is an .onnx file; its weights may be in other files of its folder. Preprocessing and softmax become part of the
    model, the result is compared with FILE, and the model is stored in $ZOO_HOME/models.
    """
    from zoo.adding.add import add

    card = add(file, **options)
    for line in summary(card):
        say(line)
    click.echo(card.name)
    say(f"Next: zoo predict IMAGE --model {card.name}")
    say(f"      zoo evaluate {card.name} FOLDER    (the accuracy on your own labelled images)")


def summary(card: "Card") -> list[str]:
    """What was added, in lines for stderr."""
    from serve.cli.output import input_text

    assert card.origin is not None
    return [
        f"{card.name}: {len(card.labels):,} classes, {card.parameters.count:,} parameters, from {card.origin.file}",
        f"input: {input_text(card.input)}",
        f"preprocessing: {card.origin.preprocessing}",
        f"parity: {card.origin.parity}",
        "unknown: accuracy, data set, training",
    ]


@click.command("remove")
@click.argument("name", shell_complete=complete_own_models)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def remove_command(name: str, yes: bool) -> None:
    """Delete one of your own models.

    Only models in $ZOO_HOME/models are deleted; those that are shipped with pocketzoo stay.
    """
    from zoo.errors import WrongUsage
    from zoo.own_models import own_folder, remove

    folder = own_folder(name)
    if not yes:
        if not sys.stdin.isatty():
            raise WrongUsage(f"`zoo remove {name}` asks before it deletes {folder}. Without a terminal, add --yes.")
        click.confirm(f"Delete {folder}?", abort=True, err=True)
    say(f"zoo: Deleted {remove(name)}.")
