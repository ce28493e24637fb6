"""mnist105k.teacher: what small digit networks learn from. Not in the zoo: it is here to teach.

    python -m train mnist105k.teacher --seed 0

The network of `python -m train mnist-fast`, twice as wide, trained as mnist14k.plus is: it pools early, so that it
trains in two thirds of the time that mnist14k takes. Its twin reads 99.50 % of the validation images after 20 epochs,
and a student no more than without it (docs/accuracy.md, `distilled`). It was never measured on the test set.
"""

from dataclasses import replace

from train.recipes import mnist14k_plus

RECIPE = replace(
    mnist14k_plus.RECIPE,
    name="mnist105k.teacher",
    title="a wide network that pools early, a teacher of smaller ones",
    network="mnist_fast",
    network_options={"width": 2},
    mean=(33.3,),  # of the training images
    sd=(78.6,),
    version="1.0.0",
    default=False,
    source="Network and training are ours; the training is that of mnist14k.plus, from labels alone.",
)
