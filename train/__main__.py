"""`python -m train RECIPE`: every recipe is a command, beside `export`, which turns finished runs into a model."""

import os
import re
import sys
from pathlib import Path

import click

from train.fast_command import mnist_fast

# glibc gives large blocks back to the kernel and fetches them again at every batch, unless it is told to keep them. It
# reads these when a process starts, so the process is started again with them.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


class Recipes(click.Group):
    """A group whose commands are the recipes, found by file name, and the few commands registered below."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from train import recipe

        return [*recipe.names(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if command := super().get_command(ctx, cmd_name):
            return command
        from train import recipe

        try:
            found = recipe.find(cmd_name)
        except KeyError as error:
            raise click.UsageError(error.args[0]) from None
        return _train_command(found.name, f"Train {found.title}.")


def _train_command(name: str, help_text: str) -> click.Command:
    @click.command(name, help=help_text)
    @click.option("--seed", default=0, show_default=True, help="Decides initial weights, order, dropout, augmentation.")
    @click.option("--seeds", metavar="FIRST-LAST", help="Several seeds, such as 0-4; on a GPU side by side.")
    @click.option(
        "--twin", is_flag=True, help="Learn from the training split only and measure on the validation split."
    )
    @click.option("--epochs", type=click.IntRange(min=1), help="Another number of epochs than the recipe's.")
    @click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
    @click.option(
        "--source",
        type=click.Choice(["hub", "torchvision"]),
        default="hub",
        show_default=True,
        help="Who fetches data that are not here.",
    )
    @click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="auto: a GPU."
    )
    @click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
    @click.option("--runs", type=click.Path(path_type=Path), help="Where run folders lie. [$ZOO_HOME/runs]")
    @click.option("--resume", is_flag=True, help="Continue from the last whole epoch; on a CPU to the same bits.")
    @click.option("--restart", is_flag=True, help="Throw away what the run's folder holds.")
    def command(
        seed: int, seeds: str | None, twin: bool, epochs: int | None, data: str | None, source: str, device: str,
        threads: int, runs: Path | None, resume: bool, restart: bool,
    ) -> None:  # fmt: skip
        from train.curves import draw
        from train.device import available, fit_on_device
        from train.download import torchvision_folder
        from train.loop import Job, fit
        from train.progress import Progress
        from train.recipe import find
        from train.runs import Run, RunError
        from train.splits import held_out_part, training_part
        from zoo.errors import ZooError

        recipe, kind = find(name), "twin" if twin else "full"
        numbers = _seeds(seeds) if seeds else [seed]
        folders = [Run.of(recipe.name, kind, number, runs) for number in numbers]
        if resume and restart:
            raise click.UsageError("--resume continues a run and --restart throws it away: choose one.")
        try:
            if source == "torchvision" and data is None:
                data = str(torchvision_folder(recipe.dataset))
            parts = training_part(recipe.dataset, kind, data), held_out_part(recipe.dataset, kind, data)
            device = available(device)
            jobs = [Job(recipe, kind, number, epochs or recipe.epochs, threads, device) for number in numbers]
            live = None if len(jobs) == 1 else False
            shown = [Progress(f"{recipe.name} {run.folder.name}", live) for run in folders]
            if device == "cpu":
                results = [
                    fit(*each, *parts, bar, resume, restart) for *each, bar in zip(jobs, folders, shown, strict=True)
                ]
            else:
                results = fit_on_device(jobs, folders, *parts, shown, resume, restart)
        except (RunError, ZooError) as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            if begun := [run for run in folders if run.checkpoint.exists()]:
                for run in begun:
                    draw(run)
                where = begun[0].folder if len(begun) == 1 else begun[0].folder.parent
                click.echo(f"Stopped. Add --resume to go on from the last whole epoch in {where}", err=True)
            else:
                click.echo("Stopped before the first epoch began: nothing was written.", err=True)
            sys.exit(130)
        for run, result in zip(folders, results, strict=True):
            draw(run)
            click.echo(
                f"{recipe.name} seed {result['seed']}: {result['accuracy']:.2%} of {result['images']} "
                f"{result['measured_on']} images after {result['epochs']} epochs ({result['training_s']:.0f} s). "
                f"{run.folder}"
            )

    return command


def _seeds(text: str) -> list[int]:
    """`0-4` or `3` as the numbers that are meant."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    numbers = [*range(int(found[1]), int(found[2] or found[1]) + 1)] if found else []
    if not numbers:
        raise click.UsageError(f"--seeds is a range such as 0-4, not {text!r}.")
    return numbers


@click.group(cls=Recipes, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train a recipe, or export what was trained into the zoo."""


@main.command()
@click.argument("recipe")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--runs", type=click.Path(path_type=Path), help="Where run folders lie. [$ZOO_HOME/runs]")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Folder of models. [zoo/models]")
def export(recipe: str, data: str | None, runs: Path | None, target: Path | None) -> None:
    """Write the model of RECIPE into the zoo, from its finished runs: ONNX, safetensors, card."""
    from train import export as exporting
    from train.recipe import find
    from train.runs import RunError
    from zoo.errors import ZooError
    from zoo.registry import SHIPPED

    try:
        card = exporting.export(find(recipe), runs, data, target or SHIPPED)
    except (exporting.ExportError, RunError, ZooError) as error:
        raise click.ClickException(str(error)) from None
    except KeyError as error:
        raise click.UsageError(error.args[0]) from None
    seeds = card.accuracy.seeds
    spread = f"{seeds.mean:.2%} ± {seeds.sd:.2%} (n = {seeds.n})" if seeds.sd is not None else "one seed"
    click.echo(f"{card.name} {card.version}: {card.accuracy.value:.2%}, {spread}, temperature "
               f"{card.calibration.temperature}. {(target or SHIPPED) / card.name}")  # fmt: skip


@main.command()
@click.argument("recipe")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Folder of models. [zoo/models]")
def describe(recipe: str, target: Path | None) -> None:
    """Bring title, source and default of RECIPE's model up to the recipe, without its runs."""
    from train.export import ExportError
    from train.export import describe as renew
    from train.recipe import find
    from zoo.registry import SHIPPED

    try:
        card = renew(find(recipe), target or SHIPPED)
    except ExportError as error:
        raise click.ClickException(str(error)) from None
    except KeyError as error:
        raise click.UsageError(error.args[0]) from None
    click.echo(f"{card.name}: {card.title}{' (default)' * card.default}. {(target or SHIPPED) / card.name}")


@main.command()
@click.argument("model")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Folder of models. [zoo/models]")
def quantize(model: str, data: str | None, target: Path | None) -> None:
    """Write the int8 variant of MODEL, a model of the zoo, where it is worth it."""
    from train.export import ExportError
    from train.quantize import quantize as make
    from zoo.errors import ZooError
    from zoo.registry import SHIPPED

    try:
        card = make(model, data, target or SHIPPED)
    except (ExportError, ZooError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{card.name}: {card.accuracy.value:.2%}; {card.quantization}. {(target or SHIPPED) / card.name}")


@main.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
def robustness(models: tuple[str, ...], data: str | None) -> None:
    """Measure MODELS on corrupted test sets; `docs` writes the page."""
    from train.robustness import measure
    from zoo.errors import ZooError

    for name in models:
        try:
            result = measure(name, data)
        except ZooError as error:
            raise click.ClickException(str(error)) from None
        click.echo(
            f"{result['model']}: {result['mean']:.2%} of the corrupted images, {result['clean']:.2%} as they are."
        )


@main.command("report")
@click.argument("recipe")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--runs", type=click.Path(path_type=Path), help="Where run folders lie. [$ZOO_HOME/runs]")
def report_command(recipe: str, data: str | None, runs: Path | None) -> None:
    """Draw confusion matrix, worst mistakes and reliability of RECIPE's seed 0 into its run's folder."""
    from train.recipe import find
    from train.report import report
    from train.runs import RunError
    from zoo.errors import ZooError

    try:
        for path in report(find(recipe), runs, data):
            click.echo(path)
    except (RunError, ZooError) as error:
        raise click.ClickException(str(error)) from None
    except KeyError as error:
        raise click.UsageError(error.args[0]) from None


@main.command()
@click.argument("study")
@click.option("--seeds", type=click.IntRange(min=1), help="How many seeds, from 0. [the study's own number]")
@click.option("--only", multiple=True, metavar="VARIANT", help="Only this variant; may be repeated.")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), help="Where run folders lie. [$ZOO_HOME/runs]")
def experiments(
    study: str, seeds: int | None, only: tuple[str, ...], data: str | None, threads: int, runs: Path | None
) -> None:
    """Train the variants of STUDY that have no result yet, going on where a run was interrupted."""
    from train.experiments import run as running
    from train.experiments.study import find
    from train.runs import RunError
    from zoo.errors import ZooError

    try:
        found = find(study)
    except KeyError as error:
        raise click.UsageError(error.args[0]) from None
    if unknown := sorted(set(only) - found.variants.keys()):
        raise click.UsageError(f"{study} has no variant {unknown[0]!r}. It has: {', '.join(found.variants)}.")
    try:
        while left := next(running.missing(found, seeds or found.seeds, only), None):
            result = running.train(found, *left, threads, runs, data)
            part = "test" if found.reads_test else "validation"
            accuracy = result["test_accuracy"] if found.reads_test else result["epochs"][-1]["validation_accuracy"]
            click.echo(f"{left[0]} seed {left[1]}: {accuracy:.2%} of the {part} images.")
    except (RunError, ZooError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Stopped. The same command goes on from the last whole epoch.", err=True)
        sys.exit(130)
    click.echo("Every run is there: python -m train docs writes the page.")


@main.command()
def docs() -> None:
    """Renew the parts of the documentation that are written from cards and from the results of experiments."""
    from train.docs import draw_studies, pages

    try:
        written = pages()
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    for path, text in written.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        click.echo(path)
    for path in draw_studies():
        click.echo(path)


main.add_command(mnist_fast)

if __name__ == "__main__":
    if sys.platform == "linux" and not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_MEMORY)
    try:
        main(prog_name="python -m train")
    except ModuleNotFoundError as missing:
        sys.exit(f"{missing.name} is not installed: pip install -e '.[cpu,train]'")
