"""Train a study's variants; each finished run writes one JSON file."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train import evaluate, networks, start
from train.data import Split, held_out_data, training_data
from train.experiments.analysis import Result, Results
from train.experiments.study import Study
from train.loop import TrainingJob, fit
from train.progress import Progress
from train.recipe import Recipe
from train.robustness import accuracies
from train.runs import Run

RESULTS = Path(__file__).parents[2] / "docs" / "experiments"
SEVERITY = 3  # the middle one of five


def result_file(study: Study, variant: str, seed: int, results: Path = RESULTS) -> Path:
    return results / study.name / f"{variant}.seed{seed}.json"


def read(study: Study, results: Path = RESULTS) -> Results:
    """Return the results of the finished runs, by variant and seed."""
    by_variant: Results = {variant: {} for variant in study.variants}
    for variant, by_seed in by_variant.items():
        for path in (results / study.name).glob(f"{variant}.seed*.json"):
            result = json.loads(path.read_text(encoding="utf-8"))
            by_seed[result["seed"]] = result
    return by_variant


def missing(study: Study, seeds: int, only: tuple[str, ...] = (), results: Path = RESULTS) -> Iterator[tuple[str, int]]:
    """Yield variant and seed of the runs without a result, seed 0 of every variant first."""
    for seed in range(seeds):
        for variant in only or study.variants:
            if not result_file(study, variant, seed, results).exists():
                yield variant, seed


def train(
    study: Study,
    variant: str,
    seed: int,
    threads: int | None,
    runs: Path | None,
    folder: str | None,
    results: Path = RESULTS,
) -> Result:
    """Train one variant, resuming an interrupted run; write and return its result.

    Args:
        threads: None for the number an interrupted run was started with, or for the fastest number.
        runs: folder with the run folders, default `$ZOO_HOME/runs`.
        folder: folder with the data, as in `zoo.datasets.catalog.load`.
    """
    recipe = study.variants[variant]
    run = Run.of(f"{study.name}.{variant}", "calibration", seed, runs)
    training = training_data(recipe.dataset, "calibration", folder)
    validation = held_out_data(recipe.dataset, "calibration", folder)
    if threads is None:
        threads = run.saved_config()["threads"] if run.checkpoint.exists() else start.fastest(recipe, training).threads
    job = TrainingJob(recipe, "calibration", seed, recipe.epochs, threads)
    progress = Progress(f"{study.name} {variant} seed {seed}")
    training_s = fit(job, run, training, validation, progress, resume=run.checkpoint.exists())["training_s"]

    if study.reads_test:
        measured: dict[str, Any] = _train_and_test_accuracy(recipe, run, training, folder)
    else:
        measured = corrupted(recipe, run, validation)
    result = {
        "study": study.name,
        "variant": variant,
        "seed": seed,
        "settings": recipe.settings(),
        "learned_from": len(training),
        "epochs": run.metrics(),
        **measured,
        "training_s": training_s,
        "threads": threads,
        **({"teacher_sha256": run.read("config")["teacher_sha256"]} if recipe.distill else {}),
        "environment": run.read("environment"),
    }
    path = result_file(study, variant, seed, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _train_and_test_accuracy(recipe: Recipe, run: Run, training: Split, folder: str | None) -> dict[str, float]:
    """Measure the final weights on the images they were trained on and on the test images."""
    network = networks.load(recipe, run.weights)
    test = held_out_data(recipe.dataset, "full", folder)
    scores = evaluate.logits(network, test.images, recipe)
    return {
        "train_accuracy": evaluate.accuracy(evaluate.logits(network, training.images, recipe), training.labels),
        "test_accuracy": evaluate.accuracy(scores, test.labels),
        "test_loss": evaluate.loss(scores, test.labels),
    }


def corrupted(recipe: Recipe, run: Run, validation: Split) -> dict[str, Any]:
    """Measure the final weights on validation images with every corruption at the middle severity."""
    network = networks.load(recipe, run.weights)
    by_severity = accuracies(
        lambda images: evaluate.logits(network, images, recipe).argmax(1), validation, recipe.dataset, [SEVERITY]
    )
    by_kind = {kind: accuracy for kind, [accuracy] in by_severity.items()}
    return {"corrupted_accuracy": statistics.fmean(by_kind.values()), "corrupted": by_kind}
