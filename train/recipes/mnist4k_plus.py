"""mnist4k.plus: a network of our own with 3,842 parameters.

python -m train mnist4k.plus --seed 0
"""

from dataclasses import replace

from train.recipes import mnist14k_plus

RECIPE = replace(
    mnist14k_plus.RECIPE,
    name="mnist4k.plus",
    title="a separable network of our own with 3,842 parameters",
    network="mnist4k",
    epochs=40,
    version="1.0.0",
    source="Network and training are ours; the training is that of mnist14k.plus, twice as long.",
)
