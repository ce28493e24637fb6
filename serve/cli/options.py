"""Options and completion that several commands share."""

import math
from typing import TYPE_CHECKING, Any

import click

import zoo
from serve.service.settings import DEFAULT_MODEL
from zoo.errors import ZooError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class FiniteRange(click.FloatRange):
    """A finite number in a range. click's own type lets NaN pass, because no comparison with a bound is true."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def complete_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]  # the shell itself lists the files


def complete_models(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Model names and architectures that start with the word; files if there are none."""
    from click.shell_completion import CompletionItem

    try:
        cards = zoo.list_models()
    except ZooError:  # for example, there is no home directory
        cards = []
    names = {name for card in cards for name in (card.name, card.architecture) if name.startswith(incomplete)}
    return [CompletionItem(name) for name in sorted(names)] or complete_files(context, parameter, incomplete)


def complete_own_models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """Names of the user's own models that start with the word."""
    from click.shell_completion import CompletionItem

    from zoo import registry

    try:
        names = [entry.card.name for entry in registry.scan() if not entry.shipped]
    except ZooError:
        names = []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


model_option = click.option(
    "--model",
    "-m",
    shell_complete=complete_models,
    metavar="MODEL",
    help=f"Model name, path of an .onnx file, or path of a model folder.  [default: {DEFAULT_MODEL}]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
device_choice = click.Choice(["auto", "cpu", "cuda"])
device_option = click.option(
    "--device", type=device_choice, default="auto", show_default=True, help="Device to run on; auto is the CPU."
)
data_option = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False),
    help="Directory with the test datasets.  [env var: ZOO_DATA]",
)
