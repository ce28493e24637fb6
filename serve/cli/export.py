"""`zoo export`: models in the formats of other programs."""

from pathlib import Path

import click

from serve.cli.options import complete_models
from serve.export.formats import FORMATS
from zoo.errors import ExportError, ModelNotFound, WrongUsage, reason


@click.command("export")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_models)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="; ".join(f"{name}: {form.summary}" for name, form in FORMATS.items()) + ".",
)
@click.option(
    "--to", "target", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where to write."
)
@click.option("--force", is_flag=True, help="Replace models that were exported before.")
def command(names: tuple[str, ...], format_name: str, target: Path, force: bool) -> None:
    """Export models for other programs.

    With triton, each model becomes a folder of its name in FOLDER; with web, FOLDER becomes one page for all models. A
    folder is written whole or not at all. NAME is a model name or a pattern with wildcards, the path of an .onnx file,
    or the path of a model folder.
    """
    from serve.export.formats import check_target, write_folder
    from zoo.loading import load
    from zoo.model import onnx_bytes

    form = FORMATS[format_name]
    if target.exists() and not target.is_dir():
        raise WrongUsage(f"--to {target} is not a folder. Choose a folder.")
    models = {}
    for location in _locations(names):
        model = load(location, "cpu")  # opening it checks the file
        name = model.card.name
        if name in models:
            raise WrongUsage(f"Two of the models are named {name}. Export them to different folders.")
        models[name] = model.card, onnx_bytes(model)
    exports = form.folders(models)
    for name in exports:
        check_target(target / name, form.marker, force)
    try:
        for name, files in exports.items():
            folder = target / name
            folder.absolute().parent.mkdir(parents=True, exist_ok=True)
            write_folder(folder.absolute() if not folder.name else folder, files)
            click.echo(str(folder))
    except OSError as error:
        raise ExportError(f"Cannot write to {target} ({reason(error)}). Choose another folder with --to.") from None


def _locations(names: tuple[str, ...]) -> list[str | Path]:
    """What `zoo.load` takes, for each model that the names mean; each once."""
    from zoo import registry
    from zoo.loading import locate

    locations: dict[str | Path, None] = {}
    for name in names:
        if registry.is_pattern(name):
            entries = registry.scan(name)
            if not entries:
                raise ModelNotFound(registry.not_found(name, [entry.card.name for entry in registry.scan()]))
            locations |= dict.fromkeys(entry.folder for entry in entries)
        else:
            location = locate(name)
            locations[location if isinstance(location, Path) else location.folder] = None
    return list(locations)
