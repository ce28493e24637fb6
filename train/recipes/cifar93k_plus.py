"""cifar93k.plus: the network of cifar93k.notes, trained our way. Not trained yet: its settings are a beginning.

python -m train cifar93k.plus --seed 0
"""

from train.recipe import Recipe
from train.schedules import OneCycle

RECIPE = Recipe(
    name="cifar93k.plus",
    title="the course notes' week-3 separable network, trained our way",
    dataset="cifar10",
    network="cifar93k",
    epochs=100,
    batch_size=128,
    optimizer="SGD",
    optimizer_options={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    schedule=OneCycle(0.3),
    mean=(125.3, 123.0, 113.9),  # of the training images
    sd=(63.0, 62.1, 66.7),
    precision="bfloat16",
    ema=0.999,
    augment=(("flip", {}), ("shift", {"pixels": 4})),
    source="The inference graph of cifar93k.notes: 92,901 parameters. The training is ours.",
)
