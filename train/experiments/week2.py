"""The eight claims of the course notes' week 2, as variants of mnist14k.notes.

python -m train experiments week2 --seeds 3
"""

from dataclasses import replace
from typing import Any

from train.experiments.study import Check, Claim, Study
from train.recipe import Constant, Recipe, find

BASE = replace(find("mnist14k.notes"), precision="bfloat16")
SMALL = (10, 10, 8, 8)  # 9,824 parameters


def variant(network_options: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    """Return the base recipe with other settings."""
    return replace(BASE, network_options=BASE.network_options | (network_options or {}), **settings)


WEEK2 = Study(
    name="week2",
    title="Week 2 of the course notes: eight claims about a small MNIST network",
    text=(
        "The network of 14,624 parameters and its variants, each trained for 20 epochs with the same seeds. The runs "
        "train on 55,000 images and are measured on the 5,000 images of the validation split after every epoch, and on "
        "the 10,000 test images once, after the last epoch. The accuracies are a little lower than those of models "
        "trained on all 60,000 images. Training steps compute in bfloat16 (torch's autocast; weights and statistics "
        "stay in float32), which takes two thirds of the time here. The notes trained each network once."
    ),
    variants={
        "base": BASE,
        "squeeze-first": variant({"squeeze_first": True}),
        "softmax-dropout": variant({"logit_dropout": 0.1}),
        "last-16": variant({"body": (16, 16, 16, 16)}),
        "small": variant({"body": SMALL}),
        "small-less-dropout": variant({"body": SMALL, "dropout": 0.03}),
        "small-large-batch": variant({"body": SMALL, "dropout": 0.03}, batch_size=512),
        "constant-rate": variant(schedule=Constant(0.003)),
    },
    claims=(
        Claim(
            "1x1 convolution before or after the max pool",
            "There is no difference between the 1x1 convolution before and after the max pool.",
            (Check("test_accuracy", "squeeze-first", "same", "base", 0.1),),
        ),
        Claim(
            "Dropout before the softmax",
            "It hides the generalisation gap: the training accuracy in the log falls, but the gap itself does not.",
            (
                Check("logged_gap", "softmax-dropout", "less", "base"),
                Check("gap", "softmax-dropout", "same", "base", 0.1),
            ),
        ),
        Claim(
            "Last convolution with 10 channels instead of 16",
            "Still 99.47 %: the 2,400 parameters make no difference.",
            (Check("test_accuracy", "base", "no less", "last-16", 0.1),),
        ),
        Claim(
            "Down to 9.9 thousand parameters",
            "99.4 %, barely, with less dropout and a larger batch.",
            (Check("test_accuracy", "small-large-batch", "at least", 99.4),),
        ),
        Claim(
            "A larger batch",
            "It reaches the same accuracy but fluctuates between epochs.",
            (
                Check("test_accuracy", "small-large-batch", "no less", "small-less-dropout", 0.1),
                Check("fluctuation", "small-large-batch", "more", "small-less-dropout"),
            ),
        ),
        Claim(
            "No learning rate schedule",
            "The accuracy fluctuates in the last epochs.",
            (Check("fluctuation", "constant-rate", "more", "base"),),
        ),
        Claim(
            "Less dropout in a smaller network",
            "The smaller network needs less dropout.",
            (Check("test_accuracy", "small-less-dropout", "more", "small"),),
        ),
        Claim(
            "Accuracy that never falls",
            "The accuracy of the submitted network increases monotonically (their own log falls at epoch 8).",
            (Check("falls", "base", "none"),),
        ),
    ),
)

STUDIES = {WEEK2.name: WEEK2}
