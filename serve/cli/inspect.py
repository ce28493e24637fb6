"""`zoo inspect`: where an answer comes from and what every layer gives for one image, as PNG files."""

import click

from serve.cli.options import complete_files, model_option
from serve.messages import say
from serve.service.settings import DEFAULT_MODEL


@click.command()
@click.argument("image", shell_complete=complete_files)
@model_option
@click.option(
    "--out", "-o", type=click.Path(file_okay=False), default="inside", show_default=True, help="Output folder."
)
@click.option(
    "--unit",
    metavar="LAYER:ROW,COLUMN",
    help="Draw the receptive field of this unit only.  [default: the centre unit of each layer]",
)
def inspect(image: str, model: str | None, out: str, unit: str | None) -> None:
    """Draw where an answer comes from, and every layer.

    Writes PNG files into a folder and prints their paths; the answer goes to stderr. The figures show the prediction,
    the parts of the image that speak for the first and the second guess, receptive fields, the first layer's kernels,
    and the feature maps of every layer. Of a number, each digit has its own map, and the layers are those of the least
    certain digit.
    """
    from pathlib import Path

    from zoo.inspection.activations import look_inside, parse_unit
    from zoo.inspection.plots import draw_figures

    only = parse_unit(unit) if unit else None
    inside = look_inside(DEFAULT_MODEL if model is None else model, image)
    paths = draw_figures(inside, Path(out), only)
    say("; ".join((f"{inside.row.input}: {inside.verdict}", *inside.corrections)))
    for path in paths:
        click.echo(path)
