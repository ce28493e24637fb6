"""docs/training-speed.md: the runs that `python -m bench.training_speed` timed, and the profile of their steps."""

import json
import statistics
from pathlib import Path
from typing import Any

from bench.training_speed import RESULTS, YARDSTICK
from train.fast.recipes import RECIPES
from train.recipe import Recipe

Run = dict[str, Any]
PARTS = {
    "gather": "gather the batch",
    "augmentation": "augmentation",
    "normalisation": "uint8 to normalised float32",
    "forward": "forward and loss",
    "backward": "backward",
    "optimizer": "optimizer",
    "average": "average of the weights",
}


def read(results: Path = RESULTS) -> tuple[list[Run], dict[str, list[Run]]]:
    """The runs, by contestant and seed, and the profiles by target; empty where there are none."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.seed*.json"))]
    profile = results / "profile.json"
    return runs, json.loads(profile.read_text(encoding="utf-8"))["profiles"] if profile.exists() else {}


def page(runs: list[Run], profiles: dict[str, list[Run]]) -> str:
    """The page; raises ValueError where the runs are of several machines, thread counts or versions of torch."""
    of = {name: [run for run in runs if run["contestant"] == name] for name in (*RECIPES, YARDSTICK)}
    lines = ["# Training speed", ""]
    if not all(of.values()):
        return "\n".join([*lines, "Not measured yet: `python -m bench.training_speed`.", ""])
    if len({_conditions(run) for run in runs}) > 1:
        raise ValueError("The runs are of different machines or versions: delete docs/training-speed/*.seed*.json.")
    lines += [_introduction(runs), "", *_contest(of), "", *_seconds(of), "", *_recipes(), ""]
    return "\n".join([*lines, *_steps(profiles), *_each(of)])


def _conditions(run: Run) -> tuple[Any, ...]:
    told = run["environment"]
    return run["threads"], told["processor"], told["cores"], told["python"], told["torch"], told["instructions"]


def _introduction(runs: list[Run]) -> str:
    threads, processor, cores, python, torch, instructions = _conditions(runs[0])
    dates = sorted({run["date"] for run in runs})
    return (
        "Seconds from the start of a process to an accuracy on MNIST's 10,000 test images. Measured by "
        "`python -m bench.training_speed` and `python -m bench.training_profile` into "
        "[`training-speed/`](training-speed); this page is written by `python -m docs.build`.\n\n"
        f"{processor} ({instructions}), {cores} cores, {threads} threads, Python {python}, torch {torch}, "
        f"{' to '.join(dates)}. Every run is a new process, one at a time; the contestants took turns, seed by seed, "
        "as far as each has runs. The clock starts before the process is made and stops when the line with the "
        "accuracy arrives, so imports, reading the data, training and testing are in it. The libraries' files are in "
        "the memory of the system, and "
        "the decoded data in `$ZOO_HOME`: their digests are checked in every run, decoding the PNGs is not in it. Ours "
        "stop after a fixed number of epochs and read the test set once; the settings were chosen on the validation "
        "split. The yardstick reads it after every epoch, as the original does, and its clock stops at the first epoch "
        "that reaches 99.0 %."
    )


def _contest(of: dict[str, list[Run]]) -> list[str]:
    lines = [
        "| | runs | test accuracy, mean ± sd | lowest | seconds, mean ± sd | to | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in of.items():
        shares = [_share(run) for run in runs]
        title = f"`mnist-fast --target {name}`" if name in RECIPES else "PyTorch's `examples/mnist`"
        target = float(name) / 100 if name in RECIPES else 0.99
        reached = sum(share >= target for share in shares)
        lines.append(
            f"| {title} | {len(runs)} | {_spread(shares, '.2%')} | {min(shares):.2%} "
            f"| {_spread([run['scores'][-1]['seconds'] for run in runs], '.1f')} "
            f"| {target:.1%}: {reached} of {len(runs)} "
            f"| {max(run['peak_mb'] for run in runs)} |"
        )
    ours, theirs = ([run["scores"][-1]["seconds"] for run in of[name]] for name in ("99.0", YARDSTICK))
    capped = sum(_share(run) < 0.99 for run in of[YARDSTICK])
    least = f" It is a lower bound: {capped} of them had not reached it when they were ended." if capped else ""
    return [
        *lines,
        "",
        f"To 99.0 % it is **{statistics.fmean(theirs) / statistics.fmean(ours):.1f} times** as fast as the example "
        f"(ratio of the mean seconds).{least}",
        "",
        "The example is written from its description (`bench/pytorch_example.py`): convolutions 3×3 of 32 and 64 "
        "channels, max pool, dropout 0.25, dense 128, dropout 0.5, dense 10; Adadelta with rate 1, times 0.7 an epoch; "
        "batches of 64, of 1000 for the test; a DataLoader over torchvision's MNIST, every image transformed by "
        "itself, not shuffled, as it is on a CPU. Its files are IDX files that are written before its clock starts.",
    ]


def _seconds(of: dict[str, list[Run]]) -> list[str]:
    laps = {name: [run["laps"] for run in of[name]] for name in RECIPES}
    heads = list(laps["99.0"][0])
    rows = [
        f"| `{name}` | {' | '.join(f'{statistics.fmean(run[head] for run in runs):.2f}' for head in heads)} |"
        for name, runs in laps.items()
    ]
    return [
        "## Where the seconds go",
        "",
        "Mean seconds, as the process tells them; the clock outside runs a little longer.",
        "",
        f"| | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
        *rows,
    ]


def _recipes() -> list[str]:
    short, long = RECIPES.values()
    return [
        "The network (`train/networks.py`, `mnist_fast`) pools right after each of its first two convolutions, so "
        "that batch norm and ReLU see a quarter of the values. Both recipes (`train/fast/recipes.py`) compute in "
        f"bfloat16 under a one-cycle rate and measure a moving average of the weights: {_told(short)} for 99.0 %, "
        f"{_told(long)} for 99.4 %. "
        "torch.optim is left out because its first optimizer imports torch's compiler; `python -m train` tells "
        "glibc to keep freed memory. The example has what its user gets: float32, torch.optim, glibc as it is.",
    ]


def _told(recipe: Recipe) -> str:
    names = " and ".join(name for name, _ in recipe.augment)
    epochs = f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)} in batches of {recipe.batch_size}"
    return f"{epochs}, with {names} augmentation," if names else epochs


def _steps(profiles: dict[str, list[Run]]) -> list[str]:
    columns = [(name, told) for name, each in profiles.items() for told in each]
    if not columns:
        return []
    heads = [
        f"`{name}`, {told['threads']} thread{'s' * (told['threads'] > 1)}, batch {told['batch']}"
        for name, told in columns
    ]
    rows = [f"| {title} | {' | '.join(_part(told, part) for _, told in columns)} |" for part, title in PARTS.items()]
    sums = [sum(told["parts_ms"].values()) for _, told in columns]
    return [
        "## A step",
        "",
        f"Median milliseconds over {columns[0][1]['steps']} steps; in brackets the "
        "share of their sum. Below, the mean step of the training loop itself, which also counts and reports, and "
        "the peak memory of the process after importing, with the data and after the steps.",
        "",
        f"| | {' | '.join(heads)} |",
        "|---|" + "---|" * len(columns),
        *rows,
        f"| sum | {' | '.join(f'{total:.2f}' for total in sums)} |",
        f"| the loop's step | {' | '.join(format(told['step_ms'], '.2f') for _, told in columns)} |",
        f"| peak memory, MB | {' | '.join(' → '.join(map(str, told['peak_mb'].values())) for _, told in columns)} |",
        "",
    ]


def _part(told: Run, part: str) -> str:
    ms = told["parts_ms"][part]
    return f"{ms:.2f} ({ms / sum(told['parts_ms'].values()):.0%})"


def _each(of: dict[str, list[Run]]) -> list[str]:
    rows = [
        f"| {name} | {run['seed']} | "
        + ", ".join(f"{score['right'] / score['images']:.2%} at {score['seconds']:.1f} s" for score in run["scores"])
        + " |"
        for name, runs in of.items()
        for run in runs
    ]
    return ["## Every run", "", "| | seed | test accuracy at seconds |", "|---|---|---|", *rows, ""]


def _share(run: Run) -> float:
    return run["scores"][-1]["right"] / run["scores"][-1]["images"]


def _spread(values: list[float], form: str) -> str:
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean
