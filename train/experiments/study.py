"""Study: the variants of a recipe and the claims about them, as data. Studies live beside this file: `week2.py`."""

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from train.recipe import Recipe
from zoo.errors import WrongUsage

Verdict = Literal["holds", "does not hold", "cannot be told"]
Expected = Literal["same", "more", "less", "no less", "at least", "none"]


@dataclass(frozen=True)
class Check:
    """One comparison that a claim stands or falls with.

    quantity: a function of `train/experiments/quantities.py`.
    variant: the variant whose quantity is judged.
    against: another variant, compared seed by seed; or for "at least" the figure to reach.
    expected: "same": within ± margin; "more", "less": than the other; "no less": less by no more than margin;
        "at least": the mean over seeds reaches the figure; "none": zero for every seed.
    margin: in the quantity's unit, what counts as no difference.
    """

    quantity: str
    variant: str
    expected: Expected
    against: str | float | None = None
    margin: float = 0.0


@dataclass(frozen=True)
class Claim:
    """title: a few words; said: what the notes say; checks: all must hold for the claim to hold."""

    title: str
    said: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Rung:
    """A step of a ladder: `variant` changes one thing of the variant `on`; `text` says which, and why it stays or not.

    kept: whether later steps and the final recipes stand on it, decided by hand from the validation split; None where
        that is still open.
    """

    variant: str
    on: str
    text: str
    kept: bool | None = None


@dataclass(frozen=True)
class Study:
    """name, title and text of its page; variants by name; what is asked of them; how many seeds it asks for.

    start: what the variant is that a ladder's first rung stands on.

    A study asks either whether claims hold or, as a ladder, what each rung adds. Every run learns from the training
    split, and the validation split is measured after every epoch. The test set is read once after the last epoch where
    `reads_test`; a ladder, which chooses, does not read it.
    """

    name: str
    title: str
    text: str
    variants: dict[str, Recipe]
    claims: tuple[Claim, ...] = ()
    rungs: tuple[Rung, ...] = ()
    start: str = "the notes' training"
    seeds: int = 3
    reads_test: bool = True


NAMES = ("week2", "ablation-mnist", "ablation-cifar", "ablation-cifar90k", "ablation-mnist4k", "ablation-mnist10k")


def find(name: str) -> Study:
    """The study of that name. Raises WrongUsage."""
    if name not in NAMES:
        raise WrongUsage(f"There is no study {name!r}. There are: {', '.join(NAMES)}.")
    found: Study = import_module(f"train.experiments.{name.replace('-', '_')}").STUDY
    return found
