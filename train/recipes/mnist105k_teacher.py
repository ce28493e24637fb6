"""mnist105k.teacher: a teacher for distillation to smaller digit networks. It is not one of the shipped models.

    python -m train mnist105k.teacher --seed 0

The network of `python -m train mnist-fast` at twice the width, with the training of mnist14k.plus. It pools early and
therefore trains in two thirds of the time of mnist14k. Its calibration run reaches 99.50 % on the validation split
after 20 epochs. A student trained with it was no better than one without it (docs/accuracy.md, `distilled`). It was
never measured on the test set.
"""

from dataclasses import replace

from train.recipes import mnist14k_plus

RECIPE = replace(
    mnist14k_plus.RECIPE,
    name="mnist105k.teacher",
    title="wide network, teacher for distillation",
    network="mnist_fast",
    network_options={"width": 2},
    mean=(33.3,),  # of the training images
    sd=(78.6,),
    version="1.0.0",
    default=False,
    source="Own network, own training recipe (that of mnist14k.plus), trained from labels alone.",
)
