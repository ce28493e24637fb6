"""docs/training-speed.md: the runs timed by `python -m bench.training_speed`, and the profile of a training step."""

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
    """Return the runs in the order of contestant and seed, and the profiles by target; empty if there are none."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.seed*.json"))]
    profile = results / "profile.json"
    return runs, json.loads(profile.read_text(encoding="utf-8"))["profiles"] if profile.exists() else {}


def page(runs: list[Run], profiles: dict[str, list[Run]]) -> str:
    """Return the page.

    Raises:
        ValueError: the runs come from different machines, thread counts or versions of torch.
    """
    by_contestant = {name: [run for run in runs if run["contestant"] == name] for name in (*RECIPES, YARDSTICK)}
    lines = ["# Training speed", ""]
    if not all(by_contestant.values()):
        return "\n".join([*lines, "Not measured yet: `python -m bench.training_speed`.", ""])
    if len({_conditions(run) for run in runs}) > 1:
        raise ValueError("The runs come from different machines or versions. Delete docs/training-speed/*.seed*.json.")
    lines += [_introduction(runs), "", *_comparison(by_contestant), "", *_stages(by_contestant), "", *_recipes(), ""]
    return "\n".join([*lines, *_steps(profiles), *_every_run(by_contestant)])


def _conditions(run: Run) -> tuple[Any, ...]:
    machine = run["environment"]
    keys = ("processor", "cores", "python", "torch", "instructions")
    return run["threads"], *(machine[key] for key in keys)


def _introduction(runs: list[Run]) -> str:
    threads, processor, cores, python, torch, instructions = _conditions(runs[0])
    dates = sorted({run["date"] for run in runs})
    return (
        "Seconds from the start of a process to a given accuracy on MNIST's 10,000 test images. Measured with "
        "`python -m bench.training_speed` and `python -m bench.training_profile`, which write to "
        "[`training-speed/`](training-speed); this page is written by `python -m docs.build`.\n\n"
        f"{processor} ({instructions}), {cores} cores, {threads} threads, Python {python}, torch {torch}, "
        f"{' to '.join(dates)}. Every run is a new process, and only one runs at a time. The programs alternate seed "
        "by seed as long as each has runs. The clock starts before the process is created and stops when the line with "
        "the accuracy arrives, so it includes imports, reading the data, training and testing. The libraries' files "
        "are in the page cache, and the decoded data are in `$ZOO_HOME`: every run checks their digests, but does not "
        "decode the PNGs. Our runs stop after a fixed number of epochs and read the test set once; their settings were "
        "chosen on the validation split. The PyTorch example reads the test set after every epoch, as the original "
        "does, and its clock stops at the first epoch that reaches 99.0 %."
    )


def _comparison(by_contestant: dict[str, list[Run]]) -> list[str]:
    lines = [
        "| | runs | test accuracy, mean ± sd | lowest | seconds, mean ± sd | target reached | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in by_contestant.items():
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
    ours, theirs = ([run["scores"][-1]["seconds"] for run in by_contestant[name]] for name in ("99.0", YARDSTICK))
    capped = sum(_share(run) < 0.99 for run in by_contestant[YARDSTICK])
    lower_bound = f" This is a lower bound: {capped} of the runs ended before they reached it." if capped else ""
    return [
        *lines,
        "",
        f"Our program reaches 99.0 % **{statistics.fmean(theirs) / statistics.fmean(ours):.1f} times** as fast as the "
        f"example (ratio of the mean seconds).{lower_bound}",
        "",
        "The example is a reimplementation (`bench/pytorch_example.py`): 3×3 convolutions with 32 and 64 channels, max "
        "pool, dropout 0.25, dense 128, dropout 0.5, dense 10; Adadelta with learning rate 1, multiplied by 0.7 per "
        "epoch; batches of 64, and of 1000 for the test; a DataLoader over torchvision's MNIST that transforms every "
        "image separately and does not shuffle, as the original does on a CPU. Its IDX files are written before the "
        "clock starts.",
    ]


def _stages(by_contestant: dict[str, list[Run]]) -> list[str]:
    laps = {name: [run["laps"] for run in by_contestant[name]] for name in RECIPES}
    heads = list(laps["99.0"][0])
    rows = [
        f"| `{name}` | {' | '.join(f'{statistics.fmean(run[head] for run in runs):.2f}' for head in heads)} |"
        for name, runs in laps.items()
    ]
    return [
        "## Time per stage",
        "",
        "Mean seconds as measured inside the process; the external clock runs a little longer.",
        "",
        f"| | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
        *rows,
    ]


def _recipes() -> list[str]:
    short, long = RECIPES.values()
    return [
        "The network (`mnist_fast` in `train/networks.py`) pools directly after each of its first two convolutions, so "
        "that batch norm and ReLU process a quarter of the values. Both recipes (`train/fast/recipes.py`) use "
        "bfloat16, a one-cycle learning rate and a moving average of the weights: "
        f"{_summary(short)} for 99.0 %, {_summary(long)} for 99.4 %. They do not use torch.optim, because its first "
        "optimizer imports torch's compiler, and `python -m train` makes glibc keep freed memory. The example runs "
        "with the defaults: float32, torch.optim, and glibc's own settings.",
    ]


def _summary(recipe: Recipe) -> str:
    names = " and ".join(name for name, _ in recipe.augment)
    epochs = f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)} in batches of {recipe.batch_size}"
    return f"{epochs} with {names} augmentation" if names else epochs


def _steps(profiles: dict[str, list[Run]]) -> list[str]:
    columns = [(name, profile) for name, each in profiles.items() for profile in each]
    if not columns:
        return []
    heads = [
        f"`{name}`, {profile['threads']} thread{'s' * (profile['threads'] > 1)}, batch {profile['batch']}"
        for name, profile in columns
    ]
    rows = [
        f"| {title} | {' | '.join(_part(profile, part) for _, profile in columns)} |" for part, title in PARTS.items()
    ]
    sums = [sum(profile["parts_ms"].values()) for _, profile in columns]
    peaks = [" → ".join(map(str, profile["peak_mb"].values())) for _, profile in columns]
    return [
        "## Time per training step",
        "",
        f"Median milliseconds over {columns[0][1]['steps']} steps, and in brackets the share of the sum. The last rows "
        "show the mean step of the training loop, which also counts and reports, and the peak memory of the process "
        "after the imports, with the data, and after the steps.",
        "",
        f"| | {' | '.join(heads)} |",
        "|---|" + "---|" * len(columns),
        *rows,
        f"| sum | {' | '.join(f'{total:.2f}' for total in sums)} |",
        f"| step of the training loop | {' | '.join(format(profile['step_ms'], '.2f') for _, profile in columns)} |",
        f"| peak memory, MB | {' | '.join(peaks)} |",
        "",
    ]


def _part(profile: Run, part: str) -> str:
    ms = profile["parts_ms"][part]
    return f"{ms:.2f} ({ms / sum(profile['parts_ms'].values()):.0%})"


def _every_run(by_contestant: dict[str, list[Run]]) -> list[str]:
    rows = [
        f"| {name} | {run['seed']} | "
        + ", ".join(f"{score['right'] / score['images']:.2%} at {score['seconds']:.1f} s" for score in run["scores"])
        + " |"
        for name, runs in by_contestant.items()
        for run in runs
    ]
    return ["## Every run", "", "| | seed | test accuracy at seconds |", "|---|---|---|", *rows, ""]


def _share(run: Run) -> float:
    return float(run["scores"][-1]["right"] / run["scores"][-1]["images"])


def _spread(values: list[float], form: str) -> str:
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean
