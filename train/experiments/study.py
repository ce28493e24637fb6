"""A study as data: variants of a recipe, with claims about them or ablation steps between them.

The studies are in `week2.py`, `ablation_mnist.py` and `ablation_cifar.py`.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from train.recipe import Recipe
from zoo.errors import WrongUsage

Expected = Literal["same", "more", "less", "no less", "at least", "none"]


@dataclass(frozen=True)
class Check:
    """One comparison that decides about a claim.

    Attributes:
        quantity: a key of `train.experiments.analysis.QUANTITIES`.
        variant: the variant whose quantity is judged.
        expected: "same": equal within ± margin. "more", "less": than the other variant. "no less": at most margin
            less than the other variant. "at least": the mean over seeds reaches a figure. "none": zero for every seed.
        against: another variant, compared seed by seed; for "at least" the figure to reach.
        margin: largest difference that counts as no difference, in the quantity's unit.
    """

    quantity: str
    variant: str
    expected: Expected
    against: str | float | None = None
    margin: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A claim of the course notes. It holds if all its checks hold."""

    title: str
    quote: str  # what the notes say
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Step:
    """A step of an ablation: `variant` differs from the variant `base` in one change, which `text` describes.

    `kept` says whether later steps and the final recipes include the change. It is decided by hand on the validation
    split; None if it is not decided yet.
    """

    variant: str
    base: str
    text: str
    kept: bool | None = None


@dataclass(frozen=True)
class Study:
    """Variants of a recipe that are trained with several seeds, to check claims or as an ablation.

    Every run trains on the training split and is measured on the validation split after every epoch. With `reads_test`
    the test set is read once, after the last epoch. An ablation chooses settings and therefore never reads it.
    """

    name: str
    title: str  # title and introduction of the study's section in the documentation
    text: str
    variants: dict[str, Recipe]
    claims: tuple[Claim, ...] = ()
    steps: tuple[Step, ...] = ()
    start: str = "the notes' training"  # describes the variant that the first step is based on
    note: str = ""  # printed below the steps
    seeds: int = 3
    reads_test: bool = True


MODULES = {  # study → module of `train.experiments` that defines it
    "week2": "week2",
    "ablation-mnist": "ablation_mnist",
    "ablation-cifar": "ablation_cifar",
    "ablation-cifar90k": "ablation_cifar",
    "ablation-mnist4k": "ablation_mnist",
    "ablation-mnist10k": "ablation_mnist",
}
NAMES = tuple(MODULES)


def find(name: str) -> Study:
    """Return the study of that name. Raises WrongUsage."""
    if name not in MODULES:
        raise WrongUsage(f"Unknown study {name!r}. Available: {', '.join(NAMES)}.")
    studies: dict[str, Study] = import_module(f"train.experiments.{MODULES[name]}").STUDIES
    return studies[name]
