"""Recipe: all that decides a model's weights, as data. Recipes live in `train/recipes/`, one file each."""

import json
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from zoo.errors import WrongUsage

# Learning-rate schedules as data: each is called with the progress in epochs (a float) and gives a learning rate.


@dataclass(frozen=True)
class InverseTime:
    """`initial / (1 + decay · epoch)`, constant within an epoch: the course notes' formula, epochs counted from 0."""

    initial: float
    decay: float

    def __call__(self, progress: float, epochs: int) -> float:
        return self.initial / (1 + self.decay * int(progress))


@dataclass(frozen=True)
class Constant:
    """The same learning rate throughout."""

    rate: float

    def __call__(self, progress: float, epochs: int) -> float:
        return self.rate


@dataclass(frozen=True)
class OneCycle:
    """Linear from 0 to `peak` over the first `warmup` of the run, then linear to 0 (Smith, arXiv 1708.07120)."""

    peak: float
    warmup: float = 0.2

    def __call__(self, progress: float, epochs: int) -> float:
        done = progress / epochs
        return self.peak * (done / self.warmup if done < self.warmup else (1 - done) / (1 - self.warmup))


Schedule = InverseTime | Constant | OneCycle


# Fields that recipes did not always have, and what they were then: runs and cards from before say nothing of them.
ADDED = {"precision": "float32", "ema": 0.0, "branches": 0, "distill": {}}


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    name: `ARCHITECTURE.RECIPE`, also the model's name in the zoo.
    title: one line for people, as `zoo list` shows it.
    dataset: "mnist" or "cifar10".
    network, network_options: a function of `train/networks.py` and its arguments.
    keras_defaults: start from Keras' initial weights and batch-norm settings instead of torch's.
    optimizer, optimizer_options: a class of `torch.optim` and its arguments without the learning rate.
    schedule: learning rate by progress.
    batch_size: images a step; the last batch of an epoch may be smaller.
    mean, sd: the input is `(pixel - mean) / sd`, one value a channel, in units of 0 to 255.
    precision: in which a training step computes; "bfloat16" is torch's autocast: convolutions and activations in 16
        bits, weights, optimizer and batch-norm statistics in 32. Where the processor would have to emulate it, the
        steps are float32 too (`train/loop.py`). Measuring is float32 always.
    augment: names of functions of `train/augment.py` with their arguments, applied in this order to whole batches.
    ema: decay of an exponential moving average of weights and batch-norm statistics, a step; the average is what is
        measured and shipped. 0 for none.
    branches: how often each convolution with a batch norm is there while it learns, beside smaller branches; they are
        folded into one before the weights are written (`train/branches.py`). 0 for the network as it is.
    distill: {"teacher": the name of a recipe, "share", "temperature"}: learn from its seed 0 too (`train/distill.py`).
        Empty for the labels alone.
    default: whether a bare `ARCHITECTURE` means this recipe.
    source: where network and settings come from, and what was not stated there.
    """

    name: str
    title: str
    dataset: str
    network: str
    epochs: int
    batch_size: int
    optimizer: str
    schedule: Schedule
    source: str
    network_options: dict[str, Any] = field(default_factory=dict)
    keras_defaults: bool = False
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.0,)
    sd: tuple[float, ...] = (255.0,)
    augment: tuple[tuple[str, dict[str, Any]], ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"
    ema: float = 0.0
    branches: int = 0
    distill: dict[str, Any] = field(default_factory=dict)
    default: bool = False
    version: str = "1.0.0"

    @property
    def architecture(self) -> str:
        return self.name.split(".")[0]

    def settings(self) -> dict[str, Any]:
        """What a run must agree with to be resumed, and what the card tells of the training, as plain JSON types."""
        told = asdict(self)
        told["schedule"] = {"kind": type(self.schedule).__name__, **asdict(self.schedule)}
        for card_field in ("title", "default", "source", "version"):
            del told[card_field]
        for added, before in ADDED.items():
            if told[added] == before:
                del told[added]
        return json.loads(json.dumps(told))


def names() -> list[str]:
    """The names of all recipes, in alphabetical order."""
    files = (Path(__file__).parent / "recipes").glob("[!_]*.py")
    return sorted(".".join(file.stem.rsplit("_", 1)).replace("_", "-") for file in files)


def find(name: str) -> Recipe:
    """The recipe of that name; a bare architecture means its default recipe. Raises WrongUsage."""
    module = name.replace("-", "_").replace(".", "_")
    if name in names():
        return import_module(f"train.recipes.{module}").RECIPE
    for candidate in names():
        if candidate.split(".")[0] == name and (recipe := find(candidate)).default:
            return recipe
    raise WrongUsage(f"There is no recipe {name!r}. There are: {', '.join(names())}.")
