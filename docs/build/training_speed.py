"""The tables of docs/training-speed.md, from the results of bench/training_speed.py and bench/training_profile.py."""

import json
import statistics
from pathlib import Path
from typing import Any

from bench.training_speed import RESULTS, YARDSTICK
from docs.build.benchmarks import table
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


def tables(runs: list[Run], profiles: dict[str, list[Run]]) -> dict[str, str]:
    """Return the tables and sentences of the page by name.

    Raises:
        ValueError: the runs come from different machines, thread counts or versions of torch.
    """
    by_contestant = {name: [run for run in runs if run["contestant"] == name] for name in (*RECIPES, YARDSTICK)}
    names = ("conditions", "comparison", "stages", "recipes", "steps", "runs")
    if not all(by_contestant.values()):
        return dict.fromkeys(names, "Not measured yet: `python -m bench.training_speed`.")
    if len({_conditions(run) for run in runs}) > 1:
        raise ValueError("The runs come from different machines or versions. Delete docs/training-speed/*.seed*.json.")
    threads, processor, cores, python, torch, instructions = _conditions(runs[0])
    dates = sorted({run["date"] for run in runs})
    conditions = (
        f"{processor} ({instructions}), {cores} cores, {threads} threads, Python {python}, torch {torch}, "
        f"{' to '.join(dates)}."
    )
    texts = (
        conditions,
        comparison(by_contestant),
        stages(by_contestant),
        recipes(),
        steps(profiles),
        every_run(by_contestant),
    )
    return dict(zip(names, texts, strict=True))


def _conditions(run: Run) -> tuple[Any, ...]:
    machine = run["environment"]
    keys = ("processor", "cores", "python", "torch", "instructions")
    return run["threads"], *(machine[key] for key in keys)


def comparison(by_contestant: dict[str, list[Run]]) -> str:
    """Return a row per program, and the ratio of its seconds to the example's."""
    rows = []
    for name, runs in by_contestant.items():
        shares = [_share(run) for run in runs]
        target = float(name) / 100 if name in RECIPES else 0.99
        rows.append([
            f"`mnist-fast --target {name}`" if name in RECIPES else "PyTorch's `examples/mnist`",
            len(runs),
            _spread(shares, ".2%"),
            f"{min(shares):.2%}",
            _spread([run["scores"][-1]["seconds"] for run in runs], ".1f"),
            f"{target:.1%}: {sum(share >= target for share in shares)} of {len(runs)}",
            max(run["peak_mb"] for run in runs),
        ])  # fmt: skip
    ours, theirs = ([run["scores"][-1]["seconds"] for run in by_contestant[name]] for name in ("99.0", YARDSTICK))
    capped = sum(_share(run) < 0.99 for run in by_contestant[YARDSTICK])
    lower_bound = f" This is a lower bound: {capped} of the runs ended before they reached it." if capped else ""
    head = " | runs | test accuracy, mean ± sd | lowest | seconds, mean ± sd | target reached | peak memory, MB"
    return (
        f"{table(head, rows)}\n\nOur program reaches 99.0 % **{statistics.fmean(theirs) / statistics.fmean(ours):.1f} "
        f"times** as fast as the example (ratio of the mean seconds).{lower_bound}"
    )


def stages(by_contestant: dict[str, list[Run]]) -> str:
    """Return the mean seconds of each stage, a row per recipe."""
    laps = {name: [run["laps"] for run in by_contestant[name]] for name in RECIPES}
    names = list(laps["99.0"][0])
    rows = [
        [f"`{recipe}`", *(f"{statistics.fmean(run[name] for run in runs):.2f}" for name in names)]
        for recipe, runs in laps.items()
    ]
    return table(" | ".join(["", *names]), rows)


def recipes() -> str:
    """Return a line per recipe."""
    return "\n".join(f"- {target} %: {_summary(recipe)}." for target, recipe in RECIPES.items())


def _summary(recipe: Recipe) -> str:
    names = " and ".join(name for name, _ in recipe.augment)
    epochs = f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)} in batches of {recipe.batch_size}"
    return f"{epochs} with {names} augmentation" if names else epochs


def steps(profiles: dict[str, list[Run]]) -> str:
    """Return the median milliseconds of each part of a step, a column per recipe and number of threads."""
    columns = [(name, profile) for name, each in profiles.items() for profile in each]
    if not columns:
        return "Not measured yet: `python -m bench.training_profile`."
    heads = [
        f"`{name}`, {profile['threads']} thread{'s' * (profile['threads'] > 1)}, batch {profile['batch']}"
        for name, profile in columns
    ]
    rows = [[title, *(_part(profile, part) for _, profile in columns)] for part, title in PARTS.items()]
    rows += [
        ["sum", *(f"{sum(profile['parts_ms'].values()):.2f}" for _, profile in columns)],
        ["step of the training loop", *(f"{profile['step_ms']:.2f}" for _, profile in columns)],
        ["peak memory, MB", *(" → ".join(map(str, profile["peak_mb"].values())) for _, profile in columns)],
    ]
    return table(" | ".join(["", *heads]), rows)


def _part(profile: Run, part: str) -> str:
    ms = profile["parts_ms"][part]
    return f"{ms:.2f} ({ms / sum(profile['parts_ms'].values()):.0%})"


def every_run(by_contestant: dict[str, list[Run]]) -> str:
    """Return a row per run with all its scores."""
    rows = [
        [
            name,
            run["seed"],
            ", ".join(f"{score['right'] / score['images']:.2%} at {score['seconds']:.1f} s" for score in run["scores"]),
        ]
        for name, runs in by_contestant.items()
        for run in runs
    ]
    return table(" | seed | test accuracy at seconds", rows)


def _share(run: Run) -> float:
    return float(run["scores"][-1]["right"] / run["scores"][-1]["images"])


def _spread(values: list[float], form: str) -> str:
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean
