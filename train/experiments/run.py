"""Training a study's variants: one JSON file a variant and seed, written when the run is finished."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train import evaluate, networks, start
from train.data import Part, held_out_part, training_part
from train.experiments.quantities import Result
from train.experiments.study import Study
from train.experiments.verdicts import Results
from train.loop import Job, fit
from train.progress import Progress
from train.recipe import Recipe
from train.robustness import accuracies
from train.runs import Run

RESULTS = Path(__file__).parents[2] / "docs" / "experiments"
MIDDLE = 3  # of the five severities


def result_file(study: Study, variant: str, seed: int, results: Path = RESULTS) -> Path:
    return results / study.name / f"{variant}.seed{seed}.json"


def read(study: Study, results: Path = RESULTS) -> Results:
    """The results that are there, by variant and seed."""
    found: Results = {variant: {} for variant in study.variants}
    for variant, seeds in found.items():
        for path in (results / study.name).glob(f"{variant}.seed*.json"):
            told = json.loads(path.read_text(encoding="utf-8"))
            seeds[told["seed"]] = told
    return found


def missing(study: Study, seeds: int, only: tuple[str, ...] = (), results: Path = RESULTS) -> Iterator[tuple[str, int]]:
    """The runs that are still to do, every variant's seed 0 first."""
    for seed in range(seeds):
        for variant in only or study.variants:
            if not result_file(study, variant, seed, results).exists():
                yield variant, seed


def train(
    study: Study, variant: str, seed: int, threads: int | None, runs: Path | None, folder: str | None,
    results: Path = RESULTS,
) -> Result:  # fmt: skip
    """Train one variant, or go on with it where it was interrupted; write and return its result.

    Args:
        threads: None for those that an interrupted run was begun with, and else for as many as are fastest.
        runs, folder: where run folders and where the data lie, as everywhere in `train/`.
    """
    recipe = study.variants[variant]
    run = Run.of(f"{study.name}.{variant}", "twin", seed, runs)
    learned, validation = training_part(recipe.dataset, "twin", folder), held_out_part(recipe.dataset, "twin", folder)
    if threads is None:
        threads = run.begun_with()["threads"] if run.checkpoint.exists() else start.fastest(recipe, learned).threads
    job = Job(recipe, "twin", seed, recipe.epochs, threads)
    title = f"{study.name} {variant} seed {seed}"
    told = fit(job, run, learned, validation, Progress(title), resume=run.checkpoint.exists())

    result = {
        "study": study.name,
        "variant": variant,
        "seed": seed,
        "settings": recipe.settings(),
        "learned_from": len(learned),
        "epochs": run.metrics(),
        **(
            _beyond_validation(recipe, run, learned, folder) if study.reads_test else corrupted(recipe, run, validation)
        ),
        "training_s": told["training_s"],
        "threads": threads,
        **({"teacher_sha256": run.read("config")["teacher_sha256"]} if recipe.distill else {}),
        "environment": run.read("environment"),
    }
    path = result_file(study, variant, seed, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _beyond_validation(recipe: Recipe, run: Run, learned: Part, folder: str | None) -> dict[str, float]:
    """What the final weights reach on the images that they learned from, and on the test images."""
    network = networks.load(recipe, run.weights)
    test = held_out_part(recipe.dataset, "full", folder)
    scores = evaluate.logits(network, test.images, recipe)
    return {
        "train_accuracy": evaluate.accuracy(evaluate.logits(network, learned.images, recipe), learned.labels),
        "test_accuracy": evaluate.accuracy(scores, test.labels),
        "test_loss": evaluate.loss(scores, test.labels),
    }


def corrupted(recipe: Recipe, run: Run, validation: Part) -> dict[str, Any]:
    """What the final weights reach on validation images corrupted in every way at the middle severity, and the mean."""
    network = networks.load(recipe, run.weights)
    kinds = accuracies(
        lambda images: evaluate.logits(network, images, recipe).argmax(1), validation, recipe.dataset, [MIDDLE]
    )
    told = {kind: accuracy for kind, [accuracy] in kinds.items()}
    return {"corrupted_accuracy": statistics.fmean(told.values()), "corrupted": told}
