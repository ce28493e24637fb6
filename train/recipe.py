"""Recipe: everything that determines a model's weights, as data. Recipes are in `train/recipes/`, one file each."""

import json
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from zoo.errors import WrongUsage

# Learning rate schedules: each is called with the progress in epochs (a float) and returns a learning rate.


@dataclass(frozen=True)
class InverseTime:
    """`initial / (1 + decay · epoch)`, constant within an epoch. The course notes' formula; epochs count from 0."""

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


# Settings that were added later, with their defaults. Older runs and cards do not have them, so defaults are left out.
ADDED_SETTINGS: dict[str, Any] = {"precision": "float32", "ema": 0.0, "distill": {}}


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        name: `NETWORK.RECIPE`, also the model's name in the zoo.
        title: short description, shown by `zoo list`.
        dataset: "mnist" or "cifar10".
        network, network_options: a function of `train/networks.py` and its arguments.
        keras_defaults: use Keras' initial weights and batch-norm settings instead of torch's.
        optimizer, optimizer_options: a class of `torch.optim` and its arguments without the learning rate.
        schedule: learning rate by progress.
        batch_size: images per step; the last batch of an epoch may be smaller.
        mean, sd: the network input is `(pixel - mean) / sd`, one value per channel, in units of 0 to 255.
        precision: precision of the training steps. "bfloat16" is torch's autocast: convolutions and activations in 16
            bits; weights, optimizer and batch-norm statistics in 32. On processors that would emulate bfloat16 the
            steps are float32 (`train/precision.py`). Evaluation is always float32.
        augment: names of functions of `train/augment.py` with their arguments, applied in this order to whole batches.
        ema: decay per step of an exponential moving average of weights and batch-norm statistics. The average is
            measured and shipped. 0 for none.
        distill: `{"teacher": name of a recipe, "share": ..., "temperature": ...}` to learn from the teacher's seed 0
            too (`train/distill.py`). Empty to learn from the labels only.
        default: whether a bare `NETWORK` means this recipe.
        source: where network and settings come from, and what the source does not state.
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
    distill: dict[str, Any] = field(default_factory=dict)
    default: bool = False
    version: str = "1.0.0"

    @property
    def architecture(self) -> str:
        return self.name.split(".")[0]

    def settings(self) -> dict[str, Any]:
        """Return the settings that determine the weights, as plain JSON types, for the run's config and the card."""
        settings = asdict(self)
        settings["schedule"] = {"kind": type(self.schedule).__name__, **asdict(self.schedule)}
        for card_field in ("title", "default", "source", "version"):
            del settings[card_field]
        for name, default in ADDED_SETTINGS.items():
            if settings[name] == default:
                del settings[name]
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain


def names() -> list[str]:
    """Return the names of all recipes in alphabetical order."""
    files = (Path(__file__).parent / "recipes").glob("[!_]*.py")
    return sorted(".".join(file.stem.rsplit("_", 1)).replace("_", "-") for file in files)


def find(name: str) -> Recipe:
    """Return the recipe of that name; a bare architecture means its default recipe. Raises WrongUsage."""
    if name in names():
        module = name.replace("-", "_").replace(".", "_")
        named: Recipe = import_module(f"train.recipes.{module}").RECIPE
        return named
    for candidate in names():
        if candidate.split(".")[0] == name and (recipe := find(candidate)).default:
            return recipe
    raise WrongUsage(f"Unknown recipe {name!r}. Available: {', '.join(names())}.")
