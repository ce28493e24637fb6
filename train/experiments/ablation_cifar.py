"""From the notes' training of cifar93k to ours, one change at a time, chosen on the validation split.

python -m train experiments ablation-cifar --seeds 2
"""

from dataclasses import replace

from train.experiments.study import Rung, Study
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

STUDY = Study(
    name="ablation-cifar",
    title="cifar93k: from the notes' training to ours",
    text=(
        "The network of 92,901 parameters as it is; only its training changes. 8 epochs of the 45,000 images of the "
        "training split, batch 128, steps in bfloat16, measured on the 5,000 images of the validation split. So short "
        "a training favours what learns fast: of the final recipes it tells the direction, not the gain."
    ),
    variants={
        "notes": NOTES,
        "schedule": SCHEDULE,
        "no-dropout": NO_DROPOUT,
        "ema": EMA,
        "augmented": AUGMENTED,
        "branched": replace(AUGMENTED, branches=1),
    },
    rungs=(
        Rung(
            "schedule",
            "notes",
            "SGD with Nesterov's momentum and weight decay, one cycle of the rate up to 0.3, pixels normalised",
            True,
        ),
        Rung("no-dropout", "schedule", "no dropout, and torch's initial weights", True),
        Rung(
            "ema",
            "no-dropout",
            "moving average of the weights, 0.999 a step: no gain in so short a training, which it lags behind",
            True,
        ),
        Rung("augmented", "ema", "shifts by up to 4 pixels instead of 3: no gain seen, the final recipe has it", True),
        Rung(
            "branched", "augmented", "the identity beside pointwise convolutions, each with a batch norm, folded", False
        ),
    ),
    seeds=2,
    reads_test=False,
)
