"""Time of a training step, recipe by recipe; with `--bench-full`, of the way to an accuracy.

pytest bench/test_training.py --benchmark-only
"""

import numpy as np
import pytest

import zoo
from bench.measure import Timing, facts
from train import recipe
from train.precision import on_this_processor

STEPS = 4  # of an epoch that is timed
EPOCHS = 6  # the first is not counted


def parts_of(card, kind="full"):
    """Training and test images of the model's data set; skips where they are not here."""
    from train.data import held_out_part, training_part

    try:
        return training_part(card.dataset.name, kind), held_out_part(card.dataset.name, kind)
    except zoo.ZooError as error:
        pytest.skip(str(error))


def train(card, epochs, data, test, folder):
    """Fit the model's recipe on one thread: its result, and the lines of its epochs."""
    from train.loop import Job, fit
    from train.progress import Progress
    from train.runs import Run

    run = Run.of(card.name, "full", 0, folder)
    result = fit(Job(recipe.find(card.name), "full", 0, epochs, 1), run, data, test, Progress("bench", live=False))
    return result, run.metrics()


def test_a_step(benchmark, subject, tmp_path):
    """Gather, augment, forward, backward and update, on one thread, with the recipe's batch, on training images."""
    from train.data import Part

    card = subject.entry.card
    if card.name not in recipe.names():
        pytest.skip(f"{card.name} has no recipe of its own: nothing is trained for it")
    batch = card.training.settings["batch_size"]
    some = [Part(part.name, part.images[: STEPS * batch], part.labels[: STEPS * batch]) for part in parts_of(card)]
    _, lines = benchmark.pedantic(train, (card, EPOCHS, *some, tmp_path), rounds=1)
    timing = Timing(np.array([line["seconds"] for line in lines[1:]]) / STEPS)
    benchmark.extra_info |= {
        "scope": "training step", **facts(card), "batch": batch, "threads": 1, "n": len(timing.seconds) * STEPS,
        "provider": f"torch, CPU, {on_this_processor(recipe.find(card.name)).precision}",
        "p50_ms": round(timing.p50 * 1e3, 2), "images_per_s": round(batch / timing.p50, 1),
    }  # fmt: skip
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


@pytest.mark.full
def test_to_an_accuracy(benchmark, tmp_path):
    """mnist14k's default recipe in two epochs, on one thread."""
    card = zoo.load("mnist14k", "cpu").card
    result, lines = benchmark.pedantic(train, (card, 2, *parts_of(card), tmp_path), rounds=1)
    benchmark.extra_info |= {
        "scope": "training to an accuracy", "model": card.name, "threads": 1, "n": 1, "epochs": len(lines),
        "training_s": result["training_s"], "accuracy": result["accuracy"],
    }  # fmt: skip
    assert result["accuracy"] > 0.97
