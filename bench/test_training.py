"""Time of a training step of each recipe; with `-m full`, of training to an accuracy.

pytest bench/test_training.py --benchmark-only
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from bench.measure import Timing, card_facts
from bench.subjects import Subject
from train import recipe
from train.precision import on_this_processor

STEPS = 4  # per epoch
EPOCHS = 6  # the first is not counted


def load_parts(card: zoo.Card) -> tuple[Any, Any]:
    """Training and test images of the model's dataset; skips the benchmark if they are missing."""
    from train.data import held_out_data, training_data

    try:
        return training_data(card.trained.dataset.name, "full"), held_out_data(card.trained.dataset.name, "full")
    except zoo.ZooError as error:
        pytest.skip(str(error))


def train(card: zoo.Card, epochs: int, data: Any, test: Any, folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Train the model's recipe on one thread; returns its result and its metrics, a row per epoch."""
    from train.loop import TrainingJob, fit
    from train.progress import Progress
    from train.runs import Run

    run = Run.of(card.name, "full", 0, folder)
    result = fit(
        TrainingJob(recipe.find(card.name), "full", 0, epochs, 1), run, data, test, Progress("bench", live=False)
    )
    return result, run.metrics()


def test_training_step(benchmark: Any, subject: Subject, tmp_path: Path) -> None:
    """Gather, augment, forward, backward and update, on one thread, with the recipe's batch size."""
    from train.data import Split

    card = subject.entry.card
    if card.name not in recipe.names():
        pytest.skip(f"{card.name} has no recipe")
    batch = card.trained.training.settings["batch_size"]
    splits = [
        Split(split.name, split.images[: STEPS * batch], split.labels[: STEPS * batch]) for split in load_parts(card)
    ]
    _, metrics = benchmark.pedantic(train, (card, EPOCHS, *splits, tmp_path), rounds=1)
    timing = Timing(np.array([line["seconds"] for line in metrics[1:]]) / STEPS)
    benchmark.extra_info |= {
        "scope": "training step", **card_facts(card), "batch": batch, "threads": 1, "n": len(timing.seconds) * STEPS,
        "provider": f"torch, CPU, {on_this_processor(recipe.find(card.name)).precision}",
        "p50_ms": round(timing.p50 * 1e3, 2), "images_per_s": round(batch / timing.p50, 1),
    }  # fmt: skip
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]


@pytest.mark.full
def test_training_to_an_accuracy(benchmark: Any, tmp_path: Path) -> None:
    """mnist14k's default recipe for two epochs, on one thread."""
    card = zoo.load("mnist14k", "cpu").card
    result, metrics = benchmark.pedantic(train, (card, 2, *load_parts(card), tmp_path), rounds=1)
    benchmark.extra_info |= {
        "scope": "training to an accuracy", "model": card.name, "threads": 1, "n": 1, "epochs": len(metrics),
        "training_s": result["training_s"], "accuracy": result["accuracy"],
    }  # fmt: skip
    assert result["accuracy"] > 0.97
