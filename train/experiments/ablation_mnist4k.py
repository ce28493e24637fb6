"""The shape and the training of mnist4k, chosen on the validation split.

python -m train experiments ablation-mnist4k --seeds 1
"""

from dataclasses import replace

from train.experiments.ablation_mnist import NOISE, TONE_BENT
from train.experiments.study import Rung, Study
from train.recipe import OneCycle

FIRST = replace(TONE_BENT, network="mnist4k")

STUDY = Study(
    name="ablation-mnist4k",
    title="mnist4k: the shape of the network and its training",
    text=(
        "Networks of at most 4,000 parameters, trained as `tone-bent` of mnist14k is: 15 epochs of the 55,000 images "
        "of the training split, measured on the 5,000 images of the validation split."
    ),
    variants={
        "first": FIRST,
        "skips": replace(FIRST, network_options={"skips": True}),
        "rate-0.02": replace(FIRST, schedule=OneCycle(0.02)),
        "no-tone": replace(FIRST, augment=FIRST.augment[:1]),
        "noise-0.2": replace(FIRST, augment=NOISE[0.2].augment),
    },
    rungs=(
        Rung(
            "skips",
            "first",
            "after the pool two residual blocks and one convolution between: no gain that one seed could show",
            False,
        ),
        Rung("rate-0.02", "first", "twice the rate: no gain that one seed could show", False),
        Rung("no-tone", "first", "the images' light as it is: it costs corrupted images", False),
        Rung("noise-0.2", "first", "Gaussian noise of up to 0.2 of white on top", True),
    ),
    start="six separable convolutions in a row",
    seeds=1,
    reads_test=False,
)
