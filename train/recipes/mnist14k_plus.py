"""mnist14k.plus: the network of mnist14k.notes, trained our way. Not trained yet: its settings are a beginning.

python -m train mnist14k.plus --seed 0
"""

from train.recipe import Recipe
from train.schedules import OneCycle

RECIPE = Recipe(
    name="mnist14k.plus",
    title="the course notes' week-2 network, trained our way",
    dataset="mnist",
    network="mnist_stack",
    epochs=20,
    batch_size=64,
    optimizer="AdamW",
    optimizer_options={"weight_decay": 0.01},
    schedule=OneCycle(0.01),
    precision="bfloat16",
    ema=0.999,
    augment=(("affine", {"degrees": 10.0, "scale": 0.1, "shear": 0.1, "pixels": 1.5, "fade": 0.25}),),
    source="The inference graph of mnist14k.notes: 14,624 parameters. The training is ours.",
)
