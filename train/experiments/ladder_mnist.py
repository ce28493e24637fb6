"""From the notes' training of mnist14k to ours, one change at a time, chosen on the validation split.

python -m train experiments ladder-mnist --seeds 3
"""

from dataclasses import replace

from train.experiments.study import Rung, Study
from train.recipe import find
from train.schedules import OneCycle

NOTES = replace(find("mnist14k.notes"), precision="bfloat16", epochs=15)
SCHEDULE = replace(NOTES, optimizer="AdamW", optimizer_options={"weight_decay": 0.01}, schedule=OneCycle(0.01))
NO_DROPOUT = replace(SCHEDULE, network_options={}, keras_defaults=False)
EMA = replace(NO_DROPOUT, ema=0.999)
AUGMENTED = replace(
    EMA, augment=(("affine", {"degrees": 10.0, "scale": 0.1, "shear": 0.1, "pixels": 1.5, "fade": 0.25}),)
)
STRONGER = replace(
    EMA, augment=(("affine", {"degrees": 15.0, "scale": 0.15, "shear": 0.2, "pixels": 2.0, "fade": 0.25}),)
)
SMALLER_BATCH = replace(AUGMENTED, batch_size=64)
BRANCHED = replace(AUGMENTED, branches=1)

STUDY = Study(
    name="ladder-mnist",
    title="mnist14k: from the notes' training to ours",
    text=(
        "The network of 14,624 parameters as it is; only its training changes. 15 epochs of the 55,000 images of the "
        "training split, batch 128, steps in bfloat16, measured on the 5,000 images of the validation split."
    ),
    variants={
        "notes": NOTES,
        "schedule": SCHEDULE,
        "no-dropout": NO_DROPOUT,
        "ema": EMA,
        "augmented": AUGMENTED,
        "stronger": STRONGER,
        "batch-64": SMALLER_BATCH,
        "branched": BRANCHED,
    },
    rungs=(
        Rung("schedule", "notes", "AdamW and one cycle of the learning rate up to 0.01"),
        Rung("no-dropout", "schedule", "no dropout, and torch's initial weights"),
        Rung("ema", "no-dropout", "moving average of the weights, 0.999 a step"),
        Rung("augmented", "ema", "turns, shears, sizes and shifts, faded away in the last quarter"),
        Rung("stronger", "augmented", "half as much again of each"),
        Rung("batch-64", "augmented", "half the batch, at the same rates"),
        Rung("branched", "augmented", "branches that fold: 3x3, 1x1 and identity, each with a batch norm"),
    ),
    reads_test=False,
)
