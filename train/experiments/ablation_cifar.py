"""Ablations on CIFAR-10: from the notes' training of cifar93k to ours, and the shape of cifar90k.

    python -m train experiments ablation-cifar --seeds 2
    python -m train experiments ablation-cifar90k --seeds 1

Settings are chosen on the validation split.
"""

from dataclasses import replace

from train.experiments.study import Step, Study
from train.recipe import find

NOTES = replace(find("cifar93k.notes"), precision="bfloat16", epochs=8)
PLUS = replace(find("cifar93k.plus"), epochs=8)
SCHEDULE = replace(
    NOTES,
    optimizer=PLUS.optimizer,
    optimizer_options=PLUS.optimizer_options,
    schedule=PLUS.schedule,
    mean=PLUS.mean,
    sd=PLUS.sd,
)
NO_DROPOUT = replace(SCHEDULE, network_options={}, keras_defaults=False)
EMA = replace(NO_DROPOUT, ema=PLUS.ema)
AUGMENTED = replace(EMA, augment=PLUS.augment)

CIFAR93K = Study(
    name="ablation-cifar",
    title="cifar93k: from the notes' training to ours",
    text=(
        "The network of 92,901 parameters does not change, only its training. 8 epochs of the 45,000 images of the "
        "training split, batch 128, bfloat16, measured on the 5,000 images of the validation split. Such short runs "
        "favour settings that learn fast: they show the direction of a change in the final recipes, not its size."
    ),
    variants={
        "notes": NOTES,
        "schedule": SCHEDULE,
        "no-dropout": NO_DROPOUT,
        "ema": EMA,
        "augmented": AUGMENTED,
    },
    steps=(
        Step(
            "schedule",
            "notes",
            "SGD with Nesterov momentum and weight decay, one-cycle learning rate up to 0.3, normalised pixels",
            True,
        ),
        Step("no-dropout", "schedule", "no dropout, and torch's initial weights", True),
        Step(
            "ema",
            "no-dropout",
            "moving average of the weights, 0.999 per step; no gain in so short a run, because the average lags behind",
            True,
        ),
        Step("augmented", "ema", "shifts by up to 4 pixels instead of 3; no gain here, but in the final recipe", True),
    ),
    note=(
        "One more step was tried and its code removed: `branched`, which trains each convolution as a sum of branches "
        "that fold into one (RepVGG), gave 83.60 % on `augmented` (-0.58 points, one seed). The result in "
        "[`experiments/ablation-cifar/`](experiments/ablation-cifar) was made by commit 8914ede."
    ),
    seeds=2,
    reads_test=False,
)

FIRST = replace(find("cifar90k.plus"), epochs=6, network_options={})

CIFAR90K = Study(
    name="ablation-cifar90k",
    title="cifar90k: the shape of the network",
    text=(
        "Networks of at most 92,901 parameters and 12.5 million MACs, trained like cifar90k.plus but for 6 epochs of "
        "the 45,000 images of the training split, and measured on the 5,000 images of the validation split. This is "
        "enough to detect a difference of one point of accuracy, not of a tenth."
    ),
    variants={
        "first": FIRST,
        "linear": replace(FIRST, network_options={"relu": False}),
    },
    steps=(Step("linear", "first", "no ReLU after the sums; no worse, and less work", True),),
    start="a ReLU after the sum of every residual block",
    seeds=1,
    reads_test=False,
)

STUDIES = {study.name: study for study in (CIFAR93K, CIFAR90K)}
