"""What a check compares: functions of one run's result, in percentage points unless they say otherwise."""

from itertools import pairwise
from typing import Any

Result = dict[str, Any]


def test_accuracy(result: Result) -> float:
    """Accuracy on the test images after the last epoch, in percent."""
    return 100 * float(result["test_accuracy"])


def validation_accuracy(result: Result) -> float:
    """Accuracy on the validation split after the last epoch, in percent."""
    return 100 * float(result["epochs"][-1]["validation_accuracy"])


def validation_loss(result: Result) -> float:
    """Mean cross-entropy on the validation split after the last epoch, in thousandths of a nat."""
    return 1000 * float(result["epochs"][-1]["validation_loss"])


def corrupted_accuracy(result: Result) -> float:
    """Mean accuracy on the validation split corrupted in every way, after the last epoch, in percent."""
    return 100 * float(result["corrupted_accuracy"])


def logged_gap(result: Result) -> float:
    """Training accuracy as the log shows it, under dropout, minus validation accuracy, at the last epoch."""
    return 100 * float(result["epochs"][-1]["train_accuracy"] - result["epochs"][-1]["validation_accuracy"])


def gap(result: Result) -> float:
    """Accuracy on the training images without dropout minus validation accuracy, after the last epoch."""
    return 100 * float(result["train_accuracy"] - result["epochs"][-1]["validation_accuracy"])


def fluctuation(result: Result) -> float:
    """Mean change of the validation accuracy from one epoch to the next, either way, over the second half."""
    accuracies = [epoch["validation_accuracy"] for epoch in result["epochs"]]
    late = accuracies[len(accuracies) // 2 - 1 :]
    return 100 * sum(abs(after - before) for before, after in pairwise(late)) / (len(late) - 1)


def falls(result: Result) -> float:
    """The number of epochs whose validation accuracy is lower than the epoch's before."""
    accuracies = [epoch["validation_accuracy"] for epoch in result["epochs"]]
    return float(sum(after < before for before, after in pairwise(accuracies)))


# name → (words for the page, unit, digits)
SHOWN = {
    "test_accuracy": ("test accuracy", " %", 2),
    "validation_accuracy": ("validation accuracy", " %", 2),
    "validation_loss": ("validation loss", " mnat", 1),
    "corrupted_accuracy": ("accuracy on corrupted validation images", " %", 1),
    "logged_gap": ("gap as the log shows it", " points", 2),
    "gap": ("gap without dropout", " points", 2),
    "fluctuation": ("change of the validation accuracy from epoch to epoch, epochs 11 to 20", " points", 3),
    "falls": ("epochs at which the validation accuracy fell", "", 1),
}
