"""`zoo list`, `zoo info` and `zoo verify`: the models and their cards."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

import zoo
from serve.cli.options import complete_models, data_option, device_option, json_option
from serve.messages import say
from zoo.errors import BadModel, ModelNotFound, printable

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.registry import Entry
    from zoo.source import Source
    from zoo.verify import Check


@click.command("list")
@click.argument("pattern", default="*", shell_complete=complete_models)
@json_option
def list_command(pattern: str, as_json: bool) -> None:
    """List models.

    PATTERN is the beginning of a name or a pattern with wildcards: zoo list cifar, zoo list '*.plus'.
    """
    from serve.cli.output import cards_json, model_table
    from zoo.registry import damaged, not_found, scan

    for problem in damaged(pattern):
        say(f"zoo: {printable(str(problem))}")
    cards = zoo.list_models(pattern)
    if not cards:
        raise ModelNotFound(not_found(pattern, [card.name for card in zoo.list_models()]))
    if as_json:
        click.echo(cards_json(cards))
    else:
        model_table(cards, {entry.card.name: str(source) for entry in scan(pattern) if (source := _source(entry))})


@click.command()
@click.argument("name", shell_complete=complete_models)
@json_option
def info(name: str, as_json: bool) -> None:
    """Show a model's card and its layers.

    NAME is a model name, the path of an .onnx file, or the path of a model folder. The card holds accuracy,
    calibration, training and licence; the table lists each layer's output size, receptive field, parameters and
    multiply-accumulates (MACs).
    """
    from serve.cli.output import card_page
    from zoo.loading import card_of, locate
    from zoo.registry import Entry

    card = card_of(name)
    if as_json:
        click.echo(card.to_json(indent=2))
    else:
        location = locate(name)
        card_page(card, _source(location) if isinstance(location, Entry) else None)


def _source(entry: "Entry") -> "Source | None":
    """Where a model was pulled from; a damaged source.json is reported, and does not affect the model."""
    try:
        return entry.source()
    except BadModel as error:
        say(f"zoo: {error}")
        return None


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_models)
@data_option
@device_option
@json_option
def verify(names: tuple[str, ...], data: str | None, device: str, as_json: bool) -> None:
    """Check model files against their cards.

    Compares file hashes and the embedded card. If the test dataset is available, also recomputes the accuracy on it.
    NAME is a model name or a pattern with wildcards, the path of an .onnx file, or the path of a model folder.
    """
    import json

    passed, results = True, []
    for name in names:
        for model, check in _run_checks(name, data, device):
            passed = passed and check.passed is not False
            results.append({"model": model, "check": check.name, "passed": check.passed, "detail": check.detail})
            if not as_json:
                status = {True: "ok", False: "FAILED", None: "skipped"}[check.passed]
                click.echo(printable(f"{model}  {check.name:<18} {status:<8} {check.detail}"))
    if as_json:
        click.echo(json.dumps(results, indent=2))
    sys.exit(0 if passed else 1)


def _run_checks(name: str, data: str | None, device: Any) -> "Iterator[tuple[str, Check]]":
    """Check all models that match a name or pattern; yields (model name, check). A damaged model is a failed check."""
    from zoo import registry
    from zoo.loading import locate
    from zoo.verify import Check
    from zoo.verify import verify as verify_model

    models: list[registry.Entry] | list[registry.Entry | Path]
    try:
        models = registry.scan(name) if registry.is_pattern(name) else [locate(name)]
        problems = registry.damaged(name) if registry.is_pattern(name) else []
    except BadModel as error:
        models, problems = [], [error]
    if not models and not problems:
        raise ModelNotFound(registry.not_found(name, [card.name for card in zoo.list_models()]))
    for problem in problems:
        yield name, Check("card", False, str(problem))
    for model in models:
        for check in verify_model(model, data, device):
            yield model.card.name if isinstance(model, registry.Entry) else name, check
