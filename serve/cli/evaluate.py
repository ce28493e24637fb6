"""`zoo evaluate`: a model on labelled images."""

import json
from typing import TYPE_CHECKING, Any

import click

from serve.cli.options import complete_models, device_option, json_option
from zoo.errors import WrongUsage, printable

if TYPE_CHECKING:
    from zoo.evaluation import Evaluation, Mistake

SHOWN = 10  # mistakes, suspected labels and unreadable files; --json has all
MAX_CONFUSION = 20  # classes in the table of the confusion matrix


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.argument("source", type=click.Path(), metavar="FOLDER|FILE")
@click.option("--map", "pairs", multiple=True, metavar="CLASS=LABEL", help="Label of a class; can be repeated.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), help="Only this split of the images.")
@device_option
@json_option
def evaluate(model: str, source: str, pairs: tuple[str, ...], split: Any, device: Any, as_json: bool) -> None:
    """Measure a model on labelled images.

    The images are in a folder with one sub-folder per class, or listed in a CSV or parquet file with the columns path
    and label, or in a zip of these. Shows accuracy with its 95 % interval, precision and recall of each class, the
    confusion matrix, calibration, the worst mistakes and labels that are probably wrong.

    Class names are matched to the model's labels without regard to case; --map names the others.
    """
    from zoo.evaluation import evaluate as measure

    mapping = {}
    for pair in pairs:
        name, separator, label = pair.partition("=")
        if not (name and separator and label):
            raise WrongUsage(f"--map {pair!r} is not of the form CLASS=LABEL.")
        mapping[name] = label
    result = measure(model, source, mapping=mapping, split=split, device=device)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        print_evaluation(result)


def print_evaluation(result: "Evaluation") -> None:
    """Print the figures as text."""
    from serve.cli.output import print_table

    low, high = result.interval95
    click.echo(printable(f"{result.model} on {result.images:,} images of {result.source}"))
    click.echo(
        f"accuracy     {result.accuracy:.2%} ({low:.2%} to {high:.2%}, 95 % interval), {result.correct:,} correct"
    )
    click.echo(f"calibration  expected error {result.calibration_error:.2%}, cross-entropy {result.loss:.4f}")
    click.echo(f"unsure       {result.unsure:.2%} of the images\n")
    rows = [[x.label, f"{x.images:,}", _share(x.precision), _share(x.recall)] for x in result.classes]
    print_table(["class", "images", "precision", "recall"], rows, right=frozenset({1, 2, 3}))
    used = [index for index, label in enumerate(result.labels) if any(x.label == label for x in result.classes)]
    if len(used) <= MAX_CONFUSION:
        click.echo("\nconfusion matrix (rows: labels, columns: predictions)")
        counts = [[result.labels[row], *(str(result.confusion[row][column]) for column in used)] for row in used]
        print_table(["", *(result.labels[index] for index in used)], counts, right=frozenset(range(1, len(used) + 1)))
    _mistakes("worst mistakes", result.worst)
    if result.suspected_labels is None:
        click.echo("\nlabels that are probably wrong: not searched; pip install cleanlab")
    else:
        _mistakes("labels that are probably wrong", result.suspected_labels)
    if result.unreadable:
        click.echo(f"\nfiles that could not be used: {len(result.unreadable):,}")
        for problem in result.unreadable[:SHOWN]:
            click.echo(printable(f"  {problem.name}: {problem.reason}"))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _mistakes(title: str, mistakes: "tuple[Mistake, ...]") -> None:
    if not mistakes:
        return
    click.echo(f"\n{title}" + (f" (the first {SHOWN} of {len(mistakes):,})" if len(mistakes) > SHOWN else ""))
    for x in mistakes[:SHOWN]:
        click.echo(printable(f"  {x.image}: label {x.label}, prediction {x.prediction} ({x.probability:.1%})"))
