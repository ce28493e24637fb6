"""cifar90k.plus: a network of our own within cifar93k's parameters and resnet8's MACs. Not trained yet.

python -m train cifar90k.plus --seed 0
"""

from dataclasses import replace

from train.recipes import cifar93k_plus

RECIPE = replace(
    cifar93k_plus.RECIPE,
    name="cifar90k.plus",
    title="a residual separable network of our own with 92,634 parameters",
    network="cifar90k",
    network_options={"relu": False},
    default=True,
    source="Network and training are ours; the training is that of cifar93k.plus.",
)
