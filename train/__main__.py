"""`python -m train RECIPE`: every recipe is a command, beside `export`, which turns finished runs into a model."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from train.fast.run import mnist_fast
from zoo.errors import ZooError

# glibc gives large blocks back to the kernel and fetches them again at every batch, unless it is told to keep them. It
# reads these when a process starts, so the process is started again with them.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


class Failure(click.ClickException):
    """An error of the library as click shows it, with the exit code of its class."""

    def __init__(self, error: ZooError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code


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
        except ZooError as error:
            raise click.UsageError(str(error)) from None
        return _train_command(found.name, found.title)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Recipes and commands apart, each line whole."""
        own = super().list_commands(ctx)
        recipes = [name for name in self.list_commands(ctx) if name not in own]
        for title, names in (("Recipes, each a command that trains it", recipes), ("Commands", own)):
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(200)) for name, command in commands if command])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ZooError as error:
            raise Failure(error) from None


def _train_command(name: str, title: str) -> click.Command:
    @click.command(name, help=f"Train {title}.", short_help=title)
    @click.option("--seed", type=int, help="Decides initial weights, order, dropout, augmentation. [0]")
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
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="auto takes a GPU if there is one. [auto]"
    )
    @click.option("--threads", type=click.IntRange(min=1), help="[as many as are fastest, measured at the start]")
    @click.option("--runs", type=click.Path(path_type=Path), help="Where run folders lie. [$ZOO_HOME/runs]")
    @click.option("--resume", is_flag=True, help="Continue from the last whole epoch, with the options of the run.")
    @click.option("--restart", is_flag=True, help="Throw away what the run's folder holds.")
    def command(
        seed: int | None, seeds: str | None, twin: bool, epochs: int | None, data: str | None, source: str,
        device: str | None, threads: int | None, runs: Path | None, resume: bool, restart: bool,
    ) -> None:  # fmt: skip
        from train import start
        from train.data import held_out_part, torchvision_folder, training_part
        from train.device import available, fit_on_device
        from train.loop import Job, fit
        from train.progress import Progress
        from train.recipe import find
        from train.report import draw
        from train.runs import Run

        if resume and restart:
            raise click.UsageError("--resume continues a run and --restart throws it away: choose one.")
        if seed is not None and seeds:
            raise click.UsageError("--seed is one and --seeds are several: choose one.")
        recipe, kind, step_s = find(name), "twin" if twin else "full", 0.0
        numbers = _seeds(seeds) if seeds else [seed or 0]
        folders = [Run.of(recipe.name, kind, number, runs) for number in numbers]
        if resume:
            if seed is None and not seeds and not twin:
                folders = [Run.unfinished(recipe.name, runs)]
            begun = [run.begun_with() for run in folders]
            kind, numbers, data = (
                begun[0]["kind"],
                [one["seed"] for one in begun],
                data or folders[0].remembered("data"),
            )
            epochs, threads = epochs or begun[0]["epochs"], threads or begun[0]["threads"]
            device = device or begun[0].get("device", "cpu")
        else:
            for run in folders:
                run.check_free(restart)
        jobs: list[Job] = []
        try:
            if source == "torchvision" and data is None:
                data = str(torchvision_folder(recipe.dataset))
            parts = training_part(recipe.dataset, kind, data), held_out_part(recipe.dataset, kind, data)
            device = available(device or "auto")
            if not resume:
                if device == "cpu":
                    speed = start.fastest(recipe, parts[0], threads)
                    threads, step_s = speed.threads, speed.step_s
                for run in folders:
                    run.remember(data=data and os.path.abspath(data))
            for number, run in zip(numbers, folders, strict=True):
                job = Job(recipe, kind, number, epochs or recipe.epochs, threads or 1, device)
                jobs.append(job)
                click.echo(start.announcement(job, run, parts[0], step_s, resume), err=True)
            live = None if len(jobs) == 1 else False
            bars = [Progress(f"{recipe.name} {run.folder.name}", live) for run in folders]
            if device == "cpu":
                results = [
                    fit(*each, *parts, bar, resume, restart) for *each, bar in zip(jobs, folders, bars, strict=True)
                ]
            else:
                results = fit_on_device(jobs, folders, *parts, bars, resume, restart)
        except KeyboardInterrupt:
            kept = [(job, run) for job, run in zip(jobs, folders, strict=False) if run.checkpoint.exists()]
            for job, run in kept:
                draw(run)
                click.echo(f"Stopped. To go on from the last whole epoch: {start.resume_command(job, runs)}", err=True)
            if not kept:
                click.echo("Stopped before the first epoch began.", err=True)
            sys.exit(130)
        for job, run, result in zip(jobs, folders, results, strict=True):
            draw(run)
            click.echo(
                f"{recipe.name} seed {job.seed}: {result['accuracy']:.2%} of {result['images']} "
                f"{result['measured_on']} images after {result['epochs']} epochs ({result['training_s']:.0f} s). "
                f"{run.folder}"
            )
        click.echo(f"Next: {start.next_command(jobs[0], runs)}", err=True)

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
@click.option("--as", "name", metavar="NAME", help="Your own model's name, such as mnist14k.mine.")
@click.option("--seed", type=int, help="With --as: whose weights to take. [0]")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--runs", type=click.Path(path_type=Path), help="Where run folders lie. [$ZOO_HOME/runs]")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="Folder of models. [zoo/models; with --as $ZOO_HOME/models]",
)
def export(
    recipe: str, name: str | None, seed: int | None, data: str | None, runs: Path | None, target: Path | None
) -> None:
    """Write a recipe's model from its finished runs.

    RECIPE's own model is seed 0 of exactly its settings. With --as a run of any seed and any number of epochs becomes
    a model of your own, which zoo list, predict and serve take by its name.
    """
    from train import export as exporting
    from train.recipe import find
    from zoo.registry import SHIPPED, home

    if seed is not None and name is None:
        raise click.UsageError("A recipe's own model is its seed 0: add --as NAME to export another.")
    folder = target or (home() / "models" if name else SHIPPED)
    card = exporting.export(find(recipe), runs, data, folder, name, seed or 0)
    seeds = card.accuracy.seeds
    spread = f"{seeds.mean:.2%} ± {seeds.sd:.2%} (n = {seeds.n})" if seeds.sd is not None else "one seed"
    click.echo(f"{card.name} {card.version}: {card.accuracy.value:.2%}, {spread}, temperature "
               f"{card.calibration.temperature}. {folder / card.name}")  # fmt: skip
    if name:
        model = card.name if target is None else shlex.quote(str(folder / card.name))
        click.echo(f"Next: zoo predict IMAGE --model {model}", err=True)


@main.command()
@click.argument("recipe")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Folder of models. [zoo/models]")
def describe(recipe: str, target: Path | None) -> None:
    """Bring a model's title and source up to its recipe.

    Title, source and default of RECIPE's model are renewed without its runs.
    """
    from train.export import describe as renew
    from train.recipe import find
    from zoo.registry import SHIPPED

    card = renew(find(recipe), target or SHIPPED)
    click.echo(f"{card.name}: {card.title}{' (default)' * card.default}. {(target or SHIPPED) / card.name}")


@main.command()
@click.argument("model")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Folder of models. [zoo/models]")
def quantize(model: str, data: str | None, target: Path | None) -> None:
    """Write a model's int8 variant, where it is worth it."""
    from train.quantize import quantize as make
    from zoo.registry import SHIPPED

    card = make(model, data, target or SHIPPED)
    click.echo(f"{card.name}: {card.accuracy.value:.2%}; {card.quantization}. {(target or SHIPPED) / card.name}")


@main.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
def robustness(models: tuple[str, ...], data: str | None) -> None:
    """Measure models on corrupted test sets; docs writes the page."""
    from train.robustness import measure

    for name in models:
        result = measure(name, data)
        click.echo(
            f"{result['model']}: {result['mean']:.2%} of the corrupted images, {result['clean']:.2%} as they are."
        )


@main.command("report")
@click.argument("recipe")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--runs", type=click.Path(path_type=Path), help="Where run folders lie. [$ZOO_HOME/runs]")
def report_command(recipe: str, data: str | None, runs: Path | None) -> None:
    """Draw a run's confusion matrix, mistakes and reliability.

    The pictures of RECIPE's seed 0 are written into its run's folder.
    """
    from train.recipe import find
    from train.report import report

    for path in report(find(recipe), runs, data):
        click.echo(path)


@main.command()
@click.argument("study")
@click.option("--seeds", type=click.IntRange(min=1), help="How many seeds, from 0. [the study's own number]")
@click.option("--only", multiple=True, metavar="VARIANT", help="Only this variant; may be repeated.")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Folder with the data. [ZOO_DATA]")
@click.option("--threads", type=click.IntRange(min=1), help="[as many as are fastest, measured at each start]")
@click.option("--runs", type=click.Path(path_type=Path), help="Where run folders lie. [$ZOO_HOME/runs]")
def experiments(
    study: str, seeds: int | None, only: tuple[str, ...], data: str | None, threads: int | None, runs: Path | None
) -> None:
    """Train the variants of a study that have no result yet.

    A run of STUDY that was interrupted goes on from its last whole epoch.
    """
    from train.experiments import run as running
    from train.experiments.study import find

    found = find(study)
    if unknown := sorted(set(only) - found.variants.keys()):
        raise click.UsageError(f"{study} has no variant {unknown[0]!r}. It has: {', '.join(found.variants)}.")
    try:
        while left := next(running.missing(found, seeds or found.seeds, only), None):
            result = running.train(found, *left, threads, runs, data)
            part = "test" if found.reads_test else "validation"
            accuracy = result["test_accuracy"] if found.reads_test else result["epochs"][-1]["validation_accuracy"]
            click.echo(f"{left[0]} seed {left[1]}: {accuracy:.2%} of the {part} images.")
    except KeyboardInterrupt:
        click.echo("Stopped. The same command goes on from the last whole epoch.", err=True)
        sys.exit(130)
    click.echo("Every run is there: python -m docs.build writes the page.")


main.add_command(mnist_fast)

if __name__ == "__main__":
    if sys.platform == "linux" and not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_MEMORY)
    try:
        main(prog_name="python -m train")
    except ModuleNotFoundError as missing:
        sys.exit(f"{missing.name} is not installed: pip install -e '.[cpu,train]'")
