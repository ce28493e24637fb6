"""The recipes of `python -m train mnist-fast`, one per target accuracy in percent on MNIST's test set. No torch import.

They were chosen on the validation split (`--calibration-run`) before any of them was measured on the test set. There
they reach 98.95 % and 99.33 % (mean of seeds 0 to 2 on one thread; no file records these runs). This is lower than the
targets because the validation split is harder: the runs in docs/experiments/week2, of other networks, have a higher
accuracy on the test set than on the validation split. That is the only information from the test set that was used.
"""

from dataclasses import replace

from train.recipe import OneCycle, Recipe

_SHORT = Recipe(
    name="mnist-fast.99.0",
    title="99.0 % on MNIST in seconds",
    dataset="mnist",
    network="mnist_fast",
    epochs=1,
    batch_size=192,
    optimizer="AdamW",
    optimizer_options={"weight_decay": 0.01, "betas": (0.9, 0.99)},
    schedule=OneCycle(0.02),
    mean=(33.3,),
    sd=(78.6,),
    precision="bfloat16",
    ema=0.98,
    source="Network and training are ours.",
)
RECIPES = {
    "99.0": _SHORT,
    "99.4": replace(
        _SHORT,
        name="mnist-fast.99.4",
        title="99.4 % on MNIST in seconds",
        epochs=5,
        batch_size=128,
        augment=(("affine", {"degrees": 7.0, "scale": 0.07, "shear": 0.07, "pixels": 1.05, "fade": 0.25}),),
    ),
}
