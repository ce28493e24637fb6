"""What is trained on one's own images: network, augmentation, optimizer and epochs, as a `Recipe`."""

from dataclasses import dataclass
from typing import Any

from train.fit.data import OwnData
from train.recipe import OneCycle, Recipe
from zoo.errors import WrongUsage

SIZES = (28, 32, 64)
IMAGES_SEEN = 150_000  # by default, over all epochs
MIN_EPOCHS, MAX_EPOCHS = 20, 150
LABEL_SMOOTHING = 0.05


@dataclass(frozen=True)
class Architecture:
    """A network of `train/networks.py` for one's own images."""

    network: str
    sizes: tuple[int, ...]
    channels: tuple[int, ...]
    max_classes: int = 10_000

    def options(self, size: int, channels: int, classes: int) -> dict[str, Any]:
        if self.network == "mnist_stack":
            return {"classes": classes}
        if self.network == "cifar90k":
            return {"relu": False, "classes": classes, "channels": channels, "reduce": size == 64}
        return {"classes": classes, "channels": channels}


ARCHITECTURES = {
    "mnist14k": Architecture("mnist_stack", (28,), (1,), max_classes=10),
    "cifar90k": Architecture("cifar90k", SIZES, (1, 3)),
    "resnet8": Architecture("resnet8", SIZES, (1, 3)),
}


def recipe(name: str, data: OwnData, architecture: str | None, flip: bool) -> Recipe:
    """Return the recipe for the images, with the default number of epochs.

    Raises:
        WrongUsage: the architecture does not take such images.
    """
    size, channels, classes = data.input.height, data.input.channels, len(data.labels)
    small = (size, channels) == (28, 1) and classes <= 10
    architecture = architecture or ("mnist14k" if small else "cifar90k")
    chosen = ARCHITECTURES[architecture]
    if size not in chosen.sizes or channels not in chosen.channels or classes > chosen.max_classes:
        kinds = (
            f"{' or '.join(map(str, chosen.sizes))} pixels, {'grey' if chosen.channels == (1,) else 'grey or colour'}"
        )
        raise WrongUsage(
            f"{architecture} takes images of {kinds}, and at most {chosen.max_classes} classes; these are {size} "
            f"pixels, {'grey' if channels == 1 else 'colour'}, {classes} classes. Choose another --arch or --size."
        )
    train = data.part("train")
    values = train.images.float()
    mean, sd = values.mean((0, 1, 2)), values.std((0, 1, 2)).clamp(min=1.0)
    batch = 32 if len(train) < 5_000 else 64 if len(train) < 20_000 else 128
    epochs = max(MIN_EPOCHS, min(MAX_EPOCHS, IMAGES_SEEN // len(train)))
    adam = chosen.network == "mnist_stack"
    return Recipe(
        name=name,
        title=f"own images: {classes} classes, {architecture} at {size}x{size}",
        dataset=f"own-{data.sha256()[:16]}",
        network=chosen.network,
        network_options=chosen.options(size, channels, classes),
        epochs=epochs,
        batch_size=batch,
        optimizer="AdamW" if adam else "SGD",
        optimizer_options={"weight_decay": 0.01} if adam else {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        schedule=OneCycle(0.01 if adam else 0.1 * batch / 32),
        mean=tuple(round(x, 2) for x in mean.tolist()),
        sd=tuple(round(x, 2) for x in sd.tolist()),
        precision="bfloat16",
        ema=0.995,
        augment=augmentation(size, channels, flip),
        source=f"Trained by `zoo fit` on one's own images, architecture {architecture}.",
    )


def augmentation(size: int, channels: int, flip: bool) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Small turns, shifts and changes of colour for all; mirror images and hidden squares for photographs."""
    moves = {"degrees": 10.0, "scale": 0.15, "shear": 0.1, "pixels": round(size / 12, 1), "fade": 0.0}
    steps: list[tuple[str, dict[str, Any]]] = [("flip", {})] if flip else []
    steps.append(("affine", {**moves, "outside": "border"}))
    steps.append(("colour", {"light": 0.1, "contrast": 0.2, "tint": 0.1 if channels == 3 else 0.0}))
    if channels == 3:
        steps.append(("cutout", {"share": 0.35}))
    return tuple(steps)


def peak(recipe: Recipe) -> float:
    """The highest learning rate."""
    assert isinstance(recipe.schedule, OneCycle)
    return recipe.schedule.peak
