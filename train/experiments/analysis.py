"""From a study's results to verdicts: quantities of a run, means over seeds, paired differences, conclusions."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from train.experiments.study import Check

Result = dict[str, Any]  # the JSON of one run
Results = dict[str, dict[int, Result]]  # variant → seed → result
Verdict = Literal["holds", "does not hold", "undecided"]


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
    """Mean accuracy on the corrupted validation split after the last epoch, over all corruptions, in percent."""
    return 100 * float(result["corrupted_accuracy"])


def logged_gap(result: Result) -> float:
    """Training accuracy in the log (with dropout) minus validation accuracy, last epoch, in percentage points."""
    return 100 * float(result["epochs"][-1]["train_accuracy"] - result["epochs"][-1]["validation_accuracy"])


def gap(result: Result) -> float:
    """Training accuracy without dropout minus validation accuracy, after the last epoch, in percentage points."""
    return 100 * float(result["train_accuracy"] - result["epochs"][-1]["validation_accuracy"])


def fluctuation(result: Result) -> float:
    """Mean absolute change of the validation accuracy between epochs, over the second half, in percentage points."""
    accuracies = [float(epoch["validation_accuracy"]) for epoch in result["epochs"]]
    late = accuracies[len(accuracies) // 2 - 1 :]
    return 100 * sum(abs(after - before) for before, after in pairwise(late)) / (len(late) - 1)


def falls(result: Result) -> float:
    """Number of epochs whose validation accuracy is lower than that of the epoch before."""
    accuracies = [epoch["validation_accuracy"] for epoch in result["epochs"]]
    return float(sum(after < before for before, after in pairwise(accuracies)))


@dataclass(frozen=True)
class Quantity:
    """A function of one run's result, and how the documentation prints it."""

    measure: Callable[[Result], float]
    label: str
    unit: str
    digits: int


QUANTITIES = {
    "test_accuracy": Quantity(test_accuracy, "test accuracy", " %", 2),
    "validation_accuracy": Quantity(validation_accuracy, "validation accuracy", " %", 2),
    "validation_loss": Quantity(validation_loss, "validation loss", " mnat", 1),
    "corrupted_accuracy": Quantity(corrupted_accuracy, "accuracy on corrupted validation images", " %", 1),
    "logged_gap": Quantity(logged_gap, "generalisation gap in the log", " points", 2),
    "gap": Quantity(gap, "generalisation gap without dropout", " points", 2),
    "fluctuation": Quantity(
        fluctuation, "change of the validation accuracy between epochs, epochs 11 to 20", " points", 3
    ),
    "falls": Quantity(falls, "epochs at which the validation accuracy fell", "", 1),
}


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds. With one seed `sd` is None, and the 95 % interval has no bounds."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: list[float]) -> "Estimate":
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    @property
    def half_width(self) -> float:
        """Half the width of Student's 95 % interval of the mean."""
        from scipy.stats import t

        return float("inf") if self.sd is None else float(t.ppf(0.975, self.n - 1)) * self.sd / self.n**0.5


@dataclass(frozen=True)
class Finding:
    """The outcome of a check. Estimates are None where runs are missing."""

    check: Check
    variant: Estimate | None
    other: Estimate | None  # of the variant that the check compares with
    difference: Estimate | None  # variant minus other, paired by seed
    verdict: Verdict


def values(quantity: str, variant: str, results: Results) -> dict[int, float]:
    """Return the quantity of a variant's finished runs, by seed."""
    measure = QUANTITIES[quantity].measure
    return {seed: measure(result) for seed, result in sorted(results.get(variant, {}).items())}


def judge(check: Check, results: Results) -> Finding:
    """Judge a check by the finished runs. Without enough runs the verdict is "undecided"."""
    own = values(check.quantity, check.variant, results)
    other = values(check.quantity, check.against, results) if isinstance(check.against, str) else {}
    paired = [own[seed] - other[seed] for seed in own if seed in other]
    difference = Estimate.of(paired) if paired else None
    return Finding(
        check,
        Estimate.of(list(own.values())) if own else None,
        Estimate.of(list(other.values())) if other else None,
        difference,
        _verdict(check, list(own.values()), difference),
    )


def _verdict(check: Check, own: list[float], difference: Estimate | None) -> Verdict:
    if check.expected == "none":
        return "undecided" if not own else "holds" if not any(own) else "does not hold"
    if check.expected == "at least":
        estimate = Estimate.of([value - float(check.against or 0) for value in own]) if own else None
    else:
        estimate = difference
    if estimate is None:
        return "undecided"
    low, high = estimate.mean - estimate.half_width, estimate.mean + estimate.half_width
    holds, fails = {
        "same": (-check.margin <= low and high <= check.margin, high < -check.margin or low > check.margin),
        "more": (low > 0, high < 0),
        "less": (high < 0, low > 0),
        "no less": (low >= -check.margin, high < -check.margin),
        "at least": (low >= 0, high < 0),
    }[check.expected]
    return "holds" if holds else "does not hold" if fails else "undecided"


def combine(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict on a claim: it holds if all its checks hold, and does not hold if any of them does not."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "undecided" if "undecided" in verdicts else "holds"
