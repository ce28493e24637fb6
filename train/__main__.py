"""`python -m train`: one command per recipe, and the commands that export and measure models."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from train.experiments.study import NAMES as STUDIES
from train.fast.recipes import RECIPES as TARGETS
from zoo.errors import WrongUsage, ZooError

if TYPE_CHECKING:
    from train.data import Split
    from train.loop import TrainingJob
    from train.processes import Processes
    from train.runs import Run

# By default glibc returns large blocks to the kernel and requests them again for every batch. These variables make it
# keep them. glibc reads them only when a process starts, so the command restarts itself with them.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
HELP_WIDTH = 200  # of a command's short help; click would cut it at 45 characters

data_option = click.option(
    "--data", type=click.Path(exists=True, file_okay=False), help="Directory with the datasets.  [env var: ZOO_DATA]"
)
runs_option = click.option(
    "--runs", type=click.Path(path_type=Path), help="Directory of the runs.  [default: $ZOO_HOME/runs]"
)
target_option = click.option(
    "--to", "target", type=click.Path(path_type=Path), help="Directory of models.  [default: zoo/models]"
)


class Failure(click.ClickException):
    """A ZooError as click shows it, with the exit code of its class."""

    def __init__(self, error: ZooError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares a ClassVar


class Recipes(click.Group):
    """A group with one command per recipe file, plus the commands registered below."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from train import recipe

        return [*recipe.names(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from train import recipe

        if command := super().get_command(ctx, cmd_name):
            return command
        named = recipe.find(cmd_name)
        return _train_command(named.name, named.title)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List recipes and other commands in separate sections."""
        other = super().list_commands(ctx)
        recipes = [name for name in self.list_commands(ctx) if name not in other]
        for title, names in (("Recipes", recipes), ("Commands", other)):
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl(
                    [(name, command.get_short_help_str(HELP_WIDTH)) for name, command in commands if command]
                )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ZooError as error:
            raise Failure(error) from None


@click.group(cls=Recipes, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train models from recipes, export them, and measure them."""


def _train_command(name: str, title: str) -> click.Command:
    @click.command(name, help=f"Train {name}: {title}.", short_help=title)
    @click.option("--seed", type=int, help="Seed of initial weights, order, dropout and augmentation.  [default: 0]")
    @click.option("--seeds", metavar="FIRST-LAST", help="Several seeds, such as 0-4. On a GPU they run in parallel.")
    @click.option("--calibration-run", is_flag=True, help="Train without the validation split and measure on it.")
    @click.option("--epochs", type=click.IntRange(min=1), help="Number of epochs.  [default: the recipe's]")
    @data_option
    @click.option(
        "--source",
        type=click.Choice(["hub", "torchvision"]),
        default="hub",
        show_default=True,
        help="Where to download missing data.",
    )
    @click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        help="Device to train on; auto is the GPU if there is one (unlike `zoo predict`).  [default: auto]",
    )
    @click.option(
        "--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the fastest number, measured first]"
    )
    @runs_option
    @click.option("--resume", is_flag=True, help="Continue after the last complete epoch, with the run's own options.")
    @click.option("--restart", is_flag=True, help="Delete an earlier run in the same folder.")
    def command(**options: Any) -> None:
        _train(name, **options)

    return command


def _train(
    name: str,
    *,
    seed: int | None,
    seeds: str | None,
    calibration_run: bool,
    epochs: int | None,
    data: str | None,
    source: str,
    device: str | None,
    threads: int | None,
    runs: Path | None,
    resume: bool,
    restart: bool,
) -> None:
    """Run the jobs of one recipe, one per seed, and print results and next steps."""
    from torch import get_num_threads

    from train import start
    from train.data import Kind, held_out_data, torchvision_folder, training_data
    from train.device import available
    from train.loop import TrainingJob
    from train.processes import Processes
    from train.recipe import find
    from train.report import draw
    from train.runs import Run

    processes = Processes.of_torchrun()
    if resume and restart:
        raise WrongUsage("--resume and --restart cannot be used together.")
    if seed is not None and seeds:
        raise WrongUsage("--seed and --seeds cannot be used together.")
    recipe, step_s = find(name), 0.0
    kind: Kind = "calibration" if calibration_run else "full"
    numbers = _parse_seeds(seeds) if seeds else [seed or 0]
    folders = [processes.run(Run.of(recipe.name, kind, number, runs)) for number in numbers]
    if resume:
        if seed is None and not seeds and not calibration_run:
            folders = [processes.run(Run.unfinished(recipe.name, runs))]
        configs = [run.saved_config() for run in folders]
        kind, numbers = configs[0]["kind"], [config["seed"] for config in configs]
        data = data or folders[0].saved_option("data")
        epochs, threads = epochs or configs[0]["epochs"], threads or configs[0]["threads"]
        device = device or configs[0].get("device", "cpu")
    else:
        for run in folders:
            run.check_free(restart)
    jobs: list[TrainingJob] = []
    try:
        if source == "torchvision" and data is None:
            data = str(torchvision_folder(recipe.dataset))
        parts = training_data(recipe.dataset, kind, data), held_out_data(recipe.dataset, kind, data)
        device = available(device or "auto")
        if not resume:
            if processes.count > 1:
                threads = threads or get_num_threads()  # torchrun sets OMP_NUM_THREADS to 1
            elif device == "cpu":
                speed = start.fastest(recipe, parts[0], threads)
                threads, step_s = speed.threads, speed.step_s
            for run in folders:
                run.save_options(data=data and os.path.abspath(data))
        for number, run in zip(numbers, folders, strict=True):
            job = TrainingJob(recipe, kind, number, epochs or recipe.epochs, threads or 1, device, processes.count)
            jobs.append(job)
            if processes.rank == 0:
                click.echo(start.announcement(job, run, parts[0], step_s, resume), err=True)
        with processes.connected(device):
            results = _fit(jobs, folders, *parts, resume, restart, processes)
    except KeyboardInterrupt:
        if processes.rank:
            sys.exit(130)
        resumable = [(job, run) for job, run in zip(jobs, folders, strict=False) if run.checkpoint.exists()]
        for job, run in resumable:
            draw(run)
            click.echo(f"Stopped. To continue: {start.resume_command(job, runs)}", err=True)
            if kind == "full" and run.metrics():
                click.echo(f"To use it as it is: {start.export_command(job, runs)}", err=True)
        if not resumable:
            click.echo("Stopped before the first epoch.", err=True)
        sys.exit(130)
    if processes.rank:
        return
    for job, run, result in zip(jobs, folders, results, strict=True):
        draw(run)
        click.echo(
            f"{recipe.name} seed {job.seed}: accuracy {result['accuracy']:.2%} on {result['images']} "
            f"{result['measured_on']} images after {result['epochs']} epoch{'s' * (result['epochs'] != 1)} "
            f"({result['training_s']:.0f} s). "
            f"{run.folder}"
        )
    click.echo(f"Next: {start.next_command(jobs[0], runs)}", err=True)


def _fit(
    jobs: "list[TrainingJob]",
    runs: "list[Run]",
    training: "Split",
    held_out: "Split",
    resume: bool,
    restart: bool,
    processes: "Processes",
) -> list[dict[str, Any]]:
    """Train the jobs: one after the other on the CPU, in parallel on a GPU."""
    from train.device import fit_on_device
    from train.loop import fit
    from train.progress import Progress

    live = None if len(jobs) == 1 and processes.rank == 0 else False
    titles = [f"{job.recipe.name} {run.folder.name}" for job, run in zip(jobs, runs, strict=True)]
    bars = [Progress(title, live, quiet=processes.rank > 0) for title in titles]
    if jobs[0].device != "cpu":
        return fit_on_device(jobs, runs, training, held_out, bars, resume, restart, processes=processes)
    return [
        fit(job, run, training, held_out, bar, resume, restart, processes=processes)
        for job, run, bar in zip(jobs, runs, bars, strict=True)
    ]


def _parse_seeds(text: str) -> list[int]:
    """Parse `0-4` or `3`."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    seeds = [*range(int(match[1]), int(match[2] or match[1]) + 1)] if match else []
    if not seeds:
        raise WrongUsage(f"Invalid --seeds {text!r}. Use a range such as 0-4.")
    return seeds


@main.command()
@click.argument("recipe")
@click.option("--as", "name", metavar="NAME", help="Name of your own model, for example mnist14k.mine.")
@click.option("--seed", type=int, help="With --as: the seed to export.  [default: 0]")
@data_option
@runs_option
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="Directory of models.  [default: zoo/models; with --as $ZOO_HOME/models]",
)
def export(
    recipe: str, name: str | None, seed: int | None, data: str | None, runs: Path | None, target: Path | None
) -> None:
    """Turn runs of a recipe into a model.

    Without --as this writes the recipe's own model: seed 0, finished, with exactly the recipe's settings. With --as any
    seed and any number of epochs becomes a model of your own, which `zoo list`, `zoo predict` and `zoo serve` find by
    its name. An interrupted run gives the model after its last complete epoch.
    """
    from train import export as exporting
    from train.recipe import find
    from zoo.registry import SHIPPED_FOLDER, home

    if seed is not None and name is None:
        raise WrongUsage("A recipe's own model always has seed 0. To export another seed, add --as NAME.")
    folder = target or (home() / "models" if name else SHIPPED_FOLDER)
    card = exporting.export(find(recipe), runs, data, folder, name, seed or 0)
    seeds = card.trained.accuracy.seeds
    spread = f"{seeds.mean:.2%} ± {seeds.sd:.2%} (n = {seeds.n})" if seeds.sd is not None else "one seed"
    click.echo(
        f"{card.name} {card.version}: {card.trained.accuracy.value:.2%}, {spread}, temperature "
        f"{card.calibration.temperature}. {folder / card.name}"
    )
    if name is None:
        click.echo(f"Next: python -m train known {card.name}", err=True)
    else:
        model = card.name if target is None else shlex.quote(str(folder / card.name))
        click.echo(f"Next: zoo predict IMAGE --model {model}", err=True)


@main.command()
@click.argument("recipe")
@target_option
def describe(recipe: str, target: Path | None) -> None:
    """Update version, title, source and default flag from the recipe.

    Weights and figures do not change. No runs are needed.
    """
    from train.export import describe as update
    from train.recipe import find
    from zoo.registry import SHIPPED_FOLDER

    for card in update(find(recipe), target or SHIPPED_FOLDER):
        default = " (default)" if card.default else ""
        click.echo(f"{card.name} {card.version}: {card.title}{default}. {(target or SHIPPED_FOLDER) / card.name}")


@main.command()
@click.argument("recipe")
@data_option
@runs_option
@target_option
def calibrate(recipe: str, data: str | None, runs: Path | None, target: Path | None) -> None:
    """Write the temperature of a calibration run into a model.

    Needs `python -m train RECIPE --calibration-run`, and no other run. The int8 variant gets the same temperature.
    Weights and logits do not change.
    """
    from train.calibrate import calibrate_shipped
    from train.recipe import find
    from zoo.registry import SHIPPED_FOLDER

    for card in calibrate_shipped(find(recipe), runs, data, target or SHIPPED_FOLDER):
        calibration = card.calibration
        click.echo(
            f"{card.name} {card.version}: temperature {calibration.temperature}, unsure below "
            f"{calibration.unsure_below}, expected calibration error {calibration.ece_before:.2%} -> "
            f"{calibration.ece_after:.2%}"
        )


@main.command()
@click.argument("model")
@data_option
@target_option
def quantize(model: str, data: str | None, target: Path | None) -> None:
    """Write a model's int8 variant if it is fast and accurate enough."""
    from train.quantize import quantize as write
    from zoo.registry import SHIPPED_FOLDER

    card = write(model, data, target or SHIPPED_FOLDER)
    click.echo(
        f"{card.name}: {card.trained.accuracy.value:.2%}; {card.quantization}. {(target or SHIPPED_FOLDER) / card.name}"
    )


@main.command()
@click.argument("patterns", nargs=-1, required=True, metavar="MODEL...")
@click.option("--rewrite", is_flag=True, help="Write the graph again with the same weights, without training.")
@data_option
@target_option
def known(patterns: tuple[str, ...], rewrite: bool, data: str | None, target: Path | None) -> None:
    """Train the output `known` of models.

    MODEL is a name or a pattern in quotes, such as '*' for all shipped models. Logits and probabilities do not change.
    """
    from train import known as heads
    from zoo.registry import SHIPPED_FOLDER

    write = heads.rewrite if rewrite else heads.add_known
    for card in write(heads.matching(patterns), data, target or SHIPPED_FOLDER):
        assert card.known is not None
        source = "The graph was written again, with the same head" if rewrite else card.known.source
        click.echo(f"{card.name}: known from {card.calibration.known_from}. {source}.")


@main.command()
@click.argument("patterns", nargs=-1, required=True, metavar="MODEL...")
@data_option
@target_option
def unknown(patterns: tuple[str, ...], data: str | None, target: Path | None) -> None:
    """Measure the output `known` of models.

    The folder of the data has notmnist/ and signs/ beside MNIST and CIFAR-10 (train/unknown.py).
    """
    from train.known import matching
    from train.unknown import measure
    from zoo.registry import SHIPPED_FOLDER

    for card in measure(matching(patterns), data, target or SHIPPED_FOLDER):
        assert card.known is not None
        click.echo(f"{card.name}: {card.known.test_known:.2%} of the test images are known.")
        for one in card.known.sets:
            click.echo(
                f"  {one.name}: {one.images:,} images, AUROC {one.auroc:.4f}, {one.false_positive_rate:.2%} false "
                f"positives at 95 % true positives, {one.known:.2%} known"
            )


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@data_option
def robustness(models: tuple[str, ...], data: str | None) -> None:
    """Measure models on corrupted test sets."""
    from train.robustness import measure

    for name in models:
        result = measure(name, data)
        click.echo(f"{result['model']}: accuracy {result['mean']:.2%} corrupted, {result['clean']:.2%} clean.")


@main.command("report")
@click.argument("recipe")
@data_option
@runs_option
def report_command(recipe: str, data: str | None, runs: Path | None) -> None:
    """Draw a run's confusion matrix, mistakes and reliability.

    The plots of RECIPE's seed 0 are written into its run folder.
    """
    from train.recipe import find
    from train.report import report

    for path in report(find(recipe), runs, data):
        click.echo(path)


@main.command(
    short_help="Train the variants of a study that have no result yet.",
    help=f"""Train the variants of STUDY that have no result yet.

    An interrupted run continues after its last complete epoch.

    Studies: {", ".join(STUDIES)}.""",
)
@click.argument("study")
@click.option("--seeds", type=click.IntRange(min=1), help="Number of seeds, from 0.  [default: the study's]")
@click.option("--only", multiple=True, metavar="VARIANT", help="Only this variant; can be repeated.")
@data_option
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the fastest number, measured first]"
)
@runs_option
def experiments(
    study: str, seeds: int | None, only: tuple[str, ...], data: str | None, threads: int | None, runs: Path | None
) -> None:
    from train.experiments import run as running
    from train.experiments.study import find

    chosen = find(study)
    if unknown := sorted(set(only) - chosen.variants.keys()):
        raise WrongUsage(f"{study} has no variant {unknown[0]!r}. It has: {', '.join(chosen.variants)}.")
    try:
        while missing := next(running.missing(chosen, seeds or chosen.seeds, only), None):
            variant, seed = missing
            result = running.train(chosen, variant, seed, threads, runs, data)
            split = "test" if chosen.reads_test else "validation"
            accuracy = result["test_accuracy"] if chosen.reads_test else result["epochs"][-1]["validation_accuracy"]
            click.echo(f"{variant} seed {seed}: accuracy {accuracy:.2%} on the {split} images.")
    except KeyboardInterrupt:
        click.echo("Stopped. Run the same command to continue after the last complete epoch.", err=True)
        sys.exit(130)
    click.echo("All runs are done. To write the documentation: python -m docs.build")


@main.command("mnist-fast")
@click.option(
    "--target", type=click.Choice(list(TARGETS)), default="99.0", show_default=True, help="Target accuracy in percent."
)
@click.option("--seed", default=0, show_default=True, help="Seed of initial weights, order and augmentation.")
@click.option("--calibration-run", is_flag=True, help="Train without the validation split and measure on it.")
@data_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=os.cpu_count(),
    help="CPU threads.  [default: the number of cores]",
)
def mnist_fast(target: str, seed: int, calibration_run: bool, data: str | None, threads: int) -> None:
    """Train on MNIST against the clock (docs/training-speed.md)."""
    from train.fast.run import run

    result = run(target, "calibration" if calibration_run else "full", seed, threads, data)
    click.echo(f"{target} seed {seed}: {result}")


if __name__ == "__main__":
    if sys.platform == "linux" and not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_MEMORY)
    try:
        main(prog_name="python -m train")
    except ModuleNotFoundError as missing:
        sys.exit(f"Error: {missing.name} is not installed. Install it: pip install -e '.[cpu,train]'")
